"""The result of one cell: a small file that anyone can read and check."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from benchmark import metrics

NONE = "none"
#: Where in a game a defense acts, in the order in which a pipeline is played.
STAGES = ("sanitize", "repair", "deploy", "detect", "invert")

#: Characters that the message of an error may have.
MESSAGE_LIMIT = 10_000

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: Seconds, or megabytes.
Amount = Annotated[float, Field(ge=0, le=1e9)]
#: What single precision can hold, which is what pages and plots show.
Single = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(_Part):
    """A rate with the counts behind it; `value` is null where nothing was counted."""

    hits: Annotated[int, Field(ge=0)]
    total: Annotated[int, Field(ge=0)]
    value: float | None

    @model_validator(mode="after")
    def _agrees(self) -> Rate:
        expected = self.hits / self.total if self.total else None
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


class Guard(_Part):
    """Quality of a deployed guard's score: ROC AUC, and FAR at 1 % FRR."""

    auc: Annotated[float, Field(ge=0, le=1)]
    far_at_1_frr: Rate


class Metrics(_Part):
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

    def __str__(self) -> str:
        boost = "" if self.boost == 1 else f", b={self.boost}"
        return f"{self.label} (m={self.m}{boost})"


class StageRef(PluginRef):
    stage: Literal["sanitize", "repair", "deploy", "detect", "invert"]


class DefenseRef(_Part):
    """One defense or a pipeline of up to three; none is the identity."""

    name: str
    stages: tuple[StageRef, ...]


class Cost(_Part):
    """Wall-clock seconds, peak memory, and where it ran.

    `seconds` are those of the whole cell, `defense_seconds` what the defense took of them
    without the measuring, `victim_seconds` what the victim's training took.
    """

    seconds: Amount
    defense_seconds: Amount | None
    victim_seconds: Amount | None
    peak_memory_mb: Amount
    device: str


class Evidence(_Part):
    """A file beside the record: what every number can be recomputed from, or a picture."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9._-]+\.(npz|png)$")]
    sha256: Sha256


class Error(_Part):
    kind: str
    message: str
    where: str


class Found(_Part):
    """What one examination of a suspect found.

    Attributes:
        score: higher is more suspicious.
        class_scores: likewise per class.
        guess: the class with the largest score, the first of equals.
        flagged: the detector's own yes or no.
        also: other readings of the same examination, none of them called score.
        norms: L1 norm of the trigger reversed for every class.
        success: what the trigger reversed for the attack's target does to test images.
        reasr: the same, restricted to the pixels of the true trigger (ReASR of Li et al.); none
            where these are most of the image.
    """

    score: Single
    class_scores: tuple[Single, ...]
    guess: Annotated[int, Field(ge=0)]
    flagged: bool | None
    also: dict[str, Single]
    norms: tuple[Single, ...] | None
    success: Rate | None
    reasr: Rate | None
    seconds: Amount

    @model_validator(mode="after")
    def _fits(self) -> Found:
        if "score" in self.also:
            raise ValueError("score is the name of the detector's own reading")
        if self.norms is not None and len(self.norms) != len(self.class_scores):
            raise ValueError(f"{len(self.norms)} norms for {len(self.class_scores)} classes")
        return self


class Tried(_Part):
    """One run of one configuration, from every start image.

    Attributes:
        restart: 0 where the method began as it prescribes.
        selection, evaluation: for each start image, how many images of other classes its
            trigger puts into the target class.
    """

    params: dict[str, float]
    restart: Annotated[int, Field(ge=0)]
    selection: tuple[int, ...]
    evaluation: tuple[int, ...]


class Inverted(_Part):
    """What came of one start image.

    Attributes:
        label: its class.
        chosen: number of the run that worked best on the selection images, among those
            without restarts; what follows is about its trigger.
        overlap: intersection over union with the pixels that the true trigger changes here;
            None where it changes none, or more than half of the evaluation images.
        distance: L2 distance of the inverted to the triggered start image, as a share of the
            true trigger's scale.
        norm: L2 norm of what the trigger changes on the start image, likewise.
        reasr: its success on the true trigger's pixels of each image only; None where those
            are more than half of all.
        on_clean_model: its success on the clean model of the same repetition.
    """

    label: Annotated[int, Field(ge=0)]
    chosen: Annotated[int, Field(ge=0)]
    overlap: Annotated[float, Field(ge=0, le=1)] | None
    distance: Annotated[float, Field(ge=0)]
    norm: Annotated[float, Field(ge=0)]
    reasr: Rate | None
    on_clean_model: Rate


class Swept(_Part):
    """What triggers reversed for every class do at one radius (Fig. 8 of Sun and Kolter).

    Attributes:
        radius: L2 norm in [0, 1] pixels; None for an inverter that has none.
        classes: for each of the first start images and each class, the success of that class's
            trigger on images of other classes.
    """

    radius: Annotated[float, Field(gt=0)] | None
    classes: tuple[tuple[Rate, ...], ...]


class Smoothed(_Part):
    """The smoothed classifier at one noise level: accuracy, ASR of the true trigger, and the
    share of target answers on untriggered images of other classes."""

    sigma: float
    clean: Rate
    asr: Rate
    untriggered: Rate


class _Record(_Part):
    """What records of all games say. `status` tells whether their numbers count:

    - ok: measured.
    - invalid: measured, but the sanity gate found the `reason` to distrust it.
    - failed: a plugin raised `error`; there are no metrics.

    Attributes:
        target: the class that this repetition's attacks are for.
        data_sha256: digest of all pixels and labels of the data set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[2] = Field(2, alias="schema")
    key: Sha256
    protocol: ProtocolRef
    game: str
    attack: AttackRef
    defense: DefenseRef
    trusted_share: float | None
    seed: Annotated[int, Field(ge=0)]
    target: Annotated[int, Field(ge=0)]
    data_sha256: Sha256
    status: Literal["ok", "invalid", "failed"]
    reason: str | None = None
    error: Error | None = None

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=1) + "\n"


