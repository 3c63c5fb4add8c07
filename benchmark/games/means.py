"""Means over repetitions with their intervals, and what rows of tables have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import pandas as pd

from benchmark import metrics
from benchmark.games.columns import KEYS
from benchmark.games.frames import Namer
from benchmark.records.record import NONE, DefenseRef, PluginRef, Record
from benchmark.specs import written

AnyRecord = TypeVar("AnyRecord", bound=Record)


def short_names(records: Iterable[Record]) -> Namer:
    """A plugin's name; its whole label only where several settings of it were played.

    Settings that differ with the trusted share alone do not count: the share is shown anyway.
    """
    labels: defaultdict[tuple[str, float | None], set[str]] = defaultdict(set)
    for record in records:
        labels[record.attack.name, None].add(record.attack.label)
        for stage in record.defense.stages:
            labels[stage.name, record.trusted_share].add(stage.label)
    several = {name for (name, _), found in labels.items() if len(found) > 1}
    return lambda ref: ref.label if ref.name in several else ref.name


def settings(plugin: PluginRef) -> dict[str, str]:
    """Parameters as on the command line: those of a plugin inside a plugin with a dot."""
    return dict(_flat(plugin.params))


def _flat(params: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in params.items():
        if isinstance(value, dict) and "params" in value:
            yield prefix + key, str(value["name"])
            yield from _flat(value["params"], f"{prefix}{key}.")
        else:
            yield prefix + key, written(value)


def defense_name(defense: DefenseRef, name: Namer) -> str:
    return "+".join(name(stage) for stage in defense.stages) or NONE


def unplayed(records: Iterable[Record]) -> int:
    """How many of the records are of cells that failed or were refused."""
    return sum(record.status != "ok" for record in records)


def seconds_of(records: Iterable[Record]) -> float:
    """Mean of what cells took; what failed soon is not fast."""
    return average(record.cost.seconds for record in records if record.status == "ok")


def mean_columns(prefix: str, rates: Iterable[metrics.Rate | None]) -> dict[str, float]:
    """Mean over repetitions and its interval, as three columns; NaN where nothing was counted."""
    counts = [rate for rate in rates if rate is not None and rate.total]
    nothing = (float("nan"),) * 3
    mean, low, high = metrics.mean_interval(counts) if counts else nothing
    return {prefix: mean, f"{prefix}_low": low, f"{prefix}_high": high}


def spread_columns(prefix: str, values: Sequence[float], lowest: float = -1.0) -> dict[str, float]:
    """Likewise by Student's t, with bounds where there is a `spread`.

    Args:
        values: differences of rates, or rates, which are never below `lowest` = 0.
    """
    mean, half = average(values), spread(values)
    # Written so that NaN stays NaN.
    low, high = max(mean - half, lowest), min(mean + half, 1.0)
    return {prefix: mean, f"{prefix}_low": low, f"{prefix}_high": high}


def spread(values: Sequence[float], confidence: float = 0.95) -> float:
    """Half of Student's interval; NaN of one value and of equal ones, which tell of no others."""
    several = len(set(values)) > 1
    return metrics.half_width(values, confidence) if several else float("nan")


def average(values: Iterable[float | None]) -> float:
    """Mean of what was measured; NaN if nothing was."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def grouped(
    records: Iterable[AnyRecord], key: Callable[[AnyRecord], tuple[object, ...]]
) -> list[tuple[Any, list[AnyRecord]]]:
    """Records by `key`, in the order of the key, with None before numbers."""
    groups: defaultdict[tuple[object, ...], list[AnyRecord]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return sorted(groups.items(), key=lambda item: [(part is not None, part) for part in item[0]])


def defense_key(record: Record) -> tuple[object, ...]:
    """What tells the defense of a record from others: recipe, names, trusted share and settings."""
    stages = record.defense.stages
    names, labels = (tuple(getattr(one, key) for one in stages) for key in ("name", "label"))
    return record.protocol.recipe, names, record.trusted_share, labels


def attack_key(record: Record) -> tuple[str, str, int, int]:
    """What tells the attack of a record from others: recipe, label, m and boosting."""
    attack = record.attack
    return record.protocol.recipe, attack.label, attack.m, attack.boost


def attack_columns(record: Record, name: Namer) -> dict[str, Any]:
    attack = record.attack
    return {
        "attack": name(attack),
        "threat": attack.threat,
        "m": attack.m,
        "boost": attack.boost,
        "recipe": record.protocol.recipe,
    }


def failures(victims: pd.DataFrame) -> set[tuple[Any, ...]]:
    """`KEYS` of attacks that did not work undefended, or of which nobody can tell.

    No repair can remove, and no detector find, what does nothing: an attack with m = 0 would be
    the least detectable of all.
    """
    dead = victims.attack.ne(NONE) & ~victims.worked.eq(True)
    return {tuple(key) for key in victims.loc[dead, KEYS].to_numpy()}


def met_by_several(frame: pd.DataFrame, defender: str) -> pd.DataFrame:
    """Rows of attacks that several defenders met, or all rows where there is one defender.

    What one of them was tried on alone compares nobody, and would leave all others incomplete.

    Args:
        defender: the column with its name; other trusted shares are no others.
    """
    met = frame.groupby(KEYS)[defender].transform("nunique")
    return frame[(met > 1) | (frame[defender].nunique() == 1)]


def judged(frame: pd.DataFrame, victims: pd.DataFrame) -> pd.DataFrame:
    """The frame with `worked`: whether its attack did undefended, as far as is known."""
    if frame.empty:
        return frame
    failed = failures(victims)
    return frame.assign(worked=[tuple(key) not in failed for key in frame[KEYS].to_numpy()])
