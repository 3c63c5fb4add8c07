"""Data frames from records: one row per victim, one per attack, defense and trusted share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from benchmark import metrics
from benchmark.leaderboard.rows import Played, Row
from benchmark.runs.record import NONE, DefenseRef, PluginRef

#: A short name for a plugin in a table.
Namer = Callable[[PluginRef], str]


def short_names(rows: Iterable[Row]) -> Namer:
    """A plugin's name; its whole label only where several settings of it were played.

    Settings that differ with the trusted share alone do not count, the share is shown anyway.
    """
    labels: defaultdict[tuple[str, float | None], set[str]] = defaultdict(set)
    for row in rows:
        labels[row.attack.name, None].add(row.attack.label)
        for stage in row.defense.stages:
            labels[stage.name, row.trusted_share].add(stage.label)
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
            yield prefix + key, str(value)


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


def _known(rates: Iterable[metrics.Rate | None]) -> list[metrics.Rate]:
    return [rate for rate in rates if rate is not None]


def _grouped(
    rows: Iterable[Played], key: Callable[[Played], tuple[object, ...]]
) -> list[tuple[Any, list[Played]]]:
    """Rows by `key`, in the order of the key."""
    groups: defaultdict[tuple[object, ...], list[Played]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    # None is no number: sort by whether it is there first.
    return sorted(groups.items(), key=lambda item: [(part is not None, part) for part in item[0]])


def attack_columns(row: Row, name: Namer) -> dict[str, Any]:
    attack = row.attack
    return {
        "attack": name(attack),
        "threat": attack.threat,
        "m": attack.m,
        "boost": attack.boost,
        "recipe": row.recipe,
    }


def victims(rows: Iterable[Played], name: Namer) -> pd.DataFrame:
    """Undefended models: CDA, ASR and the trigger's effect on clean models, means over seeds."""
    found = []
    undefended = (row for row in rows if not row.defense.stages)
    for _, group in _grouped(
        undefended, lambda r: (r.recipe, r.attack.label, r.attack.m, r.attack.boost)
    ):
        found.append(
            attack_columns(group[0], name)
            | {"seeds": len(group)}
            | mean_columns("cda", (row.before_cda for row in group))
            | mean_columns("asr", (row.before_asr for row in group))
            | {"asr_game": _average(row.asr_game for row in group)}
            | mean_columns("asr_clean", _known(row.asr_clean_model for row in group))
            | {"target_confidence": _average(row.target_confidence for row in group)}
            | {"seconds": _average(row.victim_seconds for row in group)}
        )
    if not found:  # other tables look up what worked undefended
        return pd.DataFrame(columns=["attack", "m", "boost", "recipe", *mean_columns("asr", ())])
    # The clean model first, as the line to compare with.
    return pd.DataFrame(found).sort_values("threat", key=lambda t: t != NONE, kind="stable")


def defended(rows: Iterable[Played]) -> list[list[Played]]:
    """What `repairs` makes one row of each: an attack, a defense and a trusted share."""
    groups = _grouped(
        (row for row in rows if row.defense.stages),
        lambda r: (
            r.recipe,
            r.attack.label,
            r.attack.m,
            r.attack.boost,
            tuple(stage.label for stage in r.defense.stages),
            r.trusted_share,
        ),
    )
    return [group for _, group in groups]


def repairs(groups: Iterable[list[Played]], name: Namer) -> pd.DataFrame:
    """Attack x defense x trusted share: remaining ASR and lost CDA in both readings."""
    found = []
    for group in groups:
        first = group[0]
        found.append(
            attack_columns(first, name)
            | {
                "defense": _defense_name(first.defense, name),
                "trusted_share": first.trusted_share,
                "seeds": len(group),
            }
            | mean_columns("asr_before", (row.before_asr for row in group))
            | mean_columns("asr_paper", (row.paper_asr for row in group))
            | mean_columns("asr_deployable", (row.deployable_asr for row in group))
            | {
                "cda_loss_paper": _average(r.before_cda.value - r.paper_cda.value for r in group),
                "cda_loss_deployable": _average(
                    r.before_cda.value - r.deployable_cda.value for r in group
                ),
                "repaired_paper": sum(_repaired(row.paper_asr) for row in group),
                "repaired_deployable": sum(_repaired(row.deployable_asr) for row in group),
                "guard_auc": _average(row.guard_auc for row in group),
                "seconds": _average(row.seconds for row in group),
            }
        )
    columns = ["attack", "m", "defense", "trusted_share"]
    return pd.DataFrame(found) if found else pd.DataFrame(columns=columns)


def _repaired(asr: metrics.Rate) -> bool:
    return asr.value <= metrics.REPAIRED
