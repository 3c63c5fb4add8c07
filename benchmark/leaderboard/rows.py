"""What a board keeps of a record: little enough for a hundred thousand of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.games.detectability.record import DetectabilityRecord, Found
from benchmark.games.inversion.record import InversionRecord, Inverted, Smoothed, Swept, Tried
from benchmark.games.robustness.curve import Point
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.metrics import Rate
from benchmark.records.record import AttackRef, DefenseRef, ProtocolRef, Record


class Curve(NamedTuple):
    """The trade-off curve of one cell.

    Attributes:
        stages: per point.
        values: float32 (4, points): step, and accuracy on held-out images, CDA and ASR as
            shares; NaN where there are no such images.
        deployable, paper: index of the point that a reading takes.
    """

    stages: tuple[str, ...]
    values: NDArray[np.float32]
    deployable: int
    paper: int


class Left(NamedTuple):
    """What a reading takes: accuracy, success of the attack, and whether it is the victim as it
    was, which the defense did nothing to."""

    cda: metrics.Rate
    asr: metrics.Rate
    untouched: bool


class Played(NamedTuple):
    """A robustness cell that counts."""

    recipe: str
    attack: AttackRef
    defense: DefenseRef
    trusted_share: float | None
    seed: int
    before: Left
    paper: Left
    deployable: Left
    asr_game: float | None
    asr_clean_model: metrics.Rate | None
    target_confidence: float | None
    guard_auc: float | None
    seconds: float
    defense_seconds: float | None
    victim_seconds: float | None
    evidence: str | None
    curve: Curve


class Scan(NamedTuple):
    """One examination; `class_scores` are float32, rates are shares."""

    score: float
    class_scores: NDArray[np.float32]
    guess: int
    flagged: bool | None
    also: dict[str, float]
    norms: NDArray[np.float32] | None
    success: float | None
    reasr: float | None
    seconds: float


class Examined(NamedTuple):
    """A detectability cell that counts."""

    protocol: str
    recipe: str
    attack: AttackRef
    defense: DefenseRef
    trusted_share: float | None
    seed: int
    target: int
    scans: tuple[Scan, ...]
    victim_seconds: float | None
    evidence: str | None


class Reversed(NamedTuple):
    """An inversion cell that counts."""

    recipe: str
    attack: AttackRef
    defense: DefenseRef
    trusted_share: float | None
    seed: int
    target: int
    scale: float
    evaluation: int
    tried: tuple[Tried, ...]
    starts: tuple[Inverted, ...]
    swept: tuple[Swept, ...]
    smoothed: tuple[Smoothed, ...]
    uses: dict[str, str]
    seconds: float
    picture: str | None


class Unfinished(NamedTuple):
    """A cell that failed or that the sanity gate refused."""

    recipe: str
    attack: AttackRef
    defense: DefenseRef
    trusted_share: float | None
    seed: int
    status: str
    reason: str


Row = Played | Examined | Reversed | Unfinished


@dataclass
class Rows:
    """All rows of a folder."""

    protocols: dict[str, ProtocolRef] = field(default_factory=dict)
    count: int = 0
    seeds: set[int] = field(default_factory=set)
    played: list[Played] = field(default_factory=list)
    examined: list[Examined] = field(default_factory=list)
    reversed: list[Reversed] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    _shared: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Rows:
        """Reduce records as they come; none of them is kept."""
        rows = cls()
        for record in records:
            rows._add(record)
        return rows

    def __iter__(self) -> Iterator[Row]:
        yield from self.played
        yield from self.examined
        yield from self.reversed
        yield from self.unfinished

    def _add(self, record: Record) -> None:
        self.count += 1
        self.seeds.add(record.seed)
        self.protocols.setdefault(record.protocol.sha256, record.protocol)
        attack, defense = record.attack, record.defense
        # Parsed anew for every record; one of each is enough.
        common = {
            "recipe": record.protocol.recipe,
            "attack": self._one((attack.label, attack.version, attack.m, attack.boost), attack),
            "defense": self._one(tuple((s.label, s.version) for s in defense.stages), defense),
            "trusted_share": record.trusted_share,
            "seed": record.seed,
        }
        file = record.evidence.file if record.evidence else None
        if record.status != "ok":
            error = record.error
            reason = f"{error.kind}: {error.message}" if error else record.reason or ""
            self.unfinished.append(Unfinished(**common, status=record.status, reason=reason))
        elif isinstance(record, RobustnessRecord):
            self._add_played(record, common | {"evidence": file})
        elif isinstance(record, DetectabilityRecord):
            self.examined.append(
                Examined(
                    **common,
                    protocol=record.protocol.name,
                    target=record.target,
                    scans=tuple(map(_scan, record.scans)),
                    victim_seconds=record.cost.victim_seconds,
                    evidence=file,
                )
            )
        elif isinstance(record, InversionRecord):
            self._add_reversed(record, common)

    def _add_played(self, record: RobustnessRecord, common: dict[str, Any]) -> None:
        found = record.metrics
        if found is None:
            return
        self.played.append(
            Played(
                **common,
                before=self._left(found.before),
                paper=self._left(found.paper),
                deployable=self._left(found.deployable),
                asr_game=found.paper.asr_game,
                asr_clean_model=self._rate(clean) if (clean := found.asr_clean_model) else None,
                target_confidence=found.target_confidence,
                guard_auc=found.guard.auc if found.guard else None,
                seconds=record.cost.seconds,
                defense_seconds=record.cost.defense_seconds,
                victim_seconds=record.cost.victim_seconds,
                curve=self._curve(record),
            )
        )

    def _add_reversed(self, record: InversionRecord, common: dict[str, Any]) -> None:
        self.reversed.append(
            Reversed(
                **common,
                target=record.target,
                scale=record.scale or 0.0,
                evaluation=record.evaluation,
                tried=record.tried,
                starts=record.starts,
                swept=record.swept,
                smoothed=record.smoothed,
                uses=record.uses,
                seconds=record.cost.seconds,
                picture=record.picture.file if record.picture else None,
            )
        )

    def _curve(self, record: RobustnessRecord) -> Curve:
        found, points = record.metrics, record.curve
        assert found is not None
        numbers = [
            (point.step, *(_share(rate) for rate in (point.held_out, point.cda, point.asr)))
            for point in points
        ]
        stages = tuple(point.stage for point in points)
        return Curve(
            stages=self._one(stages, stages),
            values=np.array(numbers, np.float32).reshape(-1, 4).T,
            deployable=_place(points, found.deployable),
            paper=_place(points, found.paper),
        )

    def _left(self, point: Point) -> Left:
        found = Left(self._rate(point.cda), self._rate(point.asr), point.stage == "victim")
        left: Left = self._one(found, found)
        return left

    def _rate(self, rate: Rate) -> metrics.Rate:
        counts = rate
        shared: metrics.Rate = self._one(counts, counts)
        return shared

    def _one(self, key: Any, value: Any) -> Any:
        return self._shared.setdefault(key, value)


def _scan(found: Found) -> Scan:
    return Scan(
        score=found.score,
        class_scores=np.array(found.class_scores, np.float32),
        guess=found.guess,
        flagged=found.flagged,
        also=found.also,
        norms=None if found.norms is None else np.array(found.norms, np.float32),
        success=found.success.value if found.success else None,
        reasr=found.reasr.value if found.reasr else None,
        seconds=found.seconds,
    )


def _share(rate: Rate) -> float:
    return float("nan") if rate.value is None else rate.value


def _place(points: tuple[Point, ...], wanted: Point) -> int:
    """Index of a point of the curve; -1 where it is none."""
    return points.index(wanted) if wanted in points else -1
