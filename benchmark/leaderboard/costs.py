"""What each defender costs, on clean models and in time, and what he may expect to be left with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from benchmark import metrics
from benchmark.games.columns import DEFENDER, GAME, KEYS, TRUSTED, Column, Unit, share_key
from benchmark.games.detectability.frames import false_alarms
from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.games.frames import Frame, Sources
from benchmark.games.means import (
    attack_columns,
    average,
    defense_key,
    defense_name,
    failures,
    grouped,
    spread_columns,
)
from benchmark.games.robustness.frames import cda_losses
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.games.robustness.shown import (
    READINGS,
    defended,
    in_both_readings,
    left_at,
    measured,
)
from benchmark.records.record import Record


def costs(sources: Sources) -> pd.DataFrame:
    """One row per defender of either game, trusted share and recipe; see `COLUMNS`."""
    failed = failures(sources.frames["victims"])
    unstable = {
        (one.defense, one.trusted_share): one.instability for one in sources.searches if one.trials
    }
    repaired = Counter(
        (row["recipe"], row["defense"], share_key(row["trusted_share"]), reading)
        for row in sources.frames["repairs"].to_dict("records")
        for reading in READINGS
        if row["worked"] and row[f"repaired_{reading}"]
    )

    def worked(group: list[RobustnessRecord]) -> bool:
        columns = attack_columns(group[0], sources.name)
        return tuple(columns[key] for key in KEYS) not in failed

    found = []
    for _, group in grouped(
        (one for one in measured(sources) if one.defense.stages),
        defense_key,
    ):
        first = group[0]
        defense = defense_name(first.defense, sources.name)
        own = first.protocol.recipe, defense, share_key(first.trusted_share)
        found.append(
            _who(first, defense)
            | _on_clean(group, _spent(sources, group[0]))
            | {"overhead": average(_overhead(one, one.cost.defense_seconds) for one in group)}
            | {
                "instability": unstable.get(
                    (first.defense.name, share_key(first.trusted_share)), float("nan")
                )
            }
            | {f"repaired_{reading}": repaired[*own, reading] for reading in READINGS}
            | _against([cells for cells in defended(group) if worked(cells)])
        )
    for _, examined in grouped(
        sources.counted(DetectabilityRecord),
        defense_key,
    ):
        clean = [one for one in examined if one.attack.clean]
        played = [one for one in examined if one.status == "ok"]
        seconds = (fmean(scan.seconds for scan in one.scans) for one in played)
        times = [_overhead(one, own) for one, own in zip(played, seconds, strict=True)]
        found.append(
            _who(examined[0], sources.name(examined[0].defense.stages[0]))
            | {"clean_models": len(clean)}
            | false_alarms(clean)
            | {"overhead": average(times)}
        )
    return pd.DataFrame(found)


def _who(record: Record, defender: str) -> dict[str, Any]:
    found = {"game": record.game, "defender": defender, "trusted_share": record.trusted_share}
    return found | {"recipe": record.protocol.recipe}


def _spent(sources: Sources, of: RobustnessRecord) -> list[float]:
    """What a defender lost on the clean models on which he failed: all that he may lose.

    How much that is nobody knows of a protocol that was not released.
    """
    if sources.protocol is None:
        return []
    budget = sources.protocol.budget
    same = (of.defense, of.trusted_share, of.protocol)
    return [
        budget
        for one in sources.unfinished
        if one.game == of.game and one.attack.clean
        if (one.defense, one.trusted_share, one.protocol) == same
    ]


def _on_clean(group: Sequence[RobustnessRecord], spent: list[float]) -> dict[str, float]:
    clean = [one for one in group if one.attack.clean]
    found: dict[str, float] = {"clean_models": len(clean) + len(spent)}
    for reading in READINGS:
        losses = [*cda_losses(clean, reading), *spent]
        found |= spread_columns(f"clean_loss_{reading}", losses)
    return found


def _against(attacks: Sequence[list[RobustnessRecord]]) -> dict[str, Any]:
    cells = [cell for group in attacks for cell in group]
    found: dict[str, Any] = {"attacks": len(attacks), "cells": len(cells)}
    for reading in READINGS:
        found |= {
            f"cells_repaired_{reading}": sum(
                left_at(cell, reading).asr.value <= metrics.REPAIRED for cell in cells
            ),
            f"untouched_{reading}": sum(left_at(cell, reading).stage == "victim" for cell in cells),
            f"cda_loss_{reading}": average(cda_losses(cells, reading)),
        }
        found |= _success(attacks, reading)
    return found


def _success(attacks: Sequence[list[RobustnessRecord]], reading: str) -> dict[str, float]:
    """Mean over attacks, with its spread over seeds where all attacks have the same ones."""
    by_seed: dict[int, list[float]] = {}
    for group in attacks:
        for cell in group:
            chosen = left_at(cell, reading)
            if chosen.asr.total:
                gained = chosen.cda.value - chosen.asr.value
                by_seed.setdefault(cell.seed, []).append(gained)
    name = f"success_{reading}"
    if any(len(values) != len(attacks) for values in by_seed.values()):
        return spread_columns(name, [average(v for own in by_seed.values() for v in own)])
    return spread_columns(name, [fmean(values) for values in by_seed.values()])


def _overhead(record: Record, seconds: float | None) -> float | None:
    """Seconds as a multiple of those of training the record's victim."""
    trained = record.cost.victim_seconds
    return seconds / trained if seconds is not None and trained else None


TEXT = """\
What defenders take of models without a backdoor, how long they take, and what remains of the
attacks that worked. CDA - ASR is what a defender may expect, 100 at best."""

COLUMNS = (
    GAME,
    DEFENDER,
    TRUSTED,
    Column("recipe", "recipe", Unit.TEXT, "how victims were trained"),
    Column("attacks", "attacks", Unit.COUNT, "attacks that worked and that it met", brief=True),
    *in_both_readings("repaired", "repaired", Unit.COUNT, "attacks that are repaired", brief=True),
    *in_both_readings("success", "CDA - ASR", Unit.POINTS,
                      "mean of CDA - ASR with the interval of its mean over seeds",
                      interval=True, brief=True, digits=1),
    *in_both_readings("clean_loss", "CDA lost on clean models", Unit.POINTS,
                      "accuracy that clean models lose, with Student's interval over them",
                      interval=True, brief=True, digits=1),
    Column("false_alarms", "false alarms", Unit.RATE, "how often the detector's own answer to a "
           "clean model is yes", interval=True, brief=True),
    Column("clean_models", "clean models", Unit.COUNT, "models without a backdoor", brief=True),
    Column("overhead", "time / training", Unit.NUMBER, "mean seconds of the defender as a "
           "multiple of those of training its victim", brief=True, digits=-3),
    Column("instability", "over the grid (±)", Unit.RATE, "mean absolute difference of what is "
           "left of the own backdoor between any two settings that the search tried"),
    Column("cells", "cells", Unit.COUNT, "cells of these attacks, one per seed"),
    *in_both_readings("cells_repaired", "cells repaired", Unit.COUNT, "cells with 5 % ASR at most"),
    *in_both_readings("untouched", "untouched", Unit.COUNT,
               "cells whose chosen model is the victim as it was"),
    *in_both_readings("cda_loss", "CDA loss", Unit.POINTS, "mean loss of accuracy"),
)  # fmt: skip

COSTS = Frame("costs", "What defenders cost", TEXT, costs, COLUMNS, split="game")
