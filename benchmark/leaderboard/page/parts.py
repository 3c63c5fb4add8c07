"""What sections are made of."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from benchmark.leaderboard.board import Board
from benchmark.leaderboard.page.charts import Matrix, Scatter
from benchmark.leaderboard.page.columns import Table
from benchmark.leaderboard.tables import KEYS

#: Columns that tell an attack.
WHO = ("attack", "m", "threat", "boost", "recipe")
ASR = ("asr", "asr_low", "asr_high")


@dataclass(frozen=True)
class Picture:
    """A picture in the page; `uri` is None where the file is missing."""

    title: str
    alt: str
    uri: str | None
    file: str = ""


@dataclass(frozen=True)
class Part:
    """A piece of a section. What the page's script draws is found by the part's `key`."""

    key: str
    text: str = ""
    title: str = ""
    scatter: Scatter | None = None
    matrix: Matrix | None = None
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Section:
    """What has an entry in the navigation."""

    key: str
    title: str
    parts: tuple[Part, ...]


def with_victims(board: Board, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the ASR of its victims before any defense."""
    columns = [*KEYS, *ASR]
    victims = board.frames["victims"]
    # Without victims, such as when all of them were invalid, there is nothing to add.
    return frame if victims.empty else frame.merge(victims[columns], on=KEYS, how="left")
