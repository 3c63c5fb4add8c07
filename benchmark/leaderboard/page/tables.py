"""What the page's script draws: tables and grids, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmark.games.columns import DIGITS, WRITTEN, Column, Row, Unit, defender_label
from benchmark.games.frames import LOOKS, Frame
from benchmark.leaderboard.chapters import UNDEFENDED_ASR
from benchmark.leaderboard.grids import Filled, fill
from benchmark.records.credits import BETWEEN, name_of

#: A cell: text; {"name", "rest"} of a plugin; the same and "links" of submissions; [value, text];
#: [value, text, low, high] of which the numbers are shares; None where nothing was measured.
Cell = Any


def table(caption: str, frame: Frame, rows: pd.DataFrame) -> dict[str, Any]:
    """Columns with their options, and rows of cells."""
    columns = frame.shown(rows)
    return {
        "caption": caption,
        "columns": [
            {
                "title": column.title,
                "doc": column.doc,
                "menu": column.menu,
                "brief": column.brief,
                "number": column.unit in WRITTEN or column.unit is Unit.SHARE,
            }
            for column in columns
        ],
        "rows": [[cell(column, row) for column in columns] for row in rows.to_dict("records")],
    }


def cell(column: Column, row: Row) -> Cell:
    if column.missing(row):
        return None
    text, value = column.text(row), row[column.key]
    if column.names == "submission":
        links = [[title, anchor(title)] for title in text.split(BETWEEN)]
        return {"name": text, "rest": "", "links": links}
    if column.names:
        name = str(value)
        return {"name": name, "rest": text[len(name) :]} if text.startswith(name) else text
    if column.unit in (Unit.TEXT, Unit.YES_NO):
        return text
    shown = [_rounded(value), text]
    bounds = column.bounds(row) if column.unit.bounded else []
    return [*shown, *map(_rounded, bounds)]


def anchor(title: str) -> str:
    """The place of a submission on the page."""
    return f"submission-{name_of(title)}"


def matrix(frame: Frame, frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Attacks down, defenders across. A cell is the numbers of its line and column, its short
    text, its whole text, how good it is for the attacker in [0, 1], its look, and the number of
    its row."""
    assert frame.grid is not None
    filled = fill(frame, frames)
    lines = {key: number for number, key in enumerate(filled.attacks)}
    columns = {key: number for number, key in enumerate(filled.defenders, 1)}
    before = [
        [lines[key], 0, _number(own, row), own.text(row), _strength(own, row), "before", None]
        for key, (own, row) in filled.before.items()
        if key in lines and not own.missing(row)
    ]
    readings = []
    used = set()
    for title, key in frame.grid.readings:
        cells = list(before)
        for (attack, who), (number, row) in filled.cells.items():
            shown = frame.column(key)
            if shown.missing(row):
                continue
            look, note = frame.grid.look(row, key)
            used.add(look)
            sign = "✓ " if look == "repaired" else ""
            value = _number(shown, row)
            whole = f"{shown.text(row)}{note}" + (f", {LOOKS[look]}" if look else "")
            detail = number if frame.details else None
            place = [lines[attack], columns[who]]
            cells.append([*place, sign + value + note, whole, _strength(shown, row), look, detail])
        for (attack, who), reason in filled.failed.items():
            used.add("failed")
            cells.append([lines[attack], columns[who], "failed", reason, 0, "failed", None])
        readings.append([title, cells])
    return {
        "caption": frame.grid.caption,
        "lines": list(filled.attacks.values()),
        "columns": [f"no defense ({UNDEFENDED_ASR.title})", *_names(filled)],
        "readings": readings,
        "looks": {look: LOOKS[look] for look in LOOKS if look in used and look},
    }


def _names(filled: Filled) -> list[str]:
    return [defender_label(name, share) for name, share in filled.defenders.values()]


def _number(column: Column, row: Row) -> str:
    """Without its interval."""
    return column.text(row).partition(" [")[0]


def _strength(column: Column, row: Row) -> float:
    return round(column.attackers_gain(float(row[column.key])), 2)


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)
