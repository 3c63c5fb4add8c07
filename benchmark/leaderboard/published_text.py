"""Measured beside published, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmark.leaderboard.deviations import OPEN
from benchmark.leaderboard.fronts import attack_label
from benchmark.leaderboard.published import INSIDE, NOT_MEASURED, OUTSIDE
from benchmark.leaderboard.tables import share_text
from benchmark.leaderboard.text import cell_text, interval, number, percent, table

PUBLISHED = """\
What papers printed for this data set, Pick your Poison for this kind of network as well. They
report single runs or means without intervals, on all training images, of which an r is a share,
with triggers and seeds of their own, and no threshold of a detector. A published number is inside
if, as it is rounded, it lies in the 95 % interval of the mean that was measured here. That says
only that both may be true, as few models make a wide interval; and a single run may well lie
outside where nothing is wrong. So what is outside is a difference to explain, and no refutation: it
has its explanation, or is open. Remaining ASR is in the paper's reading. Of several settings of a
defense those count that are nearest to what its search found or the protocol says, whatever they
leave.
"""
GRID = """\
Measured [interval] / published, in percent but for AUC and AP; ≠ in place of / where the published
number is outside.
"""

QUANTITIES = {
    "cda": "CDA",
    "asr": "ASR",
    "auc": "AUC",
    "accuracy": "accuracy",
    "ap": "AP",
    "asr_left": "ASR left",
}

#: Quantities between 0 and 1 that nobody writes in percent.
AREAS = ("auc", "ap")

Row = Mapping[str, Any]


def sections(frame: pd.DataFrame) -> list[str]:
    """Of a table as `explanations.explained` returns it."""
    parts = ["## Beside what was published", PUBLISHED.rstrip(), cell_text(summary(frame))]
    parts.append(GRID.rstrip())
    for (paper, name), group in frame.groupby(["paper", "table"], sort=False):
        parts += [f"### {paper}, Tab. {name}", _grid(group)]
    outside = frame[frame.verdict == OUTSIDE]
    if not outside.empty:
        parts += ["### Outside the interval", table(list(map(_line, outside.to_dict("records"))))]
        if notes := remarks(outside):
            listed = "\n".join(f"- {cell_text(remark)}" for remark in notes)
            parts += ["Notes on the published numbers:", listed]
    return parts


def summary(frame: pd.DataFrame) -> str:
    """How many of the published numbers hold up, for each recipe."""
    return " ".join(_summary(recipe, own) for recipe, own in frame.groupby("recipe"))


def remarks(frame: pd.DataFrame) -> list[str]:
    """What the notes say, every remark once."""
    found = {remark for note in frame.note for remark in note.split("; ") if remark}
    return sorted(found, key=lambda remark: int(remark[1:].partition(":")[0]))


def remark_numbers(note: str) -> str:
    """The numbers of a note's remarks, such as C1."""
    return ", ".join(remark.partition(":")[0] for remark in note.split("; "))


def _summary(recipe: str, frame: pd.DataFrame) -> str:
    counts = frame.verdict.value_counts()
    return (
        f"Recipe {recipe}: {len(frame) - counts.get(NOT_MEASURED, 0)} of {len(frame)} published "
        f"numbers measured, {counts.get(INSIDE, 0)} inside, {counts.get(OUTSIDE, 0)} outside, "
        f"of which {(frame.explanation == OPEN).sum()} open."
    )


def _grid(frame: pd.DataFrame) -> str:
    """Attacks and trusted shares down; across what was measured, or after which defense."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    columns: dict[str, None] = {}
    for row in frame.to_dict("records"):
        line = cell_text(attack_label(row)), share_text(row["trusted_share"])
        if row["quantity"] == "asr_left":
            column = row["defense"]
        else:
            column = " by ".join(filter(None, (QUANTITIES[row["quantity"]], row["defense"])))
        sign = "≠" if row["verdict"] == OUTSIDE else "/"
        lines.setdefault(line, {})[column] = f"{_measured(row)} {sign} {_published(row)}"
        columns[column] = None
    shares = frame.trusted_share.notna().any()
    return table(
        [
            {"attack": attack}
            | ({"r": share} if shares else {})
            | {cell_text(column): cells.get(column, "–") for column in columns}
            for (attack, share), cells in lines.items()
        ]
    )


def _line(row: Row) -> dict[str, str]:
    factor, digits = (1, 2) if row["quantity"] in AREAS else (100, 1)
    explanation = row["explanation"]
    return {
        "attack": cell_text(attack_label(row)),
        "number": QUANTITIES[row["quantity"]],
        "defense": cell_text(row["defense"]) or "–",
        "r": share_text(row["trusted_share"]),
        "measured": _measured(row),
        "published": _published(row),
        "difference": f"{factor * row['difference']:+.{digits}f}",
        "models": str(row["models"]),
        "ASR before": number(100 * row["asr_before"]),
        "ASR left, deployable": percent(row, "asr_deployable"),
        "notes": remark_numbers(row["note"]),
        "explanation": f"**{OPEN}**" if explanation == OPEN else cell_text(explanation),
    }


def _measured(row: Row) -> str:
    if pd.isna(row["measured"]):
        return "–"
    return interval(row, "measured") if row["quantity"] in AREAS else percent(row, "measured")


def _published(row: Row) -> str:
    value = row["published"]
    return f"{value:.2f}" if row["quantity"] in AREAS else f"{100 * value:g}"
