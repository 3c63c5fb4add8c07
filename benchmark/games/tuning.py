"""How a defender chooses a repair's settings without knowing the attack (Pick your Poison, V).

The defender poisons the suspect model with a trigger of his own, repairs copies of it with
every setting of a grid, and keeps the one that removes his own backdoor best within the
budget of clean accuracy. He has nothing but the trusted images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from benchmark import metrics
from benchmark.api import Repair
from benchmark.games import robustness
from benchmark.games.arena import Arena
from benchmark.games.exam import Exam, predictor
from benchmark.images import TrustedData
from benchmark.metrics import Point
from benchmark.models import Classifier
from benchmark.protocol import Tuning
from benchmark.training import mixed_precision

#: Side of the defender's own patch, as a share of the image's.
OWN_PATCH = 3 / 16


@dataclass(frozen=True)
class OwnBackdoor:
    """A model the defender poisoned, what he repairs it with, and what he judges it by.

    Attributes:
        trusted: the clean images that the repair may use.
        exam: held-out trusted images, with and without the own trigger; both readings of the
            budget look at the same images, since the defender has no others.
        before: what he reached before any repair.
    """

    model: Classifier
    trusted: TrustedData
    exam: Exam
    before: Point

    def try_repair(self, arena: Arena, repair: Repair, *names: object) -> Point:
        """The last point of the repair's curve that was within budget."""
        outcome = robustness.play(
            arena, self.exam, self.model, repair=repair, trusted=self.trusted, seed_parts=names
        )
        return metrics.last_affordable(outcome.curve, arena.protocol.robustness.budget)


def self_poison(
    arena: Arena, suspect: Classifier, trusted: TrustedData, settings: Tuning, rng: Generator
) -> OwnBackdoor:
    """Fine-tune a copy of the suspect so that it holds the defender's own backdoor.

    Position, pattern and target of the patch are drawn at random.
    """
    order = torch.randperm(len(trusted), generator=rng, device=trusted.device)
    split = round(settings.held_out * len(order))
    judging, learning = trusted.subset(order[:split]), trusted.subset(order[split:])
    stamp, target = _random_patch(arena, rng)
    exam = Exam(judging, judging, stamp(judging.pixels), target)
    # The images are shuffled, so that the first ones are a random choice.
    others = (learning.labels != target).nonzero().flatten()
    chosen = others[: round(settings.poisoned * len(learning))]
    poisoned = learning.replace(
        chosen, stamp(learning.pixels[chosen]), torch.full_like(chosen, target)
    )
    model = copy.deepcopy(suspect).requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, momentum=0.9)
    # A rate that falls to zero lets accuracy settle; otherwise any repair would raise it and
    # the budget would allow too much.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 1 / settings.steps, settings.steps)
    batches = TrustedData(poisoned.pixels, poisoned.labels, trusted.pad, trusted.flip).batches(
        settings.batch_size, rng
    )
    model.train()
    for _ in range(settings.steps):
        images, labels = next(batches)
        optimizer.zero_grad(set_to_none=True)
        with mixed_precision(arena.device, arena.recipe.precision):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
    return OwnBackdoor(model.eval(), learning, exam, _measured(arena, model, exam))


def _random_patch(arena: Arena, rng: Generator) -> tuple[Callable[[Tensor], Tensor], int]:
    """A function that stamps uint8 pixels (N, C, H, W), and the target class."""
    c, h, w = arena.shape
    side = max(2, round(OWN_PATCH * w))

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=rng, device=arena.device))

    pattern = torch.randint(256, (c, side, side), generator=rng, device=arena.device)
    top, left, target = draw(h - side + 1), draw(w - side + 1), draw(len(arena.class_names))

    def stamp(pixels: Tensor) -> Tensor:
        stamped = pixels.clone()
        stamped[..., top : top + side, left : left + side] = pattern.to(torch.uint8)
        return stamped

    return stamp, target


def _measured(arena: Arena, model: Classifier, exam: Exam) -> Point:
    return exam.key.point(exam.sit(predictor(model, arena.recipe.precision)), "victim", 0)