class RobustnessRecord(_Record):
    """One defense against one attack, with the trade-off curve."""

    game: Literal["robustness"] = "robustness"
    metrics: Metrics | None = None
    curve: tuple[Point, ...] = ()
    victim_sha256: Sha256 | None = None
    model_sha256: Sha256 | None = None
    evidence: Evidence | None = None
    cost: Cost
    env: dict[str, str]


class DetectabilityRecord(_Record):
    """One detector on one suspect model, a member of the population that `attack` made."""

    game: Literal["detectability"] = "detectability"
    scans: tuple[Found, ...] = ()
    victim_sha256: Sha256 | None = None
    evidence: Evidence | None = None
    cost: Cost
    env: dict[str, str]

    @model_validator(mode="after")
    def _scans_agree(self) -> DetectabilityRecord:
        for number, scan in enumerate(self.scans[1:], start=1):
            if scan.also.keys() != self.scans[0].also.keys():
                raise ValueError(f"scan {number} has other readings than scan 0")
            if len(scan.class_scores) != len(self.scans[0].class_scores):
                raise ValueError(f"scan {number} has other classes than scan 0")
        return self


class InversionRecord(_Record):
    """One inverter on one backdoored model.

    Attributes:
        scale: mean L2 norm of what the true trigger changes, which no inverter is told.
        selection, evaluation: images of other classes that runs were selected and reported on.
        uses: hashes of what else went into the result, such as a denoiser's weights.
        picture: start, inverted and truly triggered images.
    """

    game: Literal["inversion"] = "inversion"
    scale: float | None = None
    selection: Annotated[int, Field(ge=0)] = 0
    evaluation: Annotated[int, Field(ge=0)] = 0
    tried: tuple[Tried, ...] = ()
    starts: tuple[Inverted, ...] = ()
    swept: tuple[Swept, ...] = ()
    smoothed: tuple[Smoothed, ...] = ()
    uses: dict[str, Sha256] = Field(default_factory=dict)
    victim_sha256: Sha256 | None = None
    evidence: Evidence | None = None
    picture: Evidence | None = None
    cost: Cost
    env: dict[str, str]

    @model_validator(mode="after")
    def _counts_agree(self) -> InversionRecord:
        first = [number for number, run in enumerate(self.tried) if not run.restart]
        for run in self.tried:
            for part in ("selection", "evaluation"):
                counts, total = getattr(run, part), getattr(self, part)
                if len(counts) != len(self.starts):
                    raise ValueError(f"{len(counts)} {part} counts for {len(self.starts)} starts")
                if wrong := [count for count in counts if not 0 <= count <= total]:
                    raise ValueError(f"{wrong[0]} of {total} {part} images")
        for row, start in enumerate(self.starts):
            # Of equals the first; those with restarts do not count.
            best = max(first, key=lambda number: self.tried[number].selection[row], default=-1)
            if start.chosen != best:
                raise ValueError(f"start {row} chose run {start.chosen}, run {best} worked best")
            if start.label == self.target:
                raise ValueError(f"start {row} is of class {start.label}, which is the target")
        rows = [rates for level in self.swept for rates in level.classes]
        if any(not 0 < len(level.classes) <= len(self.starts) for level in self.swept):
            raise ValueError(f"{len(self.starts)} starts, all classes from none or from more")
        if rows and not self.target < len(rows[0]) == max(map(len, rows)) == min(map(len, rows)):
            raise ValueError(f"{len(rows[0])} classes, not the same everywhere or no target")
        if self.status == "ok" and not (self.tried and self.starts and self.swept and self.scale):
            raise ValueError("a record that is ok needs runs, starts, all classes and a scale")
        return self


Record = RobustnessRecord | DetectabilityRecord | InversionRecord

_ANY: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="game")])


def read(content: bytes) -> Record:
    """Parse a record of any game; raises pydantic's ValidationError."""
    return _ANY.validate_json(content)
