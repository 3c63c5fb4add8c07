"""Pareto fronts: compare attacks, defenders, and what a submission changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.markup import escape

from benchmark.cli.shared import one_sentence, out
from benchmark.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.leaderboard.rows import Rows
    from benchmark.leaderboard.tables import Namer

BOARDS = Path("leaderboards")


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
    found = given or sorted(path.parent for path in BOARDS.glob("*/records"))
    if not found:
        raise UserError(
            "there is no board in leaderboards/; name the folder of a run, "
            "such as `poisongames pareto runs/digits-v3`"
        )
    return found


def _compare(
    folder: Path, wanted: list[str], against: Path | None, csv: Path | None, svg: Path | None
) -> None:
    from benchmark.leaderboard import front_plots, fronts, fronts_text
    from benchmark.leaderboard.board import read_rows
    from benchmark.leaderboard.tables import short_names
    from benchmark.records.store import write_whole

    rows = read_rows(folder)
    old_rows = read_rows(against) if against else None
    if old_rows and old_rows.protocols.keys() != rows.protocols.keys():
        raise UserError(
            f"{against} holds records of {_protocol(old_rows)}, {folder} of {_protocol(rows)}; "
            "fronts of different protocols cannot be compared"
        )
    # What is called by its whole label depends on who else is there: one name for both.
    name = short_names([*rows, *(old_rows or ())])
    _check(wanted, {name(row.attack) for row in [*rows, *(old_rows or ())]})
    played = _frames(rows, name, wanted)
    table = fronts.front_table(fronts.attack_points(*played))
    there = not fronts.in_both(table).empty
    if svg and not there:
        raise UserError(f"{folder}: no attack was played in both games, there is no front to draw")
    old = None
    out.print(f"\n[b]{_protocol(rows)}[/b], {escape(str(folder))}", soft_wrap=True)
    if old_rows:
        old = fronts.front_table(fronts.attack_points(*_frames(old_rows, name, wanted)))
        changes = fronts.compare(old, table)
        _print(f"Against {against}", fronts_text.change_rows(changes, str))
        _print("Fronts", fronts_text.volume_rows(old, table))
    else:
        attackers = fronts_text.front_rows(table, str)
        above = {row["attack"]: row.pop("dominated by") for row in attackers}
        _print("Attacks, each against the best defenders", attackers)
        for attack, others in above.items():
            if others:
                out.print(f"{attack} is dominated by {others}.", markup=False, highlight=False)
        if there:
            out.print(fronts_text.volume_text(table))
        defenders = fronts.defense_points(*played)
        for game, own in defenders.groupby("game", sort=False):
            _print(f"Defenders in the worst case: {game}", fronts_text.defender_rows(own, str))
    if not there:
        out.print("No attack was played in both games, so that there is no front.")
    if csv:
        text = (changes if old_rows else table).to_csv(index=False, float_format="%.6f")
        write_whole(csv, text.encode())
    if svg:
        write_whole(svg, front_plots.pareto(table, old))


def _protocol(rows: Rows) -> str:
    (found,) = rows.protocols.values()
    return f"{found.name} {found.sha256[:12]}"


def _check(wanted: list[str], known: set[str]) -> None:
    names = {attack.split(":")[0] for attack in known} - {"none"}
    if unknown := [attack for attack in wanted if attack not in names]:
        raise UserError(
            f"no attack {unknown[0]!r} was played here; there are {', '.join(sorted(names))}"
        )


def _frames(rows: Rows, name: Namer, wanted: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Repairs and detectability, of the wanted attacks or of all."""
    from benchmark.leaderboard.board import games

    def chosen(frame: pd.DataFrame) -> pd.DataFrame:
        if not wanted or frame.empty:
            return frame
        return frame[frame.attack.str.split(":").str[0].isin(wanted)]

    _, repairs, detectability = games(rows, name)
    return chosen(repairs), chosen(detectability)


def _print(title: str, rows: list[dict[str, str]]) -> None:
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
