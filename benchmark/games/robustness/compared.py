"""Defenses compared pair by pair, on the same victims: which order of theirs holds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from benchmark.games.columns import KEYS, TRUSTED, Column, Unit, counted
from benchmark.games.frames import Frame, Sources
from benchmark.games.means import attack_columns, average, defense_name, failures, spread_columns
from benchmark.games.robustness.shown import defended, left_at, measured

#: Of a defense the ASR that it leaves in the paper's reading, by attack and by seed.
Left = dict[tuple[Any, ...], dict[int, float]]


def comparisons(sources: Sources) -> pd.DataFrame:
    """Every pair of defenses with one trusted share, the one that leaves less ASR first."""
    dead = failures(sources.frames["victims"])
    left: dict[float | None, dict[str, Left]] = {}
    for group in defended(measured(sources)):
        first = group[0]
        columns = attack_columns(first, sources.name)
        attack = tuple(columns[key] for key in KEYS)
        if attack not in dead:
            of_share = left.setdefault(first.trusted_share, {})
            own = of_share.setdefault(defense_name(first.defense, sources.name), {})
            own[attack] = {one.seed: left_at(one, "paper").asr.value for one in group}
    rows = [
        {"trusted_share": share} | row
        for share, of_share in sorted(left.items(), key=lambda item: (item[0] is None, item[0]))
        for pair in combinations(sorted(of_share), 2)
        if (row := _compared(pair, of_share))
    ]
    return pd.DataFrame(rows)


def _compared(names: tuple[str, str], left: Mapping[str, Left]) -> dict[str, Any] | None:
    """The row of a pair; None where no victim met both."""
    one, other = (left[name] for name in names)
    changes = {
        attack: [own - other[attack][seed] for seed, own in seeds.items() if seed in other[attack]]
        for attack, seeds in one.items()
        if attack in other
    }
    every = [change for found in changes.values() for change in found]
    if not every:
        return None
    if average(average(found) for found in changes.values() if found) > 0:
        return _compared((names[1], names[0]), left)
    row: dict[str, Any] = {
        "defense": names[0],
        "against": names[1],
        "attacks": sum(bool(found) for found in changes.values()),
        "victims": len(every),
        "less": sum(change < 0 for change in every),
        "more": sum(change > 0 for change in every),
    }
    # Victims of one attack resemble one another, so that an attack counts once.
    row |= spread_columns("difference", [average(found) for found in changes.values() if found])
    return row | {"differ": bool(row["difference_high"] < 0)}


TEXT = """\
Two defenses with the same trusted images, on the victims that both met: how much less ASR the
first leaves, in the paper's reading. The difference is a mean over attacks that worked, each the
mean of its seeds, with Student's interval over attacks; where it ends below zero, the order holds
for attacks like these."""

COLUMNS = (
    Column("defense", "defense", Unit.TEXT, "the defense that leaves less ASR on average",
           brief=True, menu=True, names="defender", share="trusted_share"),
    Column("against", "compared with", Unit.TEXT, "the defense that it is compared with",
           brief=True, menu=True, names="defender", share="trusted_share"),
    TRUSTED,
    Column("difference", "difference", Unit.POINTS, "of the ASR that both leave, in points",
           interval=True, brief=True),
    Column("differ", "order holds", Unit.YES_NO, "whether the interval ends below zero",
           brief=True),
    Column("less", "less", Unit.COUNT, "victims of whose ASR the first leaves less", brief=True),
    Column("more", "more", Unit.COUNT, "victims of whose ASR the first leaves more", brief=True),
    Column("victims", "victims", Unit.COUNT, "victims that both met", brief=True),
    Column("attacks", "attacks", Unit.COUNT, "attacks that both met and that worked"),
)  # fmt: skip


def summary(frame: pd.DataFrame) -> str:
    """How many orders hold."""
    return f"{int(frame.differ.sum())} of {counted(len(frame), 'order')} hold."


FRAME = Frame(
    "comparisons", "Defenses compared", TEXT, comparisons, COLUMNS, summary=summary, readme=False
)
