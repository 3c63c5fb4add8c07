"""The inversion game (Sun and Kolter, Tab. 2): one clean image, the trigger back.

An inverter gets the model, a single image of another class and the target. What it finds is
judged by its success on other images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import clock
from benchmark.api import Images, Inverter, Starts
from benchmark.classifier import Classifier
from benchmark.games import checks
from benchmark.games.experiment import Experiment, Progress
from benchmark.games.inversion.data import InversionData
from benchmark.games.inversion.score import best
from benchmark.games.inversion.settings import Inversion
from benchmark.games.transfer import Hits, Judge, covers_too_much
from benchmark.images import to_bytes, to_unit
from benchmark.metrics import attacked
from benchmark.triggers import Trigger

#: How many inversions share a call where all classes are tried.
INVERSIONS_AT_ONCE = 500

#: Makes an inverter with some of its parameters set to these numbers.
Configure = Callable[[Mapping[str, float]], Inverter]


@dataclass(frozen=True)
class Attempt:
    """One run of one configuration from every start image.

    Attributes:
        params: the configuration.
        restart: 0 where the method began as it prescribes.
        selection, evaluation: bool (S, N), which images get the target under each of the S
            triggers, those of the target class included.
        trail: triggers after 1, 2, 4, ... steps and the last one, by number of steps.
    """

    params: dict[str, float]
    restart: int
    selection: Hits
    evaluation: Hits
    trail: dict[int, Trigger]

    @property
    def trigger(self) -> Trigger:
        return self.trail[max(self.trail)]


@dataclass(frozen=True)
class Outcome:
    """All that was seen in one game.

    Attributes:
        restricted: bool (S, N), evaluation images put into the target by the part of each start
            image's chosen trigger on the true trigger's pixels of that image (ReASR of Li et
            al.); None where the true trigger covers too much.
        on_clean_model: bool (S, N), images that the clean model puts there under the chosen
            trigger.
        classes: by radius, which is None for an inverter without one, bool (S', K, N): which
            evaluation images each class's trigger from each of the first start images puts there.
        smoothed: by noise level, int16 (2, N): the smoothed classifier's answers to clean and
            to triggered evaluation images; empty where the inverter smoothes nothing.
        inverted: (S, C, H, W) and `trail`, by number of steps: start images with the chosen
            triggers on them.
        seconds: what the inverter took, without the judging.
    """

    data: InversionData
    attempts: list[Attempt]
    restricted: Hits | None
    on_clean_model: Hits
    classes: dict[float | None, Hits]
    smoothed: dict[float, NDArray[np.int16]]
    inverted: Images
    trail: dict[int, Images]
    seconds: float


def play(
    experiment: Experiment,
    view: InversionData,
    suspect: Classifier,
    clean: Classifier,
    configure: Configure,
    game: Inversion,
    *,
    seed_parts: tuple[object, ...],
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Let the inverter run all its configurations, then all classes, and judge what it found.

    Args:
        clean: the clean model of the same repetition, for comparison.
        seed_parts: names that the randomness depends on.

    Raises:
        RuleViolation: the inverter returned what the rules do not allow.
    """
    spent = 0.0
    plain = configure({})
    judge = Judge(experiment, suspect)
    begin = to_unit(view.starts.pixels)
    targets = torch.full((len(begin),), view.target, device=experiment.device)
    todo = game.attempts(plain.name)
    radii, every = (
        game.sweep(vars(plain)),
        torch.arange(len(experiment.class_names), device=experiment.device),
    )
    # All classes are as much work as K attempts.
    total = len(todo) + len(radii) * len(every) + len(game.sigmas)

    def invert(inverter: Inverter, starts: Starts, *names: object) -> dict[int, Trigger]:
        nonlocal spent
        purpose = ("invert", *seed_parts, *names)
        torch.manual_seed(experiment.protocol.seed("global", *purpose))
        model = suspect.private_copy()
        started = clock.seconds(experiment.device)
        found = trail(inverter, model, starts, experiment.rng(*purpose))
        spent += clock.seconds(experiment.device) - started
        return found

    attempts = []
    for number, (params, restart) in enumerate(todo):
        starts = Starts(begin.clone(), targets.clone(), restart)
        found = invert(configure(params), starts, sorted(params.items()), restart)
        last = found[max(found)]
        attempts.append(
            Attempt(
                params,
                restart,
                judge.hits(last, targets, view.selection, plain.name),
                judge.hits(last, targets, view.evaluation, plain.name),
                found,
            )
        )
        progress(number + 1, total)
    first = np.stack([attempt.selection for attempt in attempts if not attempt.restart])
    chosen = best(first, attacked(view.selection.labels, view.target, view.source).cpu().numpy())
    pick = [(attempts[number], row) for row, number in enumerate(chosen)]

    classes: dict[float | None, Hits] = {}
    for radius in radii:
        inverter = plain if radius is None else configure({"epsilon": radius})
        # Few start images at a time where there are many classes, for the memory.
        parts = begin[: game.curve_starts].split(max(1, INVERSIONS_AT_ONCE // len(every)))
        rows = []
        for number, part in enumerate(parts):
            wanted = every.repeat(len(part))
            starts = Starts(part.repeat_interleave(len(every), 0), wanted.clone())
            found = invert(inverter, starts, "classes", radius, number)
            hits = judge.hits(found[max(found)], wanted, view.evaluation, plain.name)
            rows.append(hits.reshape(len(part), len(every), -1))
        classes[radius] = np.concatenate(rows)
        progress(len(todo) + len(classes) * len(every), total)

    # As files would hold them, and as the evidence does.
    inverted = to_unit(to_bytes(_picked(pick, begin)))
    data, who, clean_judge = view.evaluation, "the inverter", Judge(experiment, clean)

    def hits_of_chosen(judge: Judge, masks: Tensor | None = None) -> Hits:
        rows = [judge.hits(one.trigger, targets, data, who, row, masks) for one, row in pick]
        return np.concatenate(rows)

    restricted = None if covers_too_much(view.masks) else hits_of_chosen(judge, view.masks)
    on_clean_model = hits_of_chosen(clean_judge)
    # Last, since the inverter's own code meets test images here.
    smoothed = {}
    for number, sigma in enumerate(game.sigmas):
        answers = _smoothed_answers(experiment, plain, suspect, view, sigma, seed_parts)
        if answers is not None:
            smoothed[sigma] = answers
        progress(total - len(game.sigmas) + number + 1, total)
    return Outcome(
        data=view,
        attempts=attempts,
        restricted=restricted,
        on_clean_model=on_clean_model,
        classes=classes,
        smoothed=smoothed,
        inverted=inverted,
        trail=_trail_of(pick, begin),
        seconds=spent,
    )


def trail(
    inverter: Inverter, model: Classifier, starts: Starts, rng: torch.Generator
) -> dict[int, Trigger]:
    """Run an inverter; its triggers after 1, 2, 4, ... steps and after the last one."""
    kept: dict[int, Trigger] = {}
    step, trigger, who = 0, None, f"{inverter.name}.invert"
    begin = starts.images.clone()
    found = inverter.invert(model, starts, rng)
    if not isinstance(found, Iterator):
        raise checks.RuleViolation(f"{who} must yield triggers, got {type(found).__name__}")
    for step, trigger in enumerate(found, start=1):
        if step & (step - 1) == 0:
            kept[step] = checks.reversed_trigger(trigger, begin, who)
    if not step:
        raise checks.RuleViolation(f"{who} must yield at least one trigger")
    return kept | {step: checks.reversed_trigger(trigger, begin, who)}


def _picked(pick: Sequence[tuple[Attempt, int]], begin: Images, step: int | None = None) -> Images:
    """Start images with the picked triggers, every one under its own, after a step or the last."""
    triggers = [one.trigger if step is None else one.trail[step] for one, _ in pick]
    rows = [row for _, row in pick]
    return torch.cat(
        [one.apply(begin[row : row + 1])[row] for one, row in zip(triggers, rows, strict=True)]
    )


def _trail_of(pick: Sequence[tuple[Attempt, int]], begin: Images) -> dict[int, Images]:
    # Methods with a stop of their own may end earlier in one attempt than in another.
    steps = sorted(set.intersection(*(set(attempt.trail) for attempt, _ in pick)))
    return {step: _picked(pick, begin, step) for step in steps}


def _smoothed_answers(
    experiment: Experiment,
    inverter: Inverter,
    suspect: Classifier,
    view: InversionData,
    sigma: float,
    seed_parts: tuple[object, ...],
) -> NDArray[np.int16] | None:
    classify = inverter.smoothed(suspect.private_copy(), sigma)
    if classify is None:
        return None
    rng = experiment.rng("smoothed", *seed_parts, sigma)
    who, classes = f"{inverter.name}.smoothed", len(experiment.class_names)

    def answer(pixels: Tensor) -> Tensor:
        found = classify(to_unit(pixels), rng)
        return checks.probabilities(found, len(pixels), classes, who).argmax(1)

    rows = [
        torch.cat([answer(part) for part in pixels.split(100)])
        for pixels in (view.evaluation.pixels, view.triggered)
    ]
    answers: NDArray[np.int16] = torch.stack(rows).cpu().numpy().astype(np.int16)
    return answers
