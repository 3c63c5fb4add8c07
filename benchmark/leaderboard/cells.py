"""Settings that defenders chose, and cells that failed or were refused."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

import pandas as pd

from benchmark.games.columns import (
    ATTACK,
    DEFENSE,
    SEED,
    TRUSTED,
    Column,
    Unit,
    attack_label,
    defender_label,
)
from benchmark.games.frames import Frame, Sources
from benchmark.games.means import attack_columns, defense_name
from benchmark.records.record import REASONS, Record
from benchmark.texts import counted


def chosen(sources: Sources) -> pd.DataFrame:
    """One row per search for the settings of a repair."""
    rows = []
    for found in sources.searches:
        common = {"defense": found.defense, "trusted_share": found.trusted_share}
        if not found.trials:
            rows.append(common | {"chosen": f"the protocol's own: {found.impossible}"})
            continue
        held_out, unseen = found.cost(found.best)
        before = (own.poisoned.asr.value for own in found.poisonings)
        rows.append(
            common
            | {
                "points": len(found.trials),
                "own_asr_before": fmean(before),
                "own_asr_left": found.best.asr,
                "instability": found.instability,
                "accuracy_spent": held_out,
                "accuracy_spent_unseen": unseen,
                "chosen": ", ".join(f"{key}={v}" for key, v in found.best.params.items()),
            }
        )
    return pd.DataFrame(rows)


def _cell(record: Record, sources: Sources) -> dict[str, Any]:
    """Which cell a record is of, as columns."""
    return (
        attack_columns(record, sources.name)
        | {"defense": defense_name(record.defense, sources.name)}
        | {"trusted_share": record.trusted_share, "seed": record.seed}
    )


def unfinished(sources: Sources) -> pd.DataFrame:
    """One row per cell, with the reason."""
    rows = []
    for record in sources.unfinished:
        error = record.error
        reason = f"{error.kind}: {error.message}" if error else REASONS.get(record.reason or "", "")
        rows.append(_cell(record, sources) | {"status": record.status, "reason": reason})
    rows.sort(key=lambda row: [str(value) for value in row.values()])
    return pd.DataFrame(rows)


def told(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """How many cells have no numbers, and why the first of them has none."""
    frame = frames.get("unfinished", pd.DataFrame())
    if len(frame):
        first = frame.iloc[0].to_dict()
        who = defender_label(first["defense"], first["trusted_share"])
        why = textwrap.shorten(first["reason"], 160, placeholder="…")
        yield (
            f"{counted(len(frame), 'cell')} failed or invalid, such as {attack_label(first)} "
            f"against {who}, seed {first['seed']}: {why}"
        )


def replayed(sources: Sources) -> pd.DataFrame:
    """One row per cell, with where it was played again."""
    every = (*sources.records, *sources.unfinished)
    rows = [
        _cell(record, sources)
        | {"verdict": again.verdict, "device": again.device}
        | {name: again.env.get(name, "") for name in ("poisongames", "torch")}
        for record in every
        if (again := sources.replays.get(record.key))
    ]
    rows.sort(key=lambda row: [str(value) for value in row.values()])
    return pd.DataFrame(rows)


SEARCHES = Frame(
    "settings",
    "Settings that defenders chose",
    """\
What defenders found with trusted images only, on a clean model that they poisoned themselves: the
point of the grid that leaves the lowest ASR of their own trigger within the budget, on held-out
trusted images. The folder tuning/ holds every point of every grid.""",
    chosen,
    (
        DEFENSE, TRUSTED,
        Column("points", "points", Unit.COUNT, "settings that were tried"),
        Column("own_asr_before", "own ASR before", Unit.RATE, "of the own trigger", brief=True),
        Column("own_asr_left", "own ASR left", Unit.RATE, "with the chosen settings", brief=True),
        Column("instability", "over the grid (±)", Unit.RATE, "mean absolute difference of the own "
               "ASR left between any two settings", brief=True),
        Column("accuracy_spent", "cost (points)", Unit.POINTS, "accuracy that the chosen settings "
               "cost on held-out trusted images", brief=True, digits=1),
        Column("accuracy_spent_unseen", "cost on unseen images", Unit.POINTS, "the same on test "
               "images", digits=1),
        Column("chosen", "chosen", Unit.TEXT, "the chosen settings", brief=True),
    ),
)  # fmt: skip

UNFINISHED = Frame(
    "unfinished",
    "Failed and invalid cells",
    """\
A cell whose plugin raised an error has failed; one that the sanity gate refused is invalid. In
the means of other tables it is the worst case for whoever would profit from its absence: the
defense did nothing, or the attack did not work.""",
    unfinished,
    (
        *ATTACK, DEFENSE, TRUSTED,
        SEED,
        Column("status", "status", Unit.TEXT, "failed or invalid", brief=True, menu=True),
        Column("reason", "reason", Unit.TEXT, "why", brief=True),
    ),
)  # fmt: skip

REPLAYS = Frame(
    "replays",
    "Cells that were played again",
    """\
When results are handed in, some cells are played again from the installed plugins: those of a new
row that flatter most, those that failed, and random ones. On the same model all numbers are equal;
on another one they agree if they are no further apart than two repetitions.""",
    replayed,
    (
        *ATTACK, DEFENSE, TRUSTED,
        SEED,
        Column("verdict", "verdict", Unit.TEXT, "equal, or agrees", brief=True, menu=True),
        Column("device", "device", Unit.TEXT, "where", brief=True),
        Column("poisongames", "poisongames", Unit.TEXT, "by which version"),
        Column("torch", "torch", Unit.TEXT, "with which version of torch"),
    ),
    readme=False,
)  # fmt: skip
