"""The result of one cell: a small file that anyone can read and check."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmark import metrics

NONE = "none"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(_Part):
    """A rate with the counts behind it; `value` is null where nothing was counted."""

    hits: Annotated[int, Field(ge=0)]
    total: Annotated[int, Field(ge=0)]
    value: float | None

    @model_validator(mode="after")
    def _agrees(self) -> Rate:
        expected = Rate.of(metrics.Rate(self.hits, self.total)).value if self.total else None
        if self.hits > self.total or self.value != expected:
            raise ValueError(f"{self.value} is not {self.hits} of {self.total}")
        return self

    @classmethod
    def of(cls, rate: metrics.Rate) -> Rate:
        value = rate.value if rate.total else None
        return cls.model_construct(hits=rate.hits, total=rate.total, value=value)

    @property
    def counts(self) -> metrics.Rate:
        return metrics.Rate(self.hits, self.total)


class Point(_Part):
    """One measurement; `asr_game` is the literal value of the game, `asr` the headline (C1)."""

    stage: Literal["victim", "sanitize", "repair", "deploy"]
    step: Annotated[int, Field(ge=0)]
    validation: Rate
    cda: Rate
    asr: Rate
    asr_game: float | None

    @classmethod
    def of(cls, point: metrics.Point) -> Point:
        return cls(
            stage=point.stage,  # type: ignore[arg-type]
            step=point.step,
            validation=Rate.of(point.validation),
            cda=Rate.of(point.cda),
            asr=Rate.of(point.asr),
            asr_game=None if math.isnan(point.asr_game) else point.asr_game,
        )

    def counts(self) -> metrics.Point:
        return metrics.Point(
            self.stage,
            self.step,
            self.validation.counts,
            self.cda.counts,
            self.asr.counts,
            float("nan") if self.asr_game is None else self.asr_game,
        )


class Guard(_Part):
    """Quality of a deployed guard's score: ROC AUC, and FAR at 1 % FRR."""

    auc: Annotated[float, Field(ge=0, le=1)]
    far_at_1_frr: Rate


class Metrics(_Part):
    """The numbers of a cell.

    `cda`, `asr` and `asr_game` are those of the deployable reading: the last checkpoint
    whose accuracy on validation images was within budget. `paper` is the lowest ASR within
    budget on the test images. `before` is the undefended victim.
    """

    cda: Rate
    asr: Rate
    asr_game: float | None
    validation: Rate
    step: int
    repaired: bool
    paper: Point
    before: Point
    asr_clean_model: Rate | None
    target_confidence: float | None
    guard: Guard | None


class ProtocolRef(_Part):
    name: str
    sha256: Sha256
    recipe: str


class PluginRef(_Part):
    """A plugin as it was used; `label` builds it again from the command line."""

    label: str
    name: str
    version: int
    params: dict[str, Any]


class AttackRef(PluginRef):
    threat: Literal["poison-label", "clean-label", "code", "none"]
    m: Annotated[int, Field(ge=0)]
    boost: Annotated[int, Field(ge=1)]


class StageRef(PluginRef):
    stage: Literal["sanitize", "repair", "deploy"]


class DefenseRef(_Part):
    """One defense or a pipeline of up to three; none is the identity."""

    name: str
    stages: tuple[StageRef, ...]


class Cost(_Part):
    """Wall-clock seconds of the cell and of its victim, peak memory, and where it ran."""

    seconds: float
    victim_seconds: float | None
    peak_memory_mb: float
    device: str


class Evidence(_Part):
    """The file beside the record that every number can be recomputed from."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9._-]+\.npz$")]
    sha256: Sha256


class Error(_Part):
    kind: str
    message: str
    where: str


class Record(_Part):
    """Everything about one cell. `status` tells whether its numbers count:

    - ok: measured.
    - invalid: measured, but the sanity gate found the `reason` to distrust it.
    - failed: a plugin raised `error`; there are no metrics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    key: Sha256
    protocol: ProtocolRef
    game: Literal["robustness"]
    attack: AttackRef
    defense: DefenseRef
    trusted_share: float | None
    seed: Annotated[int, Field(ge=0)]
    status: Literal["ok", "invalid", "failed"]
    reason: str | None = None
    error: Error | None = None
    metrics: Metrics | None = None
    curve: tuple[Point, ...] = ()
    victim_sha256: Sha256 | None = None
    model_sha256: Sha256 | None = None
    evidence: Evidence | None = None
    cost: Cost
    env: dict[str, str]

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=1) + "\n"
