"""Fronts, and defenders in their worst case, as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from benchmark.leaderboard.fronts import (
    KINDS,
    attack_label,
    defender_label,
    hypervolumes,
)
from benchmark.leaderboard.text import cell_text, interval, number, percent, table, yes_or_no

PARETO = """\
What an attacker whose attack worked is left with: ASR (the paper's reading, beside it what the
same defense leaves in the deployable one) after the repair, guard or sanitizer that helps most
against this attack, and AUC of the detector that finds it best; in parentheses how many defenders
of those that any attack of its kind met. Who met fewer looks better and is on no front. Lower
right in the picture is best for the attacker. An attack is on the front if no other of its kind is
as robust and as hidden. The hypervolume is the area that a front dominates: 0 for attackers without
a chance, 1 for one that nobody repairs or finds. Brackets are 95 % intervals of the defender that
was chosen; that it was chosen among several makes it look a little better than it is. Only where
the intervals are apart on both axes does one attack clearly dominate another.
"""
DEFENDERS = """\
The worst that the attacks of this board, those that worked undefended, do to each defender: the
highest remaining ASR in the paper's reading, with the mean loss of accuracy, and in the deployable
one, or the lowest AUC. On the front is who is beaten by no other in all of that, deployable reading
aside. Who did not meet every attack is marked and is on no front, as the worst may still come;
neither is who is idle: every chosen model is the untouched victim. Brackets are 95 % intervals
against one attack alone.
"""

Row = dict[str, str]
Name = Callable[[str], str]


def sections(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """Parts of a board's Markdown page; those without a frame are left out."""
    parts = []
    if "pareto" in frames:
        frame = frames["pareto"]
        parts += ["## Robust and undetected", PARETO.rstrip(), table(front_rows(frame))]
        parts += [volume_text(frame), "![Remaining ASR against ROC AUC](pareto.svg)"]
    if "defenders" in frames:
        frame = frames["defenders"]
        parts += ["## Defenders in the worst case", DEFENDERS.rstrip()]
        parts += [table(defender_rows(own)) for _, own in frame.groupby("game", sort=False)]
    return parts


def front_rows(frame: pd.DataFrame, name: Name = cell_text) -> list[Row]:
    """One row per attack of `fronts.front_table`, those on the front first, gaps last.

    `name` escapes what plugins are called.
    """
    place = frame.front.map({True: 0, False: 1}).fillna(2)
    # "data" poisoning comes first.
    ordered = frame.assign(place=place).sort_values(
        ["kind", "place", "asr_paper"], ascending=[False, True, False], kind="stable"
    )
    return [
        {
            "attack": name(attack_label(row)),
            "kind": row["kind"].split()[0],
            "front": yes_or_no(row["front"]),
            "ASR left": percent(row, "asr_paper"),
            "deployable": percent(row, "asr_deployable"),
            "by": _responder(row, "defense", "trusted_share", "defenses", name),
            "AUC": interval(row, "auc") if pd.notna(row["auc"]) else "–",
            "found by": _responder(row, "detector", "detector_share", "detectors", name),
            "dominated by": name(_dominators(row)),
        }
        for row in ordered.to_dict("records")
    ]


def _responder(row: Mapping[str, Any], who: str, share: str, count: str, name: Name) -> str:
    if pd.isna(row[who]):
        return "–"
    return f"{name(defender_label(row[who], row[share]))} ({row[f'{count}_met']}/{row[count]})"


def _dominators(row: Mapping[str, Any]) -> str:
    clearly = row["clearly_dominated_by"].split("; ")
    names = row["dominated_by"].split("; ")
    return "; ".join(f"{name}, clearly" if name in clearly and name else name for name in names)


def volume_text(frame: pd.DataFrame) -> str:
    """Hypervolumes of the fronts that have points."""
    there = set(frame.kind[frame.front.notna()])
    found = hypervolumes(frame)
    return (
        "; ".join(f"{kind}: hypervolume {found[kind]:.3f}" for kind in KINDS if kind in there) + "."
    )


def defender_rows(frame: pd.DataFrame, name: Name = cell_text) -> list[Row]:
    """One row per defender of one game of `fronts.defense_points`."""
    return [
        {"defender": name(defender_label(row["defender"], row["trusted_share"]))}
        | _worst(row)
        | {
            "against": name(row["worst_attack"]),
            "attacks": f"{row['attacks']} of {row['of']}"
            + ("" if row["attacks"] == row["of"] else ", not all")
            + (", idle" if row["idle"] else ""),
            "front": yes_or_no(row["front"]),
        }
        for row in frame.to_dict("records")
    ]


def _worst(row: Mapping[str, Any]) -> Row:
    if row["game"] == "detectability":
        return {"lowest AUC": interval(row, "auc")}
    return {
        "highest ASR left": percent(row, "asr_paper"),
        "deployable": percent(row, "asr_deployable"),
        "CDA loss (points)": number(100 * row["cda_loss"], 2),
    }


def volume_rows(old: pd.DataFrame, new: pd.DataFrame) -> list[Row]:
    """Hypervolume of each front in two sets of records."""
    before, after = hypervolumes(old), hypervolumes(new)
    return [
        {
            "front": front,
            "hypervolume before": number(before[front], 3),
            "after": number(after[front], 3),
            "change": f"{after[front] - before[front]:+.3f}",
        }
        for front in KINDS
    ]


def change_rows(frame: pd.DataFrame, name: Name = cell_text) -> list[Row]:
    """One row per attack of `fronts.compare`."""
    return [
        {
            "attack": name(attack_label(row)),
            "kind": row["kind"].split()[0],
            "change": row["change"],
            "ASR left": _moved(row, "asr_paper", lambda value: number(100 * value)),
            "AUC": _moved(row, "auc", lambda value: number(value, 2)),
            "front": _moved(row, "front", lambda value: "yes" if value else "no"),
            "dominates": name(row["dominates"]),
            "dominated by": name(row["dominated_by"]),
        }
        for row in frame.to_dict("records")
    ]


def _moved(row: Mapping[str, Any], column: str, show: Callable[[Any], str]) -> str:
    sides = (row[f"{column}_before"], row[f"{column}_after"])
    before, after = ("–" if pd.isna(value) else show(value) for value in sides)
    return before if before == after else f"{before} → {after}"
