"""Plays cells of committed records again and compares what comes out."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy import stats

from benchmark import metrics
from benchmark.api import Attack, Defense
from benchmark.registry import Registry
from benchmark.runs.cells import Cell
from benchmark.runs.record import (
    NONE,
    DetectabilityRecord,
    InversionRecord,
    PluginRef,
    Rate,
    Record,
    RobustnessRecord,
)
from benchmark.specs import RegistryError, identity


@dataclass(frozen=True)
class Compared:
    """One number of a record and of its replay.

    Attributes:
        low, high: where the replay may lie.
    """

    number: str
    recorded: float
    replayed: float
    low: float
    high: float

    @property
    def agrees(self) -> bool:
        return self.low <= self.replayed <= self.high

    @property
    def verdict(self) -> str:
        if self.recorded == self.replayed:
            return "equal"
        return "agrees" if self.agrees else "differs"


def draw(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Some of the records, the same ones for the same seed."""
    return random.Random(seed).sample(records, min(count, len(records)))


def playable(record: Record, registry: Registry) -> Cell:
    """The cell of a record, provided that the same versions of its plugins are installed.

    Raises:
        RegistryError: a plugin is missing or is another one.
    """
    if record.attack.threat != NONE:
        _same_plugin(record.attack, registry, Attack)
    for stage in record.defense.stages:
        _same_plugin(stage, registry, Defense)
    return Cell.of(record)


def _same_plugin(ref: PluginRef, registry: Registry, kind: type[Attack] | type[Defense]) -> None:
    plugin = registry.create(kind, ref.label)
    if plugin.version != ref.version:
        raise RegistryError(
            f"{ref.name} was played in version {ref.version}, installed is {plugin.version}"
        )
    # Parameters that are younger than the record are at their defaults.
    if (changed := _changed(ref.params, identity(plugin)["params"])) is not None:
        raise RegistryError(
            f"{ref.label} was played with another {changed} than that of the installed plugin"
        )


def _changed(recorded: Any, installed: Any, name: str = "value") -> str | None:
    if isinstance(recorded, dict) and isinstance(installed, dict):
        parts = (_changed(value, installed.get(key), key) for key, value in recorded.items())
        return next((part for part in parts if part is not None), None)
    return None if recorded == installed else name


class _Number(NamedTuple):
    """A headline number with an interval of its own."""

    value: float
    low: float
    high: float


def compare(record: Record, again: Record, others: Sequence[Record]) -> list[Compared]:
    """The headline numbers of a record and of its replay.

    Other hardware trains another model of the same kind. So a replay may lie where the two
    intervals meet, or where one more repetition would: in the 95 % prediction interval over
    the repetitions that there are.

    Args:
        others: records of other repetitions of the same cell.

    Raises:
        RegistryError: the replay failed.
    """
    name = str(Cell.of(record))
    if again.status != "ok":
        reason = again.error.message if again.error else again.reason
        raise RegistryError(f"{name}: the replay {again.status}: {reason}")
    family = [_numbers(one) for one in (record, *others)]
    found = []
    for title, new in _numbers(again).items():
        own = family[0][title]
        low, high = own.low - (new.high - new.value), own.high + (new.value - new.low)
        values = [numbers[title].value for numbers in family if title in numbers]
        if len(values) > 1:
            t = float(stats.t.ppf(0.975, len(values) - 1))
            reach = t * stdev(values) * math.sqrt(1 + 1 / len(values))
            low, high = min(low, fmean(values) - reach), max(high, fmean(values) + reach)
        if isinstance(record, RobustnessRecord | InversionRecord):
            low, high = max(low, 0.0), min(high, 1.0)
        found.append(Compared(title, own.value, new.value, low, high))
    return found


def same_cell(one: Record, other: Record) -> bool:
    """Whether two records are repetitions of one cell."""

    def parts(record: Record) -> tuple[object, ...]:
        return record.attack, record.defense, record.trusted_share, record.protocol.recipe

    return parts(one) == parts(other) and one.seed != other.seed


def _numbers(record: Record) -> dict[str, _Number]:
    if isinstance(record, RobustnessRecord):
        found = record.metrics
        assert found is not None
        rates = {
            "CDA before": found.before.cda,
            "ASR before": found.before.asr,
            "CDA": found.cda,
            "ASR": found.asr,
            "ASR, paper's reading": found.paper.asr,
        }
        return {name: _of(rate) for name, rate in rates.items() if rate.total}
    if isinstance(record, DetectabilityRecord):
        scores = [scan.score for scan in record.scans]
        return {"score": _Number(fmean(scores), min(scores), max(scores))}
    counts = [
        metrics.Rate(record.tried[start.chosen].evaluation[row], record.evaluation)
        for row, start in enumerate(record.starts)
    ]
    return {"ASR selected": _Number(*metrics.mean_interval(counts))}


def _of(rate: Rate) -> _Number:
    return _Number(rate.counts.value, *rate.counts.interval())
