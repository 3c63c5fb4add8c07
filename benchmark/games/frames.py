"""Tables of a board: what they are made of, how they are built, and what pages show of them.

CSV files, README.md and index.html are renderers of what is declared here and in the games: none
of them knows a game or a column by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.games.columns import Column, Row, Unit
from benchmark.games.robustness.searches import Search
from benchmark.protocol import Protocol
from benchmark.records.credits import BETWEEN
from benchmark.records.record import PluginRef, Record
from benchmark.records.replays import Replay

AnyRecord = TypeVar("AnyRecord", bound=Record)
#: A short name for a plugin in a table.
Namer = Callable[[PluginRef], str]


@dataclass
class Sources:
    """What frames are built from.

    Attributes:
        records: those that are ok, made smaller by their chapter's `slim`.
        kept: what tables need of what `slim` removed, by the record's key.
        unfinished: records of cells that failed or that the sanity gate refused.
        worst: unfinished records with worst-case numbers: a failed repair left the victim as it
            was, a failed detector was wrong, a failed inverter found no trigger.
        replays: those that were played again, by the record's key.
        titles: of the submission that a record came with, by the record's key.
        searches: what defenders found for themselves.
        name: what plugins are called in all tables.
        protocol: what was played, where it is a released protocol.
        folders: whose evidence/ has the files that records name.
        frames: those that were built so far, by name.
    """

    records: Sequence[Record]
    kept: Mapping[str, Any]
    unfinished: Sequence[Record]
    searches: Sequence[Search]
    name: Namer
    protocol: Protocol | None = None
    folders: Sequence[Path] = ()
    worst: Sequence[Record] = ()
    replays: Mapping[str, Replay] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)

    def of(self, kind: type[AnyRecord]) -> list[AnyRecord]:
        """The records of one game."""
        return [record for record in self.records if isinstance(record, kind)]

    def counted(self, kind: type[AnyRecord]) -> list[AnyRecord]:
        """The records of one game that means are taken over: a failed one is the worst case."""
        every = [one for one in (*self.records, *self.worst) if isinstance(one, kind)]
        return sorted(every, key=lambda one: (one.seed, one.key))

    def handed_in(self, records: Iterable[Record]) -> dict[str, Any]:
        """How many records of a row were played again and, where a board knows, with which
        submissions they came, as columns."""
        keys = [record.key for record in records]
        again = {"replayed": sum(key in self.replays for key in keys)}
        titles = sorted({self.titles[key] for key in keys if key in self.titles})
        return again | ({"submission": BETWEEN.join(titles)} if self.titles else {})

    def evidence(self, file: str) -> Path | None:
        """Where a file of the evidence lies, None where it is missing."""
        places = (folder / "evidence" / file for folder in self.folders)
        return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True)
class Grid:
    """Attacks down, defenders across, the undefended attack first.

    Attributes:
        defender: key of the column of those who stand across.
        readings: title and key of each set of numbers, the headline first.
        rows: which rows of the frame count.
        mark: tells of a row and a reading's key how its cell looks, one of `LOOKS`, and what is
            added to its text.
        repetitions: key of the column that counts them.
        before: key of the column that says what the attack did to the models that a cell met;
            without one the undefended attack stands for them, in all its repetitions.
    """

    caption: str
    defender: str
    readings: tuple[tuple[str, str], ...]
    rows: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame
    mark: Callable[[Row, str], tuple[str, str]] = lambda row, key: (
        "" if row.get("worked", True) else "dead",
        "",
    )
    repetitions: str = "models"
    before: str = ""

    def look(self, row: Row, key: str) -> tuple[str, str]:
        """What `mark` tells, and how many of the repetitions were measured."""
        look, note = self.mark(row, key)
        whole, failed = row[self.repetitions], row["failed"]
        return look, f"{note} ({whole - failed} of {whole})" if failed else note


#: How a cell of a grid may look, and what that means.
LOOKS = {
    "": "",
    "repaired": "repaired",
    "untouched": "the victim as it was",
    "dead": "never worked",
    "failed": "failed or refused",
}


@dataclass(frozen=True)
class Line:
    """A line of a plot: a column's numbers, drawn per series unless it is `alone`."""

    key: str
    title: str
    style: str = "-"
    alone: bool = False


