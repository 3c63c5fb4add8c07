"""Data frames from records: one row per victim, one per attack, defense and trusted share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd
import scipy

from benchmark import metrics
from benchmark.leaderboard.rows import Left, Played, Row
from benchmark.records.record import NONE, DefenseRef, PluginRef

#: A short name for a plugin in a table.
Namer = Callable[[PluginRef], str]
AnyRow = TypeVar("AnyRow", bound=Row)
#: What tells one attack of a board from another.
KEYS = ["attack", "m", "boost", "recipe"]
#: The two results of a cell, the headline first.
READINGS = ("paper", "deployable")


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


def defense_name(defense: DefenseRef, name: Namer) -> str:
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


def spread_columns(prefix: str, values: Sequence[float]) -> dict[str, float]:
    """Likewise of differences of rates, by Student's t; from one alone there are no bounds."""
    mean, half = average(values), float("nan")
    if len(values) > 1:
        half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values))
    # Written so that NaN stays NaN.
    low, high = max(mean - half, -1.0), min(mean + half, 1.0)
    return {prefix: mean, f"{prefix}_low": low, f"{prefix}_high": high}


def average(values: Iterable[float | None]) -> float:
    """Mean of what was measured; NaN if nothing was."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _known(rates: Iterable[metrics.Rate | None]) -> list[metrics.Rate]:
    return [rate for rate in rates if rate is not None]


def grouped(
    rows: Iterable[AnyRow], key: Callable[[AnyRow], tuple[object, ...]]
) -> list[tuple[Any, list[AnyRow]]]:
    """Rows by `key`, in the order of the key."""
    groups: defaultdict[tuple[object, ...], list[AnyRow]] = defaultdict(list)
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
    """Undefended models: CDA, ASR and the trigger's effect on clean models, means over seeds.

    An attack `worked` if its ASR is more than `REPAIRED` and clearly above what its trigger does
    to clean models: the intervals are apart. It is None where there is no ASR.
    """
    found = []
    undefended = (row for row in rows if not row.defense.stages)
    for _, group in grouped(
        undefended, lambda r: (r.recipe, r.attack.label, r.attack.m, r.attack.boost)
    ):
        own = (
            attack_columns(group[0], name)
            | {"seeds": len(group)}
            | mean_columns("cda", (row.before.cda for row in group))
            | mean_columns("asr", (row.before.asr for row in group))
            | {"asr_game": average(row.asr_game for row in group)}
            | mean_columns("asr_clean", _known(row.asr_clean_model for row in group))
        )
        found.append(
            own
            | {"worked": _worked(own)}
            | {"target_confidence": average(row.target_confidence for row in group)}
            | {"seconds": average(row.victim_seconds for row in group)}
        )
    if not found:  # other tables look up what worked undefended
        return pd.DataFrame(columns=[*KEYS, *mean_columns("asr", ()), "worked"])
    frame = pd.DataFrame(found).astype({"worked": object})
    # The clean model first, as the line to compare with.
    return frame.sort_values("threat", key=lambda t: t != NONE, kind="stable")


def _worked(victim: Mapping[str, Any]) -> bool | None:
    if pd.isna(victim["asr"]):
        return None
    # Without a clean model to compare with the bound is NaN, which nothing is below.
    hardly = victim["asr_low"] <= victim["asr_clean_high"]
    return bool(victim["asr"] > metrics.REPAIRED and not hardly)


def failures(victims: pd.DataFrame) -> set[tuple[Any, ...]]:
    """`KEYS` of attacks that did not work undefended.

    No repair can remove, and no detector find, what does nothing: an attack with m = 0 would be
    the least detectable of all.
    """
    return {tuple(key) for key in victims.loc[victims.worked.eq(False), KEYS].to_numpy()}


def judged(frame: pd.DataFrame, victims: pd.DataFrame) -> pd.DataFrame:
    """The frame with `worked`, whether its attack did undefended as far as is known."""
    if frame.empty:
        return frame
    failed = failures(victims)
    return frame.assign(worked=[tuple(key) not in failed for key in frame[KEYS].to_numpy()])


def defended(rows: Iterable[Played]) -> list[list[Played]]:
    """What `repairs` makes one row of each: an attack, a defense and a trusted share."""
    groups = grouped(
        (row for row in rows if row.defense.stages and row.attack.threat != NONE),
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
    """Attack x defense x trusted share: remaining ASR and lost CDA in both readings.

    A backdoor is `repaired` if the upper end of the interval is at most `REPAIRED`; in
    `seeds_repaired` of the seeds the ASR itself is, and `untouched` are those whose chosen model
    is the victim as it was.
    """
    found = []
    for group in groups:
        first = group[0]
        row: dict[str, Any] = attack_columns(first, name) | {
            "defense": defense_name(first.defense, name),
            "trusted_share": first.trusted_share,
            "seeds": len(group),
        }
        row |= mean_columns("asr_before", (cell.before.asr for cell in group))
        for reading in READINGS:
            row |= mean_columns(f"asr_{reading}", (left(cell, reading).asr for cell in group))
        for reading in READINGS:
            chosen = [left(cell, reading) for cell in group]
            row |= {
                f"cda_loss_{reading}": average(cda_losses(group, reading)),
                f"repaired_{reading}": bool(row[f"asr_{reading}_high"] <= metrics.REPAIRED),
                f"seeds_repaired_{reading}": sum(
                    one.asr.value <= metrics.REPAIRED for one in chosen
                ),
                f"untouched_{reading}": sum(one.untouched for one in chosen),
            }
        row |= {
            "guard_auc": average(cell.guard_auc for cell in group),
            "seconds": average(cell.seconds for cell in group),
        }
        found.append(row)
    columns = ["attack", "m", "defense", "trusted_share"]
    return pd.DataFrame(found) if found else pd.DataFrame(columns=columns)


def left(cell: Played, reading: str) -> Left:
    """What one of `READINGS` takes of a cell."""
    return cell.paper if reading == "paper" else cell.deployable


def cda_losses(cells: Iterable[Played], reading: str) -> list[float]:
    return [cell.before.cda.value - left(cell, reading).cda.value for cell in cells]
