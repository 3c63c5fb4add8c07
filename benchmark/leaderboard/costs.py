"""What each defender costs, on clean models and in time, and what he may expect to be left with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from benchmark import metrics
from benchmark.games.robustness.searches import Search
from benchmark.leaderboard.rows import Examined, Played, Rows
from benchmark.leaderboard.tables import (
    KEYS,
    READINGS,
    Namer,
    attack_columns,
    average,
    cda_losses,
    defended,
    defense_name,
    failures,
    grouped,
    left,
    mean_columns,
    spread_columns,
)
from benchmark.records.record import NONE


def costs(
    rows: Rows,
    victims: pd.DataFrame,
    repairs: pd.DataFrame,
    searches: Sequence[Search],
    name: Namer,
) -> pd.DataFrame:
    """One row per defender of either game, trusted share and recipe.

    Of clean models: how many, what accuracy a repair or guard takes of them in both readings
    (`clean_loss`), and how often a detector flags one (`false_alarms`). `overhead` is the mean
    of a defense's seconds over those of training its victim, `instability` that of the search for
    its settings. Of the `attacks` that worked, over all their seeds: how many are `repaired`, in
    how many cells the ASR is (`cells_repaired`) and the victim stays as it was (`untouched`),
    lost accuracy, and `success`, the mean of CDA - ASR, which is 1 for a perfect defender.

    Args:
        victims, repairs: as `tables.victims` and `tables.judged` make them, of the same rows.
        searches: what defenders found for themselves.
    """
    failed = failures(victims)
    unstable = {(one.defense, one.trusted_share): one.instability for one in searches}
    repaired = Counter(
        (*_defender(row["recipe"], row["defense"], row["trusted_share"]), reading)
        for row in repairs.to_dict("records")
        for reading in READINGS
        if row["worked"] and row[f"repaired_{reading}"]
    )
    found = []
    for _, group in grouped(
        (row for row in rows.played if row.defense.stages),
        lambda r: (r.recipe, tuple(s.label for s in r.defense.stages), r.trusted_share),
    ):
        first = group[0]
        stages = "+".join(stage.name for stage in first.defense.stages)
        defense = defense_name(first.defense, name)
        own = _defender(first.recipe, defense, first.trusted_share)
        found.append(
            {"game": "robustness", "defender": defense}
            | {"trusted_share": first.trusted_share, "recipe": first.recipe}
            | _on_clean(group)
            | {"overhead": average(map(_overhead, group))}
            | {"instability": unstable.get((stages, first.trusted_share or 0.0), float("nan"))}
            | {f"repaired_{reading}": repaired[*own, reading] for reading in READINGS}
            | _against([cells for cells in defended(group) if _key(cells[0], name) not in failed])
        )
    for _, examined in grouped(
        rows.examined, lambda r: (r.recipe, r.defense.stages[0].label, r.trusted_share)
    ):
        one = examined[0]
        clean = [row for row in examined if row.attack.threat == NONE]
        found.append(
            {"game": "detectability", "defender": name(one.defense.stages[0])}
            | {"trusted_share": one.trusted_share, "recipe": one.recipe}
            | {"clean_models": len(clean)}
            | false_alarms(clean)
            | {"overhead": average(map(_overhead, examined))}
        )
    return pd.DataFrame(found)


def false_alarms(clean: Iterable[Examined]) -> dict[str, float]:
    """How often a detector flags clean models at its native threshold, with an interval."""
    answers = [[scan.flagged for scan in row.scans if scan.flagged is not None] for row in clean]
    return mean_columns("false_alarms", (metrics.Rate(sum(own), len(own)) for own in answers))


def _defender(recipe: str, defense: str, share: float | None) -> tuple[str, str, float]:
    """What tells one from another; missing shares come as NaN, no two of which are the same."""
    return recipe, defense, 0.0 if share is None or pd.isna(share) else share


def _on_clean(group: Sequence[Played]) -> dict[str, float]:
    clean = [row for row in group if row.attack.threat == NONE]
    found: dict[str, float] = {"clean_models": len(clean)}
    for reading in READINGS:
        found |= spread_columns(f"clean_loss_{reading}", cda_losses(clean, reading))
    return found


def _against(attacks: Sequence[list[Played]]) -> dict[str, Any]:
    cells = [cell for group in attacks for cell in group]
    found: dict[str, Any] = {"attacks": len(attacks), "cells": len(cells)}
    for reading in READINGS:
        found |= {
            f"cells_repaired_{reading}": sum(
                left(cell, reading).asr.value <= metrics.REPAIRED for cell in cells
            ),
            f"untouched_{reading}": sum(left(cell, reading).untouched for cell in cells),
            f"cda_loss_{reading}": average(cda_losses(cells, reading)),
        }
        found |= _success(attacks, reading)
    return found


def _success(attacks: Sequence[list[Played]], reading: str) -> dict[str, float]:
    """Mean over attacks, with its spread over seeds where all attacks have the same ones."""
    by_seed: dict[int, list[float]] = {}
    for group in attacks:
        for cell in group:
            chosen = left(cell, reading)
            by_seed.setdefault(cell.seed, []).append(chosen.cda.value - chosen.asr.value)
    name = f"success_{reading}"
    if any(len(values) != len(attacks) for values in by_seed.values()):
        return spread_columns(name, [average(v for own in by_seed.values() for v in own)])
    return spread_columns(name, [fmean(values) for values in by_seed.values()])


def _overhead(row: Played | Examined) -> float | None:
    if isinstance(row, Examined):
        seconds: float | None = fmean(scan.seconds for scan in row.scans)
    else:
        seconds = row.defense_seconds
    return seconds / row.victim_seconds if seconds is not None and row.victim_seconds else None


def _key(row: Played, name: Namer) -> tuple[Any, ...]:
    columns = attack_columns(row, name)
    return tuple(columns[key] for key in KEYS)
