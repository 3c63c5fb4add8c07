"""A robustness record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from benchmark.games.robustness.curve import Point
from benchmark.games.settings import Part, absent_by_default
from benchmark.metrics import Rate
from benchmark.records.record import Record, Sha256


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
    """One defense against one attack, with the trade-off curve.

    Attributes:
        epochs: an undefended victim that was followed, after each epoch of its training.
    """

    game: Literal["robustness"] = "robustness"
    metrics: Metrics | None = None
    curve: tuple[Point, ...] = ()
    epochs: tuple[Point, ...] = ()
    model_sha256: Sha256 | None = None

    _as_before = absent_by_default("epochs")
