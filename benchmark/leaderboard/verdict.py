"""What a board says, in a few sentences made from its tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from benchmark import metrics
from benchmark.leaderboard.fronts import attack_label, defender_label, scored, that_worked
from benchmark.leaderboard.tables import KEYS
from benchmark.leaderboard.text import interval, percent

#: A detector that ranks models no better than this guesses; half-way from there to certainty.
GUESSING, HALF_WAY = 0.5, 0.75
#: More names than this are counted instead.
NAMED = 4

Row = Mapping[str, Any]


def sentences(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """Which attack to fear and which defender to use, in the paper's reading.

    Only attacks that worked undefended count, see `tables.victims`. What the tables do not hold is
    not said.

    Args:
        frames: "victims", and "repairs", "detectability" and "pareto" where there are any.
    """
    parts = [_worked(frames["victims"])]
    if "repairs" in frames:
        parts += _repairs(that_worked(frames["repairs"]).dropna(subset="asr_paper"))
    if "detectability" in frames:
        parts += _detectors(that_worked(scored(frames["detectability"])).dropna(subset="auc"))
    if "pareto" in frames:
        parts += _fronts(frames["pareto"])
    return [part for part in parts if part]


def _worked(victims: pd.DataFrame) -> str:
    attacks = victims[victims.worked.notna()]
    if attacks.empty:
        return ""
    failed = attacks[~attacks.worked.astype(bool)]
    said = f"{len(attacks) - len(failed)} of {_counted(len(attacks), 'attack')} worked undefended"
    return f"{said}; {_listed(failed)} did not." if len(failed) else f"{said}."


def _repairs(frame: pd.DataFrame) -> list[str]:
    """Who repairs most, and what nobody repairs; of equals who leaves least."""
    if frame.empty:
        return []
    attacks = frame[KEYS].drop_duplicates()
    best = max(
        (
            (int(own.repaired_paper.sum()), len(own), -float(own.asr_paper.mean()), name, share)
            for (name, share), own in frame.groupby(["defense", "trusted_share"], dropna=False)
        ),
        key=lambda found: found[:3],
    )
    repaired, met, left, name, share = best
    who = defender_label(name, share)
    first = f"{who} repairs most: {repaired} of the {_counted(met, 'attack')} it met"
    if not repaired:
        first = f"No defense repairs any of {_counted(len(attacks), 'attack')}; {who} comes closest"
    mean = f"with {-100 * left:.0f} % ASR left on average"
    keys = frame[frame.repaired_paper.astype(bool)][KEYS]
    fallen = set(map(tuple, keys.to_numpy()))
    standing = attacks[[tuple(key) not in fallen for key in attacks.to_numpy()]]
    second = f"Nobody repairs {_listed(standing)}." if repaired and len(standing) else ""
    return [f"{first}, {mean}.", second]


def _detectors(frame: pd.DataFrame) -> list[str]:
    """Whose worst AUC is highest, among those who met most attacks."""
    if frame.empty:
        return []
    groups = [own for _, own in frame.groupby(["detector", "trusted_share"], dropna=False)]
    most = max(map(len, groups))
    best = max((own for own in groups if len(own) == most), key=lambda own: own.auc.min())
    worst = best.loc[best.auc.idxmin()].to_dict()
    who = defender_label(worst["detector"], worst["trusted_share"])
    return [
        f"{who} finds attacks best: its lowest AUC is {interval(worst, 'auc')}, against "
        f"{attack_label(worst)}."
    ]


def _fronts(frame: pd.DataFrame) -> list[str]:
    """Who stays robust, clearly not repaired, and hidden: a detector may be guessing."""
    met = frame[frame.front.notna()]
    hidden = (met.auc_low <= GUESSING) & (met.auc < HALF_WAY)
    both = met[(met.asr_paper_low > metrics.REPAIRED) & hidden]
    if len(both):
        said = f"{_listed(both)} {'stays' if len(both) == 1 else 'stay'} robust and hidden."
    elif len(met):
        row = met.loc[(met.asr_paper * (1 - met.auc)).idxmax()].to_dict()
        said = (
            f"No attack stays both robust and hidden; closest is {attack_label(row)}, with "
            f"{percent(row, 'asr_paper')} % ASR left and an AUC of {interval(row, 'auc')}."
        )
    else:
        said = ""
    rest = frame[frame.front.isna()]
    missing = f"{_listed(rest)} did not meet all defenders and detectors." if len(rest) else ""
    return [said, missing]


def _listed(frame: pd.DataFrame) -> str:
    names = [attack_label(row) for row in frame.to_dict("records")]
    return _joined(names) if len(names) <= NAMED else _counted(len(names), "attack")


def _joined(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
