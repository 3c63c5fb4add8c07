"""Plays cells of committed records again and compares what comes out."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from statistics import NormalDist, stdev
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmark import metrics
from benchmark.api import Attack, Defense
from benchmark.games.all import GAMES
from benchmark.games.base import Number
from benchmark.records.cell import Cell
from benchmark.records.record import NONE, AttackRef, Record, StageRef
from benchmark.registry import Registry
from benchmark.specs import RegistryError, identity

Verdict = Literal["equal", "agrees", "differs", "unknown"]
#: Repetitions that it takes to tell how far one more may lie.
FEW = 2


class Compared(NamedTuple):
    """One number of a record and of its replay, as text, and whether they agree."""

    number: str
    recorded: str
    replayed: str
    allowed: str
    verdict: Verdict


def draw(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Some of the records, the same ones for the same seed."""
    return random.Random(seed).sample(records, min(count, len(records)))


def playable(record: Record, registry: Registry) -> Cell:
    """The cell of a record, provided that the same versions of its plugins are installed.

    Raises:
        RegistryError: a plugin is missing or is another one.
    """
    refs: tuple[AttackRef | StageRef, ...] = (record.attack, *record.defense.stages)
    for ref in refs:
        if ref.name != NONE:
            same_plugin(ref, registry)
    return Cell.of(record)


def same_plugin(ref: AttackRef | StageRef, registry: Registry) -> None:
    """Compare what a record says of a plugin with the installed one.

    Raises:
        RegistryError: it is missing or is another one.
    """
    kind: type[Attack] | type[Defense] = Attack if isinstance(ref, AttackRef) else Defense
    plugin = registry.create(kind, ref.label)
    if plugin.version != ref.version:
        raise RegistryError(
            f"{ref.name} was played in version {ref.version}, installed is {plugin.version}"
        )
    if (changed := _changed(ref.params, identity(plugin)["params"])) is not None:
        raise RegistryError(
            f"{ref.label} was played with another {changed} than that of the installed plugin"
        )
    said = ref.threat if isinstance(ref, AttackRef) else ref.stage
    role = plugin.threat if isinstance(plugin, Attack) else plugin.stage
    if said != role:
        raise RegistryError(f"{ref.label} was played as {said}, the installed plugin is {role}")


def _changed(recorded: Any, installed: Any, name: str = "value") -> str | None:
    if isinstance(recorded, dict) and isinstance(installed, dict):
        names = sorted(recorded.keys() | installed.keys())
        parts = (_changed(recorded.get(key), installed.get(key), key) for key in names)
        return next((part for part in parts if part is not None), None)
    return None if recorded == installed else name


def compare(
    record: Record, again: Record, others: Sequence[Record], among: int = 1
) -> list[Compared]:
    """The headline numbers of a record and of its replay.

    A replay that worked on the very same model must find the very same numbers. Other hardware
    trains another model of the same kind: then the intervals of both counts must meet, or
    both may differ by as much as two repetitions do (Student's t with the spread of the other
    repetitions, where there are two or more). Both are of 95 % for all numbers together, after
    Bonferroni. A score has no interval of its own, so that with fewer repetitions nothing is known.

    Args:
        others: records of other repetitions of the same cell.
        among: how many numbers are compared, with those of other cells; see `count`.
    """
    if again.status != record.status:
        return [Compared("status", record.status, again.status, "", "differs")]
    if record.status == "failed":
        return [Compared("status", record.status, again.status, "", "equal")]
    confidence = 1 - 0.05 / among
    wider = NormalDist().inv_cdf((1 + confidence) / 2) / NormalDist().inv_cdf(0.975)
    own, new = _numbers(record), _numbers(again)
    family = [_numbers(other) for other in others if other.status == "ok"]
    found = []
    for title, number in new.items():
        recorded = own[title]
        verdict: Verdict
        if record.victim_sha256 == again.victim_sha256:
            verdict = "equal" if recorded.value == number.value else "differs"
            found.append(_compared(title, recorded, number, "the same model", verdict))
            continue
        below = wider * (recorded.value - recorded.low + number.high - number.value)
        above = wider * (recorded.high - recorded.value + number.value - number.low)
        values = [numbers[title].value for numbers in family if title in numbers]
        if len(values) >= FEW:
            reach = metrics.t_critical(len(values), confidence) * stdev(values) * math.sqrt(2)
            below, above = float(np.fmax(below, reach)), float(np.fmax(above, reach))
        if math.isnan(below):
            found.append(_compared(title, recorded, number, "too few repetitions", "unknown"))
            continue
        low, high = recorded.value - below, recorded.value + above
        verdict = "agrees" if low <= number.value <= high else "differs"
        found.append(_compared(title, recorded, number, f"{low:.4g} to {high:.4g}", verdict))
    return found


def _compared(
    title: str, recorded: Number, number: Number, allowed: str, verdict: Verdict
) -> Compared:
    return Compared(title, f"{recorded.value:.4g}", f"{number.value:.4g}", allowed, verdict)


def count(records: Sequence[Record]) -> int:
    """How many headline numbers they have."""
    return sum(len(_numbers(record)) for record in records if record.status != "failed")


def same_cell(one: Record, other: Record) -> bool:
    """Whether two records are repetitions of one cell."""
    return Cell.of(one).row == Cell.of(other).row and one.seed != other.seed


def _numbers(record: Record) -> Mapping[str, Number]:
    return GAMES[record.game].headline(record)