@dataclass(frozen=True)
class Plot:
    """Numbers over the column `x`.

    Attributes:
        panel: title of the panel that a row belongs to.
        lines: what is drawn; marks without lines where a style is one of "o", "s" and "^".
        labels: of both axes.
        series: tells the lines of a panel apart.
        even: x is spread evenly, as values span magnitudes or double.
        shares: y spans [0, 1] in every panel.
        chance: whether a line is drawn at 0.5.
    """

    x: str
    panel: Callable[[Row], str]
    lines: tuple[Line, ...]
    labels: tuple[str, str]
    alt: str
    series: Callable[[Row], str] = lambda row: ""
    even: bool = False
    shares: bool = True
    chance: bool = False


@dataclass(frozen=True)
class Frame:
    """A table of a board.

    Attributes:
        name: of its CSV file, and of its plot.
        text: what a reader must know, paragraphs apart.
        build: makes it; the frames before it are in `Sources.frames`.
        columns: in the order in which pages show them; the CSV file has that of `build`.
        rest: what columns hold that depend on the records and are not among `columns`: numbers.
        split: key of a column of which each value has a table of its own.
        summary: sentences on the whole frame.
        details: for every row what its cells of the grid explain when they are pointed at.
        points: the frame as a picture of points for the page's script.
        draw: the frame as an SVG file, where `plot` cannot say it.
        order: the rows in the order of pages.
        readme: whether README.md shows its grid or its brief columns.
        empty: whether it is there without rows, too.
    """

    name: str
    title: str
    text: str
    build: Callable[[Sources], pd.DataFrame]
    columns: tuple[Column, ...]
    rest: str = ""
    split: str = ""
    grid: Grid | None = None
    plot: Plot | None = None
    summary: Callable[[pd.DataFrame], str] | None = None
    details: Callable[[Sources], list[Any]] | None = None
    points: Callable[[pd.DataFrame], dict[str, Any]] | None = None
    draw: Callable[[pd.DataFrame], bytes] | None = None
    alt: str = ""
    order: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame
    readme: bool = True
    empty: bool = False

    @property
    def drawn(self) -> bool:
        """Whether there is an SVG file of it."""
        return self.plot is not None or self.draw is not None

    def column(self, key: str) -> Column:
        return next(column for column in self.columns if column.key == key)

    def declared(self, frame: pd.DataFrame) -> tuple[Column, ...]:
        """All columns but bounds of intervals, those that depend on the records last."""
        known = {column.key for column in self.columns}
        known |= {f"{c.key}_{end}" for c in self.columns if c.interval for end in ("low", "high")}
        others = [str(key) for key in frame if key not in known]
        if others and not self.rest:
            raise KeyError(f"{self.name}: no column is declared for {others[0]}")
        added = (
            Column(
                key, key.replace("_", " "), Unit.NUMBER, self.rest, brief=number < FIRST, digits=-3
            )
            for number, key in enumerate(others)
        )
        return (*self.columns, *added)

    def shown(self, frame: pd.DataFrame) -> list[Column]:
        """Columns of pages: those that are not hidden and say something."""
        return [
            column
            for column in self.declared(frame)
            if not column.hidden and column.key in frame and frame[column.key].notna().any()
        ]

    def parts(self, frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Title and rows of each table, without columns that are empty there."""
        if not self.split:
            return [("", frame)]
        return [
            (str(value), own.dropna(axis="columns", how="all"))
            for value, own in frame.groupby(self.split, sort=False)
        ]


#: So many of the columns that depend on the records fit into the first view.
FIRST = 8
#: How much the difference of a triggered image from the clean one is magnified.
MAGNIFIED = 5


@dataclass(frozen=True)
class Picture:
    """A picture of a file in evidence/, or of pixels.

    Attributes:
        pixels: uint8 (2, n, C, H, W): clean test images, and the same with the trigger.
    """

    title: str
    alt: str
    file: str = ""
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Chapter:
    """The tables of a game, or others that belong together.

    Attributes:
        how: how to read them, in a paragraph or two.
        record: the class of the game's records.
        worst: from the game's unfinished records, and the records of all games that are ok, makes
            the worst-case records that means count instead of the unfinished ones.
        slim: splits a record into one without what fills memory, and what tables need of that.
        verdict: what the frames say, in sentences.
        pictures: title and text of a gallery, and what is in it.
    """

    title: str
    frames: tuple[Frame, ...]
    how: str = ""
    record: type[Record] | None = None
    worst: Callable[[Sequence[Any], Sequence[Record]], Iterable[Record]] | None = None
    slim: Callable[[Any], tuple[Any, Any]] | None = None
    verdict: Callable[[Mapping[str, pd.DataFrame]], Iterable[str]] | None = None
    gallery: tuple[str, str] = field(default=("", ""))
    pictures: Callable[[Sources], Sequence[Picture]] | None = None
