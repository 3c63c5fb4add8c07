"""Repairs of a suspect: as much as the budget of clean accuracy on held-out images allows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.api import Repair
from benchmark.errors import UserError
from benchmark.games import checks
from benchmark.games.answers import Answers, Labels
from benchmark.games.evaluation import narrow
from benchmark.games.robustness.curve import Point, clearly_spent, deployable
from benchmark.games.robustness.play import measured_steps
from benchmark.games.robustness.settings import Robustness
from benchmark.images import ImageSet
from benchmark.metrics import Rate, accuracy, attack_success
from benchmark.protocol import named_seed
from benchmark.registry import Registry
from benchmark.specs import label
from benchmark.suspect.adapter import Adapted, ModelError, told
from benchmark.suspect.estimate import fitted
from benchmark.suspect.images import album_of, in_channels
from benchmark.suspect.scan import device_of
from benchmark.suspect.settings import create_repair
from benchmark.suspect.suspect import Suspect, answers, global_seed, prepare

#: A repair is measured so many times, if it says how many steps it takes.
MEASUREMENTS = 20
#: Share of the trusted images that judge, as in the protocols.
HELD_OUT: float = Robustness.model_fields["held_out"].default


@dataclass(frozen=True)
class Triggered:
    """Images with the trigger, by their true labels, and the class that it stands for."""

    images: ImageSet
    target: int

    @classmethod
    def of(cls, suspect: Suspect, images: ImageSet, target: int) -> Triggered:
        """Images as the suspect takes them.

        Args:
            images: with labels that count the suspect's classes.

        Raises:
            UserError: they are of another size or of the target alone, or labels or target are no
                classes of the suspect.
        """
        shape, classes = suspect.trusted.pixels.shape[1:], len(suspect.class_names)
        pixels, labels = in_channels(images.pixels, int(shape[0])), images.labels
        if pixels.shape[1:] != shape:
            sides = ["x".join(map(str, each[-2:])) for each in (pixels.shape, shape)]
            raise ModelError(
                f"triggered images have {sides[0]} pixels and the clean ones {sides[1]}; say "
                "--size N for both, or save them in one size"
            )
        wrong = [
            n for n in (int(labels.min()), int(labels.max()), target) if n not in range(classes)
        ]
        if wrong:
            raise ModelError(
                f"a class of triggered images, or their target, is {wrong[0]!r}; expected a number "
                f"from 0 to {classes - 1}"
            )
        if bool((labels == target).all()):
            raise ModelError(
                f"all {len(labels)} triggered images are of the target class "
                f"{suspect.class_names[target]}; ASR is counted on those of other classes"
            )
        return cls(ImageSet(pixels, labels), target)


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    Attributes:
        model: the given one with the weights of the chosen step.
        points: the trade-off curve; the first one is the model as it was given. `held_out` is
            its accuracy on the images that the repair did not see.
        success: ASR at each point; none without triggered images.
        chosen: the number of the point whose weights the model has.
        before, after: accuracy on all trusted images, those that the repair used included.
    """

    model: nn.Module
    points: tuple[Point, ...]
    success: tuple[Rate, ...]
    chosen: int
    before: Rate
    after: Rate
    notes: tuple[str, ...]


def repair(
    model: nn.Module,
    images: Tensor | NDArray[np.generic],
    labels: Tensor | Sequence[int],
    *,
    method: str,
    budget: float = 0.02,
    class_names: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    triggered: tuple[Tensor, Tensor, int] | None = None,
) -> Repaired:
    """Repair a copy of a model with clean images that you trust.

    Args:
        model, images, labels, class_names, mean, std: as for `benchmark.scan`.
        method: a repair by name and settings, as on the command line.
        budget: accuracy on held-out images that the repair may cost, as a share.
        triggered: images with the trigger, their true labels and the target class, where
            these are known; then ASR is measured too.

    Raises:
        UserError: model, images or method do not fit, or the method fails, in one sentence.
    """
    album = album_of(images, labels, class_names)
    suspect = prepare(model, album, mean=mean, std=std, device=device_of(model))
    asked = None
    if triggered is not None:
        if not isinstance(triggered, tuple) or len(triggered) != 3:
            raise ModelError("triggered is no tuple (images, true labels, target class)")
        pixels, true, target = triggered
        asked = Triggered.of(suspect, album_of(pixels, true, None).images, target)
    return mend(model, suspect, create_repair(Registry(), method), budget, asked)


def mend(
    model: nn.Module,
    suspect: Suspect,
    method: Repair,
    budget: float,
    triggered: Triggered | None = None,
    progress: Callable[[int, int | None], None] = lambda step, steps: None,
) -> Repaired:
    """Repair the suspect until the loss on held-out images is clearly above the budget.

    What is measured and returned are the weights of the last step that was within it, by the
    reading that the robustness game calls deployable.

    Args:
        model: what the suspect was made of; it stays as it is.
        progress: told how many steps were taken, and of how many.
    """
    if not 0 <= budget < 1:
        raise ModelError(f"a budget of {budget:g} is not allowed; say a share such as 0.02")
    name = label(method)
    method = fitted(method, suspect.model, suspect.trusted.pixels.shape[1:], 1)
    rng = torch.Generator().manual_seed(named_seed("repair", "held out"))
    trusted, held_out = suspect.trusted.split(HELD_OUT, rng)
    nothing = np.empty(0, np.int16)
    labels = Labels(narrow(held_out.labels), narrow(held_out.labels), 0)
    given: list[Answers] = []
    points: list[Point] = []
    successes: list[Rate] = []
    chosen = suspect.model

    def measure(model: Adapted, stage: str, step: int) -> None:
        own = answers(model, held_out.pixels)
        given.append(Answers(own, own, nothing))
        points.append(Point.of(labels, given[-1], stage, step, given[0]))
        if triggered is not None:
            successes.append(_success(model, triggered))

    measure(suspect.model, "victim", 0)
    changed, device = suspect.model.private_copy(), held_out.device
    with global_seed(device, "repair", name), torch.enable_grad(), _blamed(name):
        steps = checks.steps(method)
        for step in measured_steps(
            method,
            changed,
            trusted,
            interval=max(1, (steps or 1000) // MEASUREMENTS),
            rng=torch.Generator(device).manual_seed(named_seed("repair", name)),
        ):
            # Built anew, so that nothing that a plugin does to its model counts but the weights.
            fresh = copy.deepcopy(suspect.model)
            fresh.load_state_dict(changed.state_dict())
            measure(fresh, "repair", step)
            if deployable(points, budget) is points[-1]:
                chosen = fresh
            progress(step, steps)
            if clearly_spent(points[0], points[-1], budget):
                break
    best = deployable(points, budget)
    fixed = copy.deepcopy(model)
    # The rest of the state, if there is any, are no weights.
    fixed.load_state_dict({**fixed.state_dict(), **chosen.own_state()})
    everything = narrow(suspect.trusted.labels)
    return Repaired(
        fixed,
        tuple(points),
        tuple(successes),
        next(number for number, point in enumerate(points) if point is best),
        suspect.accuracy,
        accuracy(answers(chosen, suspect.trusted.pixels), everything),
        suspect.notes,
    )


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    """Whatever a repair raises, in one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise ModelError(f"{name} failed ({told(error, 300)}); try another --method") from error


def _success(model: Adapted, triggered: Triggered) -> Rate:
    predicted = answers(model, triggered.images.pixels.to(model.mean.device))
    return attack_success(predicted, narrow(triggered.images.labels), triggered.target)
