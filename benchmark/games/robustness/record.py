"""A robustness record."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from benchmark import metrics
from benchmark.records.record import Part, Rate, Record, Sha256


class Point(Part):
    """One measurement; see `benchmark.metrics.Point`.

    `asr_game` is the literal value of the game, `asr` the headline (C1).
    """

    stage: Literal["victim", "sanitize", "repair", "deploy"]
    step: Annotated[int, Field(ge=0)]
    held_out: Rate
    lost: Annotated[int, Field(ge=0)]
    cda: Rate
    asr: Rate
    asr_game: float | None

    @classmethod
    def of(cls, point: metrics.Point) -> Point:
        return cls(
            stage=point.stage,  # type: ignore[arg-type]
            step=point.step,
            held_out=Rate.of(point.held_out),
            lost=point.lost,
            cda=Rate.of(point.cda),
            asr=Rate.of(point.asr),
            asr_game=None if math.isnan(point.asr_game) else point.asr_game,
        )

    def counts(self) -> metrics.Point:
        return metrics.Point(
            self.stage,
            self.step,
            self.held_out.counts,
            self.lost,
            self.cda.counts,
            self.asr.counts,
            float("nan") if self.asr_game is None else self.asr_game,
        )


class Guard(Part):
    """Quality of a deployed guard's score: ROC AUC, and FAR at 1 % FRR."""

    auc: Annotated[float, Field(ge=0, le=1)]
    far_at_1_frr: Rate


class Metrics(Part):
    """The numbers of a cell, each reading with its point of the curve.

    `paper`, the headline, is the lowest ASR before accuracy on the test images left the budget;
    `deployable` the last point within the budget on the defender's held-out images; `before`
    the undefended victim.
    """

    paper: Point
    deployable: Point
    before: Point
    asr_clean_model: Rate | None
    target_confidence: float | None
    guard: Guard | None


class RobustnessRecord(Record):
    """One defense against one attack, with the trade-off curve."""

    game: Literal["robustness"] = "robustness"
    metrics: Metrics | None = None
    curve: tuple[Point, ...] = ()
    model_sha256: Sha256 | None = None
