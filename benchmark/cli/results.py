"""What a run ends with: tables of the cells that were asked for."""

from __future__ import annotations

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

#: Of a longer name what follows the first space has a line of its own.
LONG = 24
#: So many rows are printed; all of them are on a board.
ROWS = 40


def show_results(folder: Path, cells: Sequence[Cell]) -> None:
    """Print the headline tables of these cells, as far as there are records of them."""
    from benchmark.records.store import Store
    from benchmark.runs.done import record_of

    store = Store(folder)
    keys = {cell.key for cell in cells if record_of(cell, store) is not None}
    if not keys:
        return
    for frame, rows in _headlines(folder, keys):
        out.print(f"\n[b]{escape(frame.title)}[/b]")
        out.print(_table(frame, rows.head(ROWS)))
        if len(rows) > ROWS:
            out.print(f"and {len(rows) - ROWS} more rows")
    say(
        f"\nRates in percent, brackets 95 % intervals; `poisongames board build {folder}` makes "
        "all tables and plots."
    )


def _headlines(folder: Path, keys: Collection[str]) -> Iterator[tuple[Frame, pd.DataFrame]]:
    """The frames that have a grid, or else that of attacks before any defense."""
    from benchmark.games.robustness.frames import UNDEFENDED
    from benchmark.leaderboard.board import read_board
    from benchmark.leaderboard.chapters import PLAYED

    built = read_board(folder, only=keys).frames
    played = [frame for chapter in PLAYED for frame in chapter.frames if frame.grid]
    shown = [frame for frame in played if len(built.get(frame.name, ()))]
    for frame in shown or UNDEFENDED.frames:
        if len(built[frame.name]):  # of cells that all failed there is nothing
            yield frame, built[frame.name]


def _table(frame: Frame, rows: pd.DataFrame) -> Table:
    """A line for each row, below the name of its attack; no name of a plugin is broken."""
    from benchmark.games.frames import LOOKS

    attack, *columns = [column for column in frame.shown(rows) if column.brief]
    table = Table(box=None, pad_edge=False)
    titles = [*(column.title for column in columns), *([""] if frame.grid else [])]
    for number, title in enumerate(titles):
        table.add_column(escape(title), overflow="fold", no_wrap=not number)
    last = ""
    for row in rows.to_dict("records"):
        if (name := attack.short(row)) != last:
            table.add_row(f"[b]{escape(_narrow(name))}[/b]")
        last = name
        look = [LOOKS[frame.grid.look(row, frame.grid.readings[0][1])[0]]] if frame.grid else []
        who, *texts = (column.short(row) for column in columns)
        table.add_row(*map(escape, [_narrow(who), *texts, *look]))
    return table


def _narrow(name: str) -> str:
    """A name in the lines that it takes so that no other column is squeezed."""
    return name if len(name) <= LONG else name.replace(" ", "\n", 1)
