"""The trade-off curve of a defense, and what both readings take of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Annotated, Any, Literal

from pydantic import Field

from benchmark import metrics
from benchmark.games.answers import Answers, Labels
from benchmark.games.settings import Part
from benchmark.metrics import Rate

#: One-sided 95 %: by so many standard errors a loss is clearly above the budget.
CLEARLY = NormalDist().inv_cdf(0.95)


class Point(Part):
    """One measurement on the trade-off curve, with the counts behind it.

    Attributes:
        step: of a repair, from 0 on; of a training, its epoch; of a deployed guard, where the
            repair before it ended, which is not always the model that the guard was given.
        held_out: right answers to the trusted images that the defender held out; of none where
            he trusts none.
        lost: how many of these the undefended victim answers rightly and this model wrongly.
        cda, asr: on test images, as they are and triggered; `asr` is the headline (C1).
        asr_game: the literal value of the game, None without a trigger.
    """

    stage: Literal["victim", "sanitize", "repair", "deploy", "poisoned", "train"]
    step: Annotated[int, Field(ge=0)]
    held_out: Rate
    lost: Annotated[int, Field(ge=0)]
    cda: Rate
    asr: Rate
    asr_game: float | None

    @classmethod
    def of(cls, labels: Labels, answers: Answers, stage: Any, step: int, base: Answers) -> Point:
        """What answers make.

        Args:
            base: the undefended victim's answers, which a loss is measured against.
        """
        triggered, aim = answers.triggered, (labels.target, labels.source)
        test = labels.test if len(triggered) else labels.test[:0]  # a clean victim has no trigger
        lost = (base.held_out == labels.held_out) & (answers.held_out != labels.held_out)
        in_game = metrics.attack_success_in_game(triggered, test, *aim)
        return cls(
            stage=stage,
            step=step,
            held_out=metrics.accuracy(answers.held_out, labels.held_out),
            lost=int(lost.sum()),
            cda=metrics.accuracy(answers.test, labels.test),
            asr=metrics.attack_success(triggered, test, *aim),
            asr_game=in_game if len(triggered) else None,
        )


def _spent_on_test(base: Point, point: Point, budget: float) -> bool:
    """Whether accuracy on the test images fell by more than the budget."""
    # Compared in counts: 0.97 - 0.95 is more than 0.02 in floating point.
    return base.cda.hits - point.cda.hits > budget * base.cda.total + 1e-9


def _overspent(base: Point, point: Point, budget: float) -> bool:
    """Whether a defender sees, on his held-out images, more loss than the budget allows."""
    return base.held_out.hits - point.held_out.hits > budget * base.held_out.total + 1e-9


def clearly_spent(base: Point, point: Point, budget: float) -> bool:
    """The same beyond chance: the one-sided paired bound of the loss lies above the budget.

    Images are compared one by one: only those that exactly one of both models answers rightly
    tell the models apart, and their number is the variance of the difference.
    """
    change = base.held_out.hits - point.held_out.hits
    gained = point.lost - change
    error = CLEARLY * math.sqrt(point.lost + gained)
    return change - error > budget * base.held_out.total + 1e-9


def _until(
    points: Sequence[Point], budget: float, left: Callable[[Point, Point, float], bool]
) -> list[Point]:
    """Drop what comes, within its stage, after the budget was left; the next stage starts anew."""
    spent: set[str] = set()
    kept = []
    for point in points:
        if left(points[0], point, budget):
            spent.add(point.stage)
        if point.stage not in spent:
            kept.append(point)
    return kept


def lowest_asr(points: Sequence[Point], budget: float) -> Point:
    """The paper's reading: lowest ASR before accuracy on the test images leaves the budget.

    Without a trigger there is no ASR to lower; then it is the last point within the budget.
    """
    within = _until(points, budget, _spent_on_test)
    if not points[0].asr.total:
        return within[-1]
    return min(within, key=lambda point: point.asr.value)


def deployable(points: Sequence[Point], budget: float) -> Point:
    """What a defender can pick: the last point within the budget on his held-out images.

    A stage goes on until the loss is clearly above the budget; a point whose loss is above it
    by chance ends nothing, but is not picked either.
    """
    within = _until(points, budget, clearly_spent)
    return [point for point in within if not _overspent(points[0], point, budget)][-1]


def both_spent(points: Sequence[Point], budget: float) -> bool:
    """Whether the current stage can change neither reading any more."""
    return not any(
        _until(points, budget, left)[-1] is points[-1] for left in (_spent_on_test, clearly_spent)
    )
