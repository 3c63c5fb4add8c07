"""The tables and plots of an experiment, made of a run's records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from benchmark.experiments.declared import Drawing, ExperimentError, PaperExperiment
from benchmark.games.columns import Column, Row, Unit, share_text
from benchmark.games.frames import Frame, Line, Plot
from benchmark.games.means import settings
from benchmark.games.robustness.shown import EPOCHS, STEPS, epochs, steps
from benchmark.leaderboard import chapters, plots
from benchmark.leaderboard.board import Board
from benchmark.leaderboard.build import csv_text
from benchmark.leaderboard.markdown import escaped, markdown
from benchmark.papers import PublishedNumber, published
from benchmark.protocol import load as load_protocol
from benchmark.records.files import write_whole

#: What tells the columns of a plot apart; colours tell its series.
STYLES = ("-", "--", ":", "-.")

#: What no board has a table of.
_OWN = (
    Frame("steps", "Over the steps of a repair", "", steps, STEPS),
    Frame("epochs", "Over the epochs of a training", "", epochs, EPOCHS),
)


@dataclass(frozen=True)
class Made:
    """A table that was made of records; `frame` says how it is shown."""

    frame: Frame
    rows: pd.DataFrame

    @property
    def lines(self) -> list[dict[str, str]]:
        columns = [column for column in self.frame.columns if not column.hidden]
        return [{c.title: c.text(row) for c in columns} for row in self.rows.to_dict("records")]


def tables(experiment: PaperExperiment, board: Board) -> list[Made]:
    """All tables of an experiment, those without rows left out.

    Raises:
        ExperimentError: the file names a table, a column or a parameter that there is not.
    """
    made = [_table(experiment, number, board) for number in range(len(experiment.show))]
    return [one for one in made if len(one.rows)]


def _table(experiment: PaperExperiment, number: int, board: Board) -> Made:
    shown = experiment.show[number]
    known = {frame.name: frame for frame in (*chapters.frames(), *_OWN)}
    if shown.frame not in known:
        raise ExperimentError(f"{experiment.name}: there is no table {shown.frame!r}")
    frame = known[shown.frame]
    if frame in _OWN:
        rows = frame.build(board.sources)
    else:
        rows = board.frames.get(frame.name, pd.DataFrame())
    columns = [_column(frame, key) for key in shown.columns]
    if len(rows):
        wanted = [*shown.columns, *shown.where, *_drawn(shown.plot)]
        for key in (key for key in wanted if "." in key and key not in rows):
            rows = rows.assign(**{key: _parameter(rows, key, board)})
        for key, value in shown.where.items():
            rows = rows[rows[key] == value]
    name = experiment.name + (f"-{number + 1}" if len(experiment.show) > 1 else "")
    plot = _plot(shown.plot, frame.title) if shown.plot else frame.plot
    draw = frame.draw if plot is None else partial(plots.draw, plot)
    made = Frame(name, frame.title, frame.text, frame.build, tuple(columns), plot=plot, draw=draw)
    return Made(made, rows)


def _column(frame: Frame, key: str) -> Column:
    """One that the table has, or one of a parameter."""
    if "." in key:
        return Column(key, key.partition(".")[2], Unit.NUMBER, "", brief=True)
    try:
        return replace(frame.column(key), brief=True, hidden=False)
    except StopIteration:
        raise ExperimentError(f"table {frame.name!r} has no column {key!r}") from None


def _drawn(plot: Drawing | None) -> Sequence[str]:
    return () if plot is None else (plot.x, *plot.series, *plot.panel)


def _parameter(rows: pd.DataFrame, key: str, board: Board) -> list[float | str]:
    """A parameter of the plugins that a column names, for every row."""
    column, _, field = key.partition(".")
    by_name = {board.sources.name(plugin): settings(plugin) for plugin in board.plugins}
    found = [by_name.get(name, {}).get(field, "") for name in rows[column]]
    return [float(value) if _is_number(value) else value for value in found]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plot(drawing: Drawing, title: str) -> Plot:
    def joined(keys: Sequence[str], row: Row) -> str:
        return ", ".join(_said(key, row) for key in keys)

    return Plot(
        drawing.x,
        partial(joined, drawing.panel),
        tuple(Line(*both, style) for both, style in zip(drawing.y.items(), STYLES, strict=False)),
        drawing.labels,
        title,
        partial(joined, drawing.series),
        even=drawing.even,
        shares=drawing.shares,
    )


def _said(key: str, row: Row) -> str:
    """A value as a legend writes it; a number needs its name."""
    value = row[key]
    if key == "trusted_share":
        return f"r={share_text(value)}"
    return str(value) if isinstance(value, str) else f"{key.rpartition('.')[2]}={value:g}"


def in_papers(experiment: PaperExperiment) -> list[list[dict[str, str]]]:
    """The published numbers of an experiment, as lines of tables."""
    data = load_protocol(experiment.protocol).splits.dataset
    belonging = [line for line in published() if _belongs(experiment, line)]
    # A table over several data sets has an experiment for each.
    own = [line for line in belonging if line.dataset == data] or belonging
    lines = [
        {
            "data": line.dataset,
            "attack": f"{line.attack} (m={line.m})",
            "defense": line.defense,
            "r": f"{100 * float(line.share):g}%" if line.share else "",
            "quantity": line.quantity,
            "published": line.value,
        }
        for line in own
    ]
    said = [{k: v for k, v in line.items() if any(one[k] for one in lines)} for line in lines]
    return [part for part in (said, list(experiment.printed)) if part]


def _belongs(experiment: PaperExperiment, line: PublishedNumber) -> bool:
    return line.paper == experiment.paper and line.table in experiment.tables


def write(experiment: PaperExperiment, made: Sequence[Made], board: Board, folder: Path) -> Path:
    """Write NAME.md, and beside it a CSV file and a plot for every table, and pictures.

    Returns:
        The path of NAME.md.
    """
    for one in made:
        write_whole(folder / f"{one.frame.name}.csv", csv_text(one.rows))
        if one.frame.draw is not None:
            write_whole(folder / f"{one.frame.name}.svg", one.frame.draw(one.rows))
    pictures = _pictures(board) if experiment.pictures else {}
    for number, path in enumerate(pictures.values(), start=1):
        write_whole(folder / f"{experiment.name}-{number}.png", path.read_bytes())
    page = folder / f"{experiment.name}.md"
    parts = _page(experiment, made, board.protocol.name, pictures)
    write_whole(page, ("\n\n".join(parts) + "\n").encode())
    return page


def _pictures(board: Board) -> dict[str, Path]:
    """Where the files of all pictures lie, by title."""
    shown = (one for pictures in board.pictures.values() for one in pictures if one.file)
    found = {one.title: board.sources.evidence(one.file) for one in shown}
    return {title: path for title, path in found.items() if path is not None}


def _page(
    experiment: PaperExperiment, made: Sequence[Made], protocol: str, pictures: Iterable[str]
) -> Iterator[str]:
    yield f"# {experiment.name}: {experiment.paper}, {experiment.shows}"
    yield escaped(experiment.question)
    yield f"Played on `{protocol}`. {escaped(experiment.differs)}".strip()
    for one in made:
        yield f"## {one.frame.title}"
        yield markdown([{k: escaped(v) for k, v in line.items()} for line in one.lines])
        if one.frame.draw is not None:
            yield f"![{one.frame.title}]({one.frame.name}.svg)"
    for number, title in enumerate(pictures, start=1):
        yield f"![{escaped(title)}]({experiment.name}-{number}.png)\n\n{escaped(title)}"
    yield "## Published"
    yield escaped(experiment.published)
    for lines in in_papers(experiment):
        yield markdown([{k: escaped(v) for k, v in line.items()} for line in lines])
