"""Pareto fronts: compare attacks, defenders, and what a submission changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.markup import escape

from benchmark.cli.shared import BOARDS, all_boards, one_sentence, out
from benchmark.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from benchmark.games.frames import Frame
    from benchmark.records.record import ProtocolRef, Record

Lines = list[dict[str, str]]


def pareto(
    folder: Annotated[
        Optional[list[Path]],
        typer.Argument(help="Runs' folders, with records/ inside; all of leaderboards/ if none."),
    ] = None,
    attacks: Annotated[
        Optional[str], typer.Option(help="Only these attacks, by name, with commas between.")
    ] = None,
    protocol: Annotated[
        Optional[str], typer.Option(help="Short for the folder leaderboards/PROTOCOL.")
    ] = None,
    against: Annotated[
        Optional[Path],
        typer.Option(help="Other records of the same protocol: what did they move?"),
    ] = None,
    csv: Annotated[Optional[Path], typer.Option(help="Write the table of attacks here.")] = None,
    svg: Annotated[Optional[Path], typer.Option(help="Draw both fronts here.")] = None,
) -> None:
    """Compare Pareto fronts: how robust and how hidden attacks stay, and defenders' worst cases.

    An attack's point is the ASR that is left under the best repair, and the AUC of the best
    detector. With --against, the fronts are compared with those of older records.
    """
    with one_sentence():
        folders = _folders(folder or [], protocol)
        if len(folders) > 1 and (against or csv or svg):
            raise UserError(
                f"--against, --csv and --svg are for one folder, there are {len(folders)}: "
                f"{', '.join(map(str, folders))}; name one of them"
            )
        wanted = attacks.split(",") if attacks else []
        for one in folders:
            _compare(one, wanted, against, csv, svg)


def _folders(given: list[Path], protocol: str | None) -> list[Path]:
    if given and protocol:
        raise UserError("folders and --protocol exclude each other; leave one of them out")
    if protocol:
        return [BOARDS / protocol]
    advice = "name the folder of a run, such as `poisongames pareto runs/digits-v3`"
    return given or all_boards(advice)


def _compare(
    folder: Path, wanted: list[str], against: Path | None, csv: Path | None, svg: Path | None
) -> None:
    from benchmark.games.columns import attack_label
    from benchmark.games.means import short_names
    from benchmark.leaderboard import board, front_plots, fronts
    from benchmark.leaderboard.defenders import DEFENDERS
    from benchmark.records.files import write_whole

    sources, protocol = board.read_sources(folder)
    every = [*sources.records, *sources.unfinished]
    before = None
    if against:
        before, other = board.read_sources(against)
        every += [*before.records, *before.unfinished]
        if other.sha256 != protocol.sha256:
            raise UserError(
                f"{against} holds records of {_named(other)}, {folder} of {_named(protocol)}; "
                "fronts of different protocols cannot be compared"
            )
    # What is called by its whole label depends on who else is there: one name for both.
    name = short_names(every)
    _check(wanted, every)
    for one in filter(None, (sources, before)):
        one.name = name
        one.records = _wanted(one.records, wanted)
        one.unfinished, one.worst = _wanted(one.unfinished, wanted), _wanted(one.worst, wanted)
        board.build(one)
    table = sources.frames["pareto"]
    if svg and table.empty:
        raise UserError(f"{folder}: no attack was played in both games, there is no front to draw")
    out.print(f"\n[b]{escape(_named(protocol))}[/b], {escape(str(folder))}", soft_wrap=True)
    old = before.frames["pareto"] if before else None
    if old is not None:
        changes = fronts.compare(old, table)
        _print(f"Against {against}", _changes(changes))
        _print("Fronts", _volumes(old, table))
    else:
        _print("Attacks, each against the best defenders", _lines(front_plots.PARETO, table))
        for row in table.to_dict("records"):
            if row["dominated_by"]:
                said = f"{attack_label(row)} is dominated by {row['dominated_by']}."
                out.print(said, markup=False, highlight=False)
        if not table.empty:
            out.print(fronts.summary(table), markup=False)
        for title, own in DEFENDERS.parts(sources.frames[DEFENDERS.name]):
            _print(f"{DEFENDERS.title}: {title}", _lines(DEFENDERS, own))
    if table.empty:
        out.print("No attack was played in both games, so that there is no front.")
    if csv:
        text = (table if old is None else changes).to_csv(index=False, float_format="%.6f")
        write_whole(csv, text.encode())
    if svg:
        write_whole(svg, front_plots.draw(table, old))


def _named(protocol: ProtocolRef) -> str:
    return f"{protocol.name} {protocol.sha256[:12]}"


def _wanted(records: Sequence[Record], wanted: list[str]) -> list[Record]:
    """The records of some attacks, all by default, and of clean models."""
    return [
        record
        for record in records
        if not wanted or record.attack.name in wanted or record.attack.clean
    ]


def _check(wanted: list[str], records: list[Record]) -> None:
    names = {record.attack.name for record in records if not record.attack.clean}
    if unknown := [attack for attack in wanted if attack not in names]:
        there = ", ".join(sorted(names)) or "clean models alone"
        raise UserError(f"no attack {unknown[0]!r} was played here; there are {there}")


def _lines(frame: Frame, table: pd.DataFrame) -> Lines:
    """The brief columns of a frame as text."""
    columns = [column for column in frame.shown(table) if column.brief]
    rows = table.to_dict("records")
    return [{column.title: column.text(row) for column in columns} for row in rows]


def _volumes(old: pd.DataFrame, new: pd.DataFrame) -> Lines:
    """Hypervolume of each front in two sets of records."""
    from benchmark.leaderboard.fronts import hypervolumes

    after = hypervolumes(new)
    return [
        {
            "front": front,
            "hypervolume before": f"{before:.3f}",
            "after": f"{after[front]:.3f}",
            "change": f"{after[front] - before:+.3f}",
        }
        for front, before in hypervolumes(old).items()
    ]


def _changes(frame: pd.DataFrame) -> Lines:
    """One line per attack of `fronts.compare`."""
    from benchmark.games.columns import attack_label
    from benchmark.leaderboard.fronts import COLUMNS

    def moved(row: dict[str, Any], key: str) -> str:
        column = next(column for column in COLUMNS if column.key == key)
        before, after = (column.text({key: row[f"{key}_{side}"]}) for side in ("before", "after"))
        return before if before == after else f"{before} → {after}"

    return [
        {
            "attack": attack_label(row),
            "kind": row["kind"].split()[0],
            "change": row["change"],
            "ASR left": moved(row, "asr_paper"),
            "AUC": moved(row, "auc"),
            "front": moved(row, "front"),
            "dominates": row["dominates"],
            "dominated by": row["dominated_by"],
        }
        for row in frame.to_dict("records")
    ]


def _print(title: str, rows: Lines) -> None:
    """A table without the columns that say nothing, as several where it is too wide for one."""
    from rich.table import Table
    from rich.text import Text

    columns = [
        column for column in (rows[0] if rows else ()) if {row[column] for row in rows} - {"–", ""}
    ]
    if not columns:
        return
    texts = {column: [column, *(row[column] for row in rows)] for column in columns}
    for number, widths in enumerate(_fit(texts, out.width)):
        table = Table(
            title=None if number else Text(title),
            title_justify="left",
            box=None,
            padding=(0, 2, 0, 0),
            pad_edge=False,
        )
        for column, width in widths.items():
            table.add_column(Text(_wrap(column, width)), width=width, overflow="fold")
        for row in rows:
            table.add_row(*(Text(_wrap(row[column], width)) for column, width in widths.items()))
        out.print(table)
        out.print()


def _pieces(text: str) -> list[str]:
    """What a text may be broken into: its words, and parts of names."""
    return re.split(r"(?<=\s)(?![^\[]*\])|(?<=\w[-:,+])(?=[^\W\d])", text)


def _wrap(text: str, width: int) -> str:
    lines = [""]
    for piece in _pieces(text):
        if len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines if line)


def _fit(texts: dict[str, list[str]], room: int) -> list[dict[str, int]]:
    """Widths of columns, two apart, so that no piece is cut; the first stands in every table."""
    least = {
        column: min(room, max(len(piece.rstrip()) for text in own for piece in _pieces(text)))
        for column, own in texts.items()
    }
    first = next(iter(least))
    tables: list[dict[str, int]] = [{}]
    for column, width in least.items():
        if len(tables[-1]) > 1 and sum(tables[-1].values()) + 2 * len(tables[-1]) + width > room:
            tables.append({first: least[first]})
        tables[-1][column] = width
    for table in tables:
        # What is left goes to the narrowest first: most of them become whole.
        for _ in range(room - sum(table.values()) - 2 * (len(table) - 1)):
            growing = [c for c in table if table[c] < max(map(len, texts[c]))]
            if growing:
                table[min(growing, key=table.__getitem__)] += 1
    return tables
