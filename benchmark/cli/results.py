"""What a run ends with: tables of the cells that were asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from benchmark.cli.shared import out, say

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.games.frames import Frame
    from benchmark.records.cell import Cell

#: Longer names take several lines.
LONG = 24
#: So many rows are printed; all of them are on a board.
ROWS = 40


def show_results(folder: Path, cells: Sequence[Cell], beside: Path | None = None) -> None:
    """Print the headline tables of these cells, as far as there are records of them.

    Args:
        beside: a board that has others of these cells.
    """
    if not (places := holding(cells, folder, beside)):
        return
    for frame, rows in _headlines(places, {cell.key for cell in cells}):
        out.print(f"\n[b]{escape(frame.title)}[/b]")
        out.print(_table(frame, rows.head(ROWS)))
        if len(rows) > ROWS:
            out.print(f"and {len(rows) - ROWS} more rows")
    say(
        f"\nRates in percent, brackets 95 % intervals; `poisongames board build "
        f"{' '.join(map(str, places))}` makes all tables and plots."
    )


def holding(cells: Sequence[Cell], folder: Path, beside: Path | None) -> list[Path]:
    """Which of a run's folder and a board have records of these cells."""
    from benchmark.records.store import Store
    from benchmark.runs.done import record_of

    places = [folder] if beside is None else [folder, beside]
    return [one for one in places if any(record_of(cell, Store(one)) for cell in cells)]


def _headlines(
    places: Sequence[Path], keys: Collection[str]
) -> Iterator[tuple[Frame, pd.DataFrame]]:
    """The frames that have a grid, or else that of attacks before any defense."""
    from benchmark.games.robustness.frames import VICTIMS
    from benchmark.leaderboard.board import read_board
    from benchmark.leaderboard.chapters import PLAYED

    built = read_board(*places, only=keys).frames
    played = [frame for chapter in PLAYED for frame in chapter.frames if frame.grid]
    shown = [frame for frame in played if len(built.get(frame.name, ()))]
    for frame in shown or VICTIMS.frames:
        if len(built[frame.name]):  # of cells that all failed there is nothing
            yield frame, built[frame.name]


def _table(frame: Frame, rows: pd.DataFrame) -> Table:
    """A line for each row, below the name of its attack."""
    from benchmark.games.frames import LOOKS

    attack, *columns = [column for column in frame.shown(rows) if column.brief]
    titles = [*(column.title for column in columns), *([""] if frame.grid else [])]
    lines = []
    for row in rows.to_dict("records"):
        look = [LOOKS[frame.grid.look(row, frame.grid.readings[0][1])[0]]] if frame.grid else []
        lines.append([attack.short(row), *(column.short(row) for column in columns), *look])
    return below_names(titles, lines)


def below_names(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A table of lines below their first text, where that changes; no name is broken."""
    table, last = Table(box=None, pad_edge=False), ""
    for number, title in enumerate(titles):
        table.add_column(escape(title), overflow="fold", no_wrap=not number)
    for name, who, *texts in lines:
        if name != last:
            table.add_row(f"[b]{escape(narrow(name))}[/b]")
        last = name
        table.add_row(*map(escape, [narrow(who), *texts]))
    return table


def narrow(name: str) -> str:
    """A name in lines that squeeze no other column, broken behind commas and at spaces."""
    lines = [""]
    for part in re.findall(r"[^, ]+[, ]*", name):
        if lines[-1] and len(lines[-1] + part.rstrip()) > LONG:
            lines.append("")
        lines[-1] += part
    return "\n".join(map(str.rstrip, lines))
