"""Data frames from records: one row per victim, one per attack, defense and trusted share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from benchmark import metrics
from benchmark.runs.record import (
    NONE,
    DefenseRef,
    Metrics,
    PluginRef,
    Rate,
    Record,
    RobustnessRecord,
)

#: A short name for a plugin in a table.
Namer = Callable[[PluginRef], str]


def short_names(records: Sequence[Record]) -> Namer:
    """A plugin's name; its whole label only where several settings of it were played.

    Settings that differ with the trusted share alone do not count, the share is shown anyway.
    """
    labels: defaultdict[tuple[str, float | None], set[str]] = defaultdict(set)
    for record in records:
        labels[record.attack.name, None].add(record.attack.label)
        for stage in record.defense.stages:
            labels[stage.name, record.trusted_share].add(stage.label)
    several = {name for (name, _), found in labels.items() if len(found) > 1}
    return lambda ref: ref.label if ref.name in several else ref.name


def _defense_name(defense: DefenseRef, name: Namer) -> str:
    return "+".join(name(stage) for stage in defense.stages) or NONE


def share_text(share: float | None) -> str:
    """A trusted share in percent, a dash where the defense has no trusted images."""
    return "–" if share is None or pd.isna(share) else f"{100 * share:g}%"


def mean_columns(prefix: str, rates: Iterable[metrics.Rate]) -> dict[str, float]:
    """Mean over repetitions and its interval, as three columns; NaN where nothing was counted."""
    counts = [rate for rate in rates if rate.total]
    nothing = (float("nan"),) * 3
    mean, low, high = metrics.mean_interval(counts) if counts else nothing
    return {prefix: mean, f"{prefix}_low": low, f"{prefix}_high": high}


def _average(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _counts(rates: Iterable[Rate | None]) -> list[metrics.Rate]:
    return [rate.counts for rate in rates if rate is not None]


Group = list[tuple[RobustnessRecord, Metrics]]


def _grouped(
    records: Iterable[RobustnessRecord], key: Callable[[RobustnessRecord], tuple[object, ...]]
) -> list[tuple[Any, Group]]:
    """Measured and trusted cells by `key`, in the order of the key."""
    groups: defaultdict[tuple[object, ...], Group] = defaultdict(list)
    for record in records:
        if record.status == "ok" and record.metrics is not None:
            groups[key(record)].append((record, record.metrics))
    # None is no number: sort by whether it is there first.
    return sorted(groups.items(), key=lambda item: [(part is not None, part) for part in item[0]])


def attack_columns(record: Record, name: Namer) -> dict[str, Any]:
    attack = record.attack
    return {
        "attack": name(attack),
        "threat": attack.threat,
        "m": attack.m,
        "boost": attack.boost,
        "recipe": record.protocol.recipe,
    }


def victims(records: Sequence[RobustnessRecord], name: Namer) -> pd.DataFrame:
    """Undefended models: CDA, ASR and the trigger's effect on clean models, means over seeds."""
    rows = []
    undefended = (record for record in records if not record.defense.stages)
    for _, group in _grouped(
        undefended, lambda r: (r.protocol.recipe, r.attack.label, r.attack.m, r.attack.boost)
    ):
        rows.append(
            attack_columns(group[0][0], name)
            | {"seeds": len(group)}
            | mean_columns("cda", _counts(m.cda for _, m in group))
            | mean_columns("asr", _counts(m.asr for _, m in group))
            | {"asr_game": _average(m.asr_game for _, m in group)}
            | mean_columns("asr_clean", _counts(m.asr_clean_model for _, m in group))
            | {"target_confidence": _average(m.target_confidence for _, m in group)}
            | {"seconds": _average(r.cost.victim_seconds for r, _ in group)}
        )
    frame = pd.DataFrame(rows)
    # The clean model first, as the line to compare with.
    return frame.sort_values("threat", key=lambda t: t != NONE, kind="stable") if rows else frame


def repairs(records: Sequence[RobustnessRecord], name: Namer) -> pd.DataFrame:
    """Attack x defense x trusted share: remaining ASR and lost CDA in both readings."""
    rows = []
    defended = (record for record in records if record.defense.stages)
    for _, group in _grouped(
        defended,
        lambda r: (
            r.protocol.recipe,
            r.attack.label,
            r.attack.m,
            r.attack.boost,
            tuple(stage.label for stage in r.defense.stages),
            r.trusted_share,
        ),
    ):
        first = group[0][0]
        rows.append(
            attack_columns(first, name)
            | {
                "defense": _defense_name(first.defense, name),
                "trusted_share": first.trusted_share,
                "seeds": len(group),
            }
            | mean_columns("asr_before", _counts(m.before.asr for _, m in group))
            | mean_columns("asr_deployable", _counts(m.asr for _, m in group))
            | mean_columns("asr_paper", _counts(m.paper.asr for _, m in group))
            | {
                "cda_loss_deployable": _average(_lost(m, m.cda) for _, m in group),
                "cda_loss_paper": _average(_lost(m, m.paper.cda) for _, m in group),
                "repaired_deployable": sum(m.repaired for _, m in group),
                "repaired_paper": sum(_value(m.paper.asr) <= metrics.REPAIRED for _, m in group),
                "guard_auc": _average(m.guard.auc if m.guard else None for _, m in group),
                "seconds": _average(r.cost.seconds for r, _ in group),
            }
        )
    columns = ["attack", "m", "defense", "trusted_share"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def _value(rate: Rate) -> float:
    return float("nan") if rate.value is None else rate.value


def _lost(cell: Metrics, after: Rate) -> float:
    return _value(cell.before.cda) - _value(after)


def unfinished(records: Sequence[Record]) -> list[dict[str, str]]:
    """Cells that failed or that the sanity gate refused, with the reason."""
    rows = []
    for record in records:
        if record.status != "ok":
            error = record.error
            rows.append(
                {
                    "attack": record.attack.label,
                    "defense": record.defense.name,
                    "r": share_text(record.trusted_share),
                    "seed": str(record.seed),
                    "status": record.status,
                    "reason": f"{error.kind}: {error.message}" if error else record.reason or "",
                }
            )
    return rows
