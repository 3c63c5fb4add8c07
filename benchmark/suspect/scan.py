"""Detectors on a suspect: what each found, whether that is a backdoor, and how it looks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.api import Detection, Detector
from benchmark.errors import UserError
from benchmark.games import checks
from benchmark.images import to_bytes, to_unit
from benchmark.inversion import success
from benchmark.protocol import named_seed
from benchmark.registry import Registry
from benchmark.specs import label
from benchmark.suspect.adapter import ModelError, told
from benchmark.suspect.estimate import (
    check_gradient,
    counting,
    fitted,
    passes,
    seconds_per_image,
)
from benchmark.suspect.findings import Finding, Scan
from benchmark.suspect.images import album_of
from benchmark.suspect.population import compare
from benchmark.suspect.settings import create, defaults
from benchmark.suspect.suspect import Suspect, global_seed, narrowed, prepare
from benchmark.triggers import Patch

#: Called with a detector, and how many images it has sent through the model.
Progress = Callable[[str, int], None]

#: So many images are shown with the reversed trigger.
SHOWN = 4


def scan(
    model: nn.Module,
    images: Tensor | NDArray[np.generic],
    labels: Tensor | Sequence[int],
    *,
    detectors: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    anyway: bool = False,
) -> Scan:
    """Look for a backdoor in a model.

    Args:
        model: gives logits (B, K) by a linear layer at its end; it stays as it is.
        images: clean ones that you trust, (N, C, H, W), uint8 or floats in [0, 1].
        labels: (N,), the model's output for each.
        detectors: by name and settings, as on the command line; by default those that the size
            of the images allows.
        class_names: of the model's outputs.
        only: examine it as a classifier of these classes alone.
        mean, std: what the model's images are normalised by, per channel; by default the usual
            ones are tried.
        anyway: examine a model that only guesses, too.

    Raises:
        UserError: model, images or detectors do not fit, in one sentence.
    """
    album = album_of(images, labels, class_names)
    suspect = prepare(model, album, mean=mean, std=std, anyway=anyway, device=device_of(model))
    if only:
        suspect = narrowed(suspect, only)
    registry = Registry()
    named = defaults(suspect.trusted.pixels.shape[1:]) if detectors is None else detectors
    chosen = [create(registry, Detector, spec) for spec in named]
    return examine(suspect, fit(chosen, suspect))


def device_of(model: nn.Module) -> torch.device:
    """Where the weights of a model are, the CPU where it has none.

    Raises:
        ModelError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is {model!r:.60}, expected a torch.nn.Module")
    return next((weights.device for weights in model.parameters()), torch.device("cpu"))


def fit(detectors: Sequence[Detector], suspect: Suspect) -> list[Detector]:
    """The detectors with batches that fit into memory beside this suspect.

    Raises:
        ModelError: not even the smallest do, or the suspect has no gradient to reverse triggers by.
    """
    model, shape = suspect.model, suspect.trusted.pixels.shape[1:]
    found = [fitted(detector, model, shape, model.classes) for detector in detectors]
    check_gradient(model, suspect.trusted)
    return found


def forecast(
    suspect: Suspect, detectors: Sequence[Detector]
) -> dict[str, tuple[int | None, float | None]]:
    """Images that each detector will send through the model, and seconds, at most, if known."""
    each = seconds_per_image(suspect.model, suspect.trusted)
    counts = {
        label(one): passes(one, suspect.trusted.labels, suspect.model.classes) for one in detectors
    }
    return {name: (count, count and count * each) for name, count in counts.items()}


def examine(
    suspect: Suspect,
    detectors: Sequence[Detector],
    *,
    title: str = "model",
    architecture: str | None = None,
    populations: Sequence[Any] = (),
    progress: Progress = lambda name, done: None,
) -> Scan:
    """Let every detector examine a copy of the suspect; one that fails costs only itself.

    Args:
        architecture: text of the suspect's, by which clean models of its kind are known.
        populations: folders of runs or boards where those may be.
    """
    findings, notes = [], list(suspect.notes)
    for detector in detectors:
        finding = _examined(suspect, detector, progress)
        if finding.score is not None and architecture:
            classes = len(suspect.class_names)
            try:
                found = compare(detector, finding.score, architecture, classes, populations)
                finding = dataclasses.replace(finding, comparison=found)
            except Exception as error:  # of a damaged record; what was found is not lost
                why = str(error) if isinstance(error, UserError) else told(error)
                notes.append(f"compared with no clean models: {why}")
        findings.append(finding)
    return Scan(
        title,
        suspect.class_names,
        tuple(suspect.trusted.pixels.shape[1:]),
        len(suspect.trusted),
        suspect.accuracy,
        tuple(notes),
        tuple(findings),
    )


def _examined(suspect: Suspect, detector: Detector, progress: Progress) -> Finding:
    name, done, started = label(detector), 0, time.perf_counter()
    device, shape = suspect.trusted.device, suspect.trusted.pixels.shape[1:]

    def count(images: int) -> None:
        nonlocal done
        done += images
        progress(name, done)

    try:
        model = suspect.model.private_copy()
        rng = torch.Generator(device).manual_seed(named_seed("scan", name))
        seeded = global_seed(device, "scan", name)
        with counting(model, count), seeded, torch.enable_grad():
            detection = detector.detect(model, suspect.trusted.copy(), rng)
        checked = checks.detection(
            detection, (shape[0], shape[1], shape[2]), len(suspect.class_names), detector
        )
        # Its trigger is its code, too.
        return _finding(suspect, name, checked, time.perf_counter() - started)
    except Exception as error:  # a plugin may raise anything; what others find is not lost
        what = told(error, 300)
        return Finding(name, time.perf_counter() - started, error=what)


@torch.no_grad()
def _finding(suspect: Suspect, name: str, detection: Detection, seconds: float) -> Finding:
    guess = int(detection.class_scores.argmax())
    found = Finding(
        name,
        seconds,
        float(detection.score),
        suspect.class_names[guess],
        dict(zip(suspect.class_names, detection.class_scores.tolist(), strict=True)),
        detection.flagged,
        dict(detection.also),
    )
    if detection.trigger is None:
        return found
    trusted, classes = suspect.trusted, torch.arange(len(suspect.class_names))
    one = classes[guess : guess + 1].to(trusted.device)
    trigger, norms = detection.trigger.take(one), detection.trigger.norms.float().cpu()
    usual = float(norms.quantile(0.5))
    # Who scores by something else may have no trigger for most classes, and so no usual size.
    by_norm = usual > 0 and torch.allclose(detection.class_scores.float().cpu(), -norms)
    others = (trusted.labels != guess).nonzero().flatten()[:SHOWN]
    before = trusted.pixels[others]
    after = to_bytes(trigger.apply(to_unit(before))[0])
    return dataclasses.replace(
        found,
        success=float(success(suspect.model, trigger, one, trusted)),
        # Of a mask alone the norm is a number of pixels.
        size=float(trigger.norms) / trigger.mask.numel() if isinstance(trigger, Patch) else None,
        relative=float(norms[guess]) / usual if by_norm else None,
        pictures=torch.stack([before, after]).cpu().numpy(),
    )
