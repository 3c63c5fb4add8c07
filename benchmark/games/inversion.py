"""The inversion game (Sun and Kolter, Tab. 2): one clean image, the trigger back.

An inverter gets the model, a single image of another class and the target. What it finds is
judged by its success on other images.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.api import Attack, Images, Inverter, Starts
from benchmark.games import checks
from benchmark.games.arena import Arena, Progress
from benchmark.games.detectability import true_mask
from benchmark.games.exam import Exam
from benchmark.games.transfer import Hits, Judge, overlap
from benchmark.images import ImageSet, to_bytes, to_unit
from benchmark.inversion import Trigger
from benchmark.models import Classifier
from benchmark.protocol import Inversion

#: How many inversions share a call where all classes are tried.
INVERSIONS_AT_ONCE = 500

#: Makes an inverter with some of its parameters set to these numbers.
Configure = Callable[[Mapping[str, float]], Inverter]


@dataclass(frozen=True)
class Scene:
    """What one game is played with; the inverter sees the start images and the target only.

    Attributes:
        starts: S images of other classes, from the trusted split.
        triggered_starts: float32 (S, C, H, W), the same with the true trigger.
        selection: images on which a configuration is chosen, from the validation split.
        evaluation: images on which it is reported, from the test split.
        triggered: uint8, the evaluation images with the true trigger.
        mask: bool (H, W), pixels that the true trigger changes on any test image.
        scale: mean L2 norm of what the true trigger changes on the evaluation images.
    """

    starts: ImageSet
    triggered_starts: Images
    selection: ImageSet
    evaluation: ImageSet
    triggered: Tensor
    target: int
    mask: Tensor
    scale: float


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
class Fidelity:
    """How close the chosen trigger of each start image comes to the true one, each (S,).

    Attributes:
        overlap: intersection over union of the true trigger's pixels and as many pixels of
            the start image that the reversed trigger changes most.
        distance: L2 distance of the inverted from the truly triggered start image, as a share
            of the true trigger's scale: an untouched image has 1 on average.
        norm: L2 norm of what the reversed trigger changes on the start image, likewise.
        restricted: bool (S, N), evaluation images put into the target by the trigger's part
            on the true trigger's pixels (ReASR of Li et al.).
        on_clean_model: bool (S, N), images that the clean model puts there under the trigger.
    """

    overlap: NDArray[np.float64]
    distance: NDArray[np.float64]
    norm: NDArray[np.float64]
    restricted: Hits
    on_clean_model: Hits


@dataclass(frozen=True)
class Outcome:
    """All that was seen in one game.

    Attributes:
        chosen: (S,) number of the attempt that works best on the selection images, among
            those without restarts.
        classes: bool (S, K, N), which evaluation images each class's trigger puts there.
        smoothed: by noise level, int16 (2, N): the smoothed classifier's answers to clean and
            to triggered evaluation images; empty where the inverter smoothes nothing.
        inverted: (S, C, H, W) and `trail`, by number of steps: start images with the chosen
            triggers on them.
    """

    scene: Scene
    attempts: list[Attempt]
    chosen: NDArray[np.int64]
    fidelity: Fidelity
    classes: Hits
    smoothed: dict[float, NDArray[np.int16]]
    inverted: Images
    trail: dict[int, Images]
    seconds: float


def scene(arena: Arena, exam: Exam, attack: Attack, game: Inversion, seed: int) -> Scene:
    """Draw the start, selection and evaluation images of one repetition."""
    splits, target = arena.splits, exam.target
    rng = torch.Generator().manual_seed(arena.protocol.seed("inversion", "starts", seed))
    others = (splits.trusted.labels != target).nonzero().flatten()
    if game.start_images > len(others):
        raise ValueError(
            f"{game.start_images} start images asked for, the trusted split has {len(others)} of "
            "other classes"
        )
    order = torch.randperm(len(others), generator=rng).to(others.device)
    starts = splits.trusted.subset(others[order[: game.start_images]])
    images = to_unit(starts.pixels)
    triggered = attack.trigger(images.clone(), arena.rng("inversion", "trigger", seed))
    triggered = checks.images(triggered, images, f"{attack.name}.trigger")
    evaluation = splits.test.subset(torch.arange(game.evaluation, device=arena.device))
    stamped = exam.triggered[: game.evaluation]
    change = to_unit(stamped) - to_unit(evaluation.pixels)
    scale = change.flatten(1).norm(dim=1).mean().item()
    if not scale:
        raise ValueError(f"the trigger of {attack.name} changes no image, so none can be inverted")
    return Scene(
        starts=starts,
        triggered_starts=to_unit(to_bytes(triggered)),
        selection=splits.validation.subset(torch.arange(game.selection, device=arena.device)),
        evaluation=evaluation,
        triggered=stamped,
        target=target,
        mask=true_mask(exam),
        scale=scale,
    )


def play(
    arena: Arena,
    view: Scene,
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
    started = time.perf_counter()
    plain = configure({})
    judge = Judge(arena, suspect)
    begin = to_unit(view.starts.pixels)
    targets = torch.full((len(begin),), view.target, device=arena.device)
    todo = game.attempts(plain.name)
    # All classes are as much work as K attempts.
    total = len(todo) + len(arena.class_names) + len(game.sigmas)

    def invert(inverter: Inverter, starts: Starts, *names: object) -> dict[int, Trigger]:
        purpose = ("invert", *seed_parts, *names)
        torch.manual_seed(arena.protocol.seed("global", *purpose))
        model = copy.deepcopy(suspect).requires_grad_(True).eval()
        return trail(inverter, model, starts, arena.rng(*purpose))

    attempts = []
    for number, (params, restart) in enumerate(todo):
        starts = Starts(begin.clone(), targets.clone(), view.scale, restart)
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
    first = [attempt for attempt in attempts if not attempt.restart]
    chosen = best(first, view.selection.labels.cpu().numpy(), view.target)
    pick = [(attempts[number], row) for row, number in enumerate(chosen)]

    every = torch.arange(len(arena.class_names), device=arena.device)
    classes: list[Hits] = []
    # Start image by start image where there are many classes, for the memory.
    for part in begin.split(max(1, INVERSIONS_AT_ONCE // len(every))):
        wanted = every.repeat(len(part))
        starts = Starts(part.repeat_interleave(len(every), 0), wanted.clone(), view.scale)
        found = invert(plain, starts, "classes", *([len(classes)] if classes else []))
        hits = judge.hits(found[max(found)], wanted, view.evaluation, plain.name)
        classes.append(hits.reshape(len(part), len(every), -1))
    progress(len(todo) + len(every), total)

    # As files would hold them, and as the evidence does.
    inverted = to_unit(to_bytes(_picked(pick, begin, lambda attempt: attempt.trigger)))
    fidelity = _fidelity(view, pick, begin, inverted, judge, Judge(arena, clean))
    # Last, since the inverter's own code meets test images here.
    smoothed = {}
    for number, sigma in enumerate(game.sigmas):
        answers = _smoothed_answers(arena, plain, suspect, view, sigma, seed_parts)
        if answers is not None:
            smoothed[sigma] = answers
        progress(len(todo) + len(every) + number + 1, total)
    return Outcome(
        scene=view,
        attempts=attempts,
        chosen=chosen,
        fidelity=fidelity,
        classes=np.concatenate(classes),
        smoothed=smoothed,
        inverted=inverted,
        trail=_trail_of(pick, begin),
        seconds=time.perf_counter() - started,
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


def best(attempts: Sequence[Attempt], labels: NDArray[np.int64], target: int) -> NDArray[np.int64]:
    """For each start image the attempt with the highest ASR on the selection images.

    Of equals it is the first.
    """
    others = labels != target
    rates = np.stack([attempt.selection[:, others].mean(1) for attempt in attempts])
    numbers: NDArray[np.int64] = rates.argmax(0)
    return numbers


def _picked(
    pick: Sequence[tuple[Attempt, int]], begin: Images, trigger: Callable[[Attempt], Trigger]
) -> Images:
    """Start images with the picked triggers, every one under its own."""
    rows = [trigger(attempt).apply(begin[row : row + 1])[row] for attempt, row in pick]
    return torch.cat(rows)


def _trail_of(pick: Sequence[tuple[Attempt, int]], begin: Images) -> dict[int, Images]:
    # Methods with a stop of their own may end earlier in one attempt than in another.
    steps = sorted(set.intersection(*(set(attempt.trail) for attempt, _ in pick)))
    return {step: _picked(pick, begin, lambda a, at=step: a.trail[at]) for step in steps}  # type: ignore[misc]


def _fidelity(
    view: Scene,
    pick: Sequence[tuple[Attempt, int]],
    begin: Images,
    inverted: Images,
    judge: Judge,
    clean_judge: Judge,
) -> Fidelity:
    gap, change = inverted - view.triggered_starts, inverted - begin
    restricted, on_clean = [], []
    for attempt, row in pick:
        targets = torch.full((len(begin),), view.target, device=begin.device)
        data, who = view.evaluation, "the inverter"
        restricted.append(judge.hits(attempt.trigger, targets, data, who, row, view.mask)[0])
        on_clean.append(clean_judge.hits(attempt.trigger, targets, data, who, row)[0])
    return Fidelity(
        overlap=overlap(change, view.mask).cpu().numpy(),
        distance=gap.flatten(1).norm(dim=1).double().cpu().numpy() / view.scale,
        norm=change.flatten(1).norm(dim=1).double().cpu().numpy() / view.scale,
        restricted=np.stack(restricted),
        on_clean_model=np.stack(on_clean),
    )


def _smoothed_answers(
    arena: Arena,
    inverter: Inverter,
    suspect: Classifier,
    view: Scene,
    sigma: float,
    seed_parts: tuple[object, ...],
) -> NDArray[np.int16] | None:
    classify = inverter.smoothed(copy.deepcopy(suspect), sigma)
    if classify is None:
        return None
    rng = arena.rng("smoothed", *seed_parts, sigma)
    who, classes = f"{inverter.name}.smoothed", len(arena.class_names)

    def answer(pixels: Tensor) -> Tensor:
        found = classify(to_unit(pixels), rng)
        return checks.probabilities(found, len(pixels), classes, who).argmax(1)

    rows = [
        torch.cat([answer(part) for part in pixels.split(100)])
        for pixels in (view.evaluation.pixels, view.triggered)
    ]
    answers: NDArray[np.int16] = torch.stack(rows).cpu().numpy().astype(np.int16)
    return answers
