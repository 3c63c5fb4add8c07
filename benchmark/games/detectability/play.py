"""The detectability game (Pick your Poison, Alg. 2): one suspect model, one detector.

A population is made of many such examinations. Its ROC AUC and the literal game, in which a
fair coin chooses the model, follow from the scores; see `benchmark.games.detectability.frames`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import clock
from benchmark.api import Detection, Detector
from benchmark.classifier import Classifier
from benchmark.games import checks
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.experiment import Experiment, Progress
from benchmark.games.transfer import covers_too_much, true_masks
from benchmark.images import to_unit
from benchmark.training import mixed_precision


@dataclass(frozen=True)
class Scan:
    """One examination of a suspect.

    Attributes:
        detection: what the detector returned.
        seconds: what it took.
        reversed_answers: int16 (2, N), what the suspect says to the test images with the
            trigger reversed for the attack's target: as it is, and restricted to the pixels
            that the true trigger changes on each image (ReASR of Li et al.); (1, N) where these
            are most of the image, which restricts nothing. None where there is no such trigger.
    """

    detection: Detection
    seconds: float
    reversed_answers: NDArray[np.int16] | None


def examine(
    experiment: Experiment,
    evaluation_set: EvaluationSet,
    suspect: Classifier,
    detector: Detector,
    *,
    share: float,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> list[Scan]:
    """Let the detector examine the suspect once per repetition of the protocol.

    The clean and the poisoned models of one seed meet the same trusted images and the same
    randomness, and the detector is not told which it is examining: it gets a copy of the
    model, the trusted images and a generator.

    Raises:
        RuleViolation: the detector returned what the rules do not allow.
    """
    assert experiment.protocol.detectability is not None
    repeats = experiment.protocol.detectability.repeats
    found: list[tuple[Detection, float]] = []
    for repeat in range(repeats):
        names = (detector.name, share, seed, repeat)
        model = suspect.private_copy()
        trusted = experiment.trusted(share, seed, repeat)
        torch.manual_seed(experiment.protocol.seed("global", "detect", *names))
        started = clock.seconds(experiment.device)
        detection = detector.detect(model, trusted, experiment.rng("detect", *names))
        seconds = clock.seconds(experiment.device) - started
        detection = checks.detection(
            detection, experiment.shape, len(experiment.class_names), detector
        )
        found.append((detection, seconds))
        progress(repeat + 1, repeats)
    checks.same_readings([detection for detection, _ in found], detector)
    # Only now do reversed triggers, which are the detector's code, meet test images.
    return [
        Scan(
            detection,
            seconds,
            _answers_to_reversed(experiment, evaluation_set, suspect, detection, detector),
        )
        for detection, seconds in found
    ]


@torch.inference_mode()
def _answers_to_reversed(
    experiment: Experiment,
    evaluation_set: EvaluationSet,
    suspect: Classifier,
    detection: Detection,
    detector: Detector,
) -> NDArray[np.int16] | None:
    if detection.trigger is None or not len(evaluation_set.triggered):
        return None
    masks = true_masks(evaluation_set)
    restricting = not covers_too_much(masks)
    found, size = [], max(1, experiment.images_per_pass // 10)
    for pixels, mask in zip(evaluation_set.test.pixels.split(size), masks.split(size), strict=True):
        images = to_unit(pixels)
        whole = detection.trigger.apply(images.clone())[evaluation_set.target]
        whole = checks.images(whole, images, f"{detector.name}'s trigger")
        shown = [whole]
        if restricting:
            shown.append(torch.where(mask[:, None], whole, images))
        with mixed_precision(images.device, experiment.recipe.precision):
            found.append(suspect(torch.cat(shown)).argmax(1).view(len(shown), -1))
    answers: NDArray[np.int16] = torch.cat(found, 1).cpu().numpy().astype(np.int16)
    return answers
