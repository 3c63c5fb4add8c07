"""Defenses compared pair by pair, on the same victims: which order of theirs holds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from benchmark.games.columns import KEYS, TRUSTED, Column, Unit
from benchmark.games.frames import Frame, Sources
from benchmark.games.means import attack_columns, average, defense_name, failures, spread
from benchmark.games.robustness.shown import defended, left_at, measured
from benchmark.texts import counted

#: Of fewer attacks no order is told: what is left is often all or nothing, and agrees by chance.
FEWEST = 5
#: Of a defense the ASR that it leaves in the paper's reading, by name of the attack and by victim.
Left = dict[str, dict[tuple[Any, ...], float]]


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
            # Settings of one attack are no other attack.
            victims = own.setdefault(first.attack.name, {})
            rates = {one.seed: left_at(one, "paper").asr for one in group}
            victims |= {(attack, seed): asr.value for seed, asr in rates.items() if asr.total}
    rows: list[dict[str, Any]] = []
    for share, of_share in sorted(left.items(), key=lambda item: (item[0] is None, item[0])):
        pairs = [*combinations(sorted(of_share), 2)]
        found = [_compared(pair, of_share, len(pairs)) for pair in pairs]
        told = [{"trusted_share": share} | row for row in found if row]
        rows += sorted(told, key=lambda row: float(row["difference"]))
    return pd.DataFrame(rows)


def _compared(
    names: tuple[str, str], left: Mapping[str, Left], pairs: int
) -> dict[str, Any] | None:
    """The row of one of so many pairs; None where no victim met both."""
    one, other = (left[name] for name in names)
    changes = {
        attack: [own - other[attack][key] for key, own in victims.items() if key in other[attack]]
        for attack, victims in one.items()
        if attack in other
    }
    means = [average(found) for found in changes.values() if found]
    if not means:
        return None
    if average(means) > 0:
        return _compared((names[1], names[0]), left, pairs)
    every = [change for found in changes.values() for change in found]
    # All intervals of a share hold together with a probability of 95 % (Bonferroni).
    enough = len(means) >= FEWEST
    half = spread(means, 1 - 0.05 / pairs) if enough else float("nan")
    high = average(means) + half
    return {
        "defense": names[0],
        "against": names[1],
        "attacks": len(means),
        "victims": len(every),
        "less": sum(change < 0 for change in every),
        "more": sum(change > 0 for change in every),
        "difference": average(means),
        "difference_low": average(means) - half,
        "difference_high": high,
        "holds": high < 0,
    }


TEXT = f"""\
Two defenses with the same trusted images, on the victims that both met: how much less ASR the
first leaves, in the paper's reading. The difference is a mean over attacks that worked, each the
mean of its victims, with Student's interval over attacks, widened so that those of all pairs with
this share hold together. Where it ends below zero, the order holds for attacks like these. Fewer
than {FEWEST} attacks tell no order."""

COLUMNS = (
    Column("defense", "defense", Unit.TEXT, "the defense that leaves less ASR on average",
           brief=True, menu=True, names="defender", share="trusted_share"),
    Column("against", "compared with", Unit.TEXT, "the defense that it is compared with",
           brief=True, menu=True, names="defender", share="trusted_share"),
    TRUSTED,
    Column("difference", "difference", Unit.POINTS, "of the ASR that both leave, in points",
           interval=True, brief=True),
    Column("holds", "order holds", Unit.YES_NO, "whether the interval ends below zero",
           brief=True),
    Column("less", "less", Unit.COUNT, "victims of whose ASR the first leaves less", brief=True),
    Column("more", "more", Unit.COUNT, "victims of whose ASR the first leaves more", brief=True),
    Column("victims", "victims", Unit.COUNT, "victims that both met", brief=True),
    Column("attacks", "attacks", Unit.COUNT, "attacks that both met and that worked", brief=True),
)  # fmt: skip


def summary(frame: pd.DataFrame) -> str:
    """How many orders hold."""
    return f"{int(frame.holds.sum())} of {counted(len(frame), 'order')} hold."


FRAME = Frame(
    "comparisons", "Defenses compared", TEXT, comparisons, COLUMNS, summary=summary, readme=False
)
