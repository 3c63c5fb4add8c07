"""The page of a board: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from benchmark.games.all import GAMES
from benchmark.games.columns import Column
from benchmark.games.frames import Chapter, Frame
from benchmark.games.means import settings
from benchmark.leaderboard.board import Board
from benchmark.leaderboard.cells import UNFINISHED
from benchmark.leaderboard.chapters import CHAPTERS, sentences
from benchmark.leaderboard.page import pictures
from benchmark.leaderboard.page.tables import anchor, matrix, table
from benchmark.records.record import NONE

#: In the order in which they are run.
SCRIPTS = ("elements.js", "charts.js", "tables.js", "page.js")


@dataclass(frozen=True)
class Part:
    """A frame on the page; what the script draws is found by the keys of `tables` and `grid`."""

    frame: Frame
    summary: str
    columns: list[Column]
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    grid: dict[str, Any] | None = None
    points: dict[str, Any] | None = None


@dataclass(frozen=True)
class Section:
    """A chapter with what the board has of it."""

    key: str
    chapter: Chapter
    parts: list[Part]
    pictures: list[tuple[str, str, str, str | None]]


def render(board: Board) -> bytes:
    """The page as UTF-8; the same records and pictures give the same bytes."""
    sections = [found for chapter in CHAPTERS if (found := _section(chapter, board)) is not None]
    parts = [part for section in sections for part in section.parts]
    plugins = [
        {
            "key": f"plugin-{number}",
            "label": ref.label,
            "name": ref.name,
            "version": ref.version,
            "kind": getattr(ref, "threat", "") or getattr(ref, "stage", ""),
            "params": settings(ref),
        }
        for number, ref in enumerate(board.plugins, 1)
    ]
    budget = board.sources.protocol.budget if board.sources.protocol else None
    return html(
        "board.html.jinja",
        title=f"{board.protocol.name} · PoisonGames",
        board=board,
        facts=_facts(board),
        files=[*(f"{part.frame.name}.csv" for part in parts), *_plots(parts)],
        budget=budget,
        verdict=sentences(board.frames),
        hero=next((part for part in parts if part.points), None),
        sections=sections,
        problems=len(board.frames.get(UNFINISHED.name, ())),
        plugins=plugins,
        submissions=[(anchor(one.title), one) for one in board.submissions],
        data={
            "tables": {key: made for part in parts for key, made in part.tables.items()},
            "matrices": {part.frame.name: part.grid for part in parts if part.grid},
            "scatters": {part.frame.name: part.points for part in parts if part.points},
            "details": {name: rows for name, rows in board.details.items() if rows},
            "budget": budget,
            # Names are shared by settings of a plugin; the first is as good as the others.
            "plugins": {
                text: one["key"]
                for one in reversed(plugins)
                for text in (one["label"], one["name"])
            },
        },
    )


def html(template: str, *, room: str = __name__, **values: Any) -> bytes:
    """A template with the style and, where there are `data`, the script, both named by hash.

    Args:
        room: the package in which the template lies.
    """
    style = _read("style.css")
    script = "\n".join(map(_read, SCRIPTS)) if "data" in values else ""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "allow_nan": False,
        "separators": (",", ":"),
    }
    environment.filters |= {"prose": _prose, "breakable": _breakable}
    hashes = {"style_hash": _hash(style), "script_hash": _hash(script)}
    text = environment.from_string(_read(template, room)).render(
        style=style, script=script, **hashes, **values
    )
    return text.encode()


def _section(chapter: Chapter, board: Board) -> Section | None:
    there = [frame for frame in chapter.frames if len(board.frames.get(frame.name, ()))]
    shown = [
        (picture.title, picture.alt, picture.file, _uri(picture, board))
        for picture in board.pictures.get(chapter.title, ())
    ]
    if not there:
        return None
    parts = [_part(frame, board.frames) for frame in there]
    return Section(chapter.title.lower(), chapter, parts, shown)


def _uri(picture: Any, board: Board) -> str | None:
    if picture.pixels is not None:
        return pictures.triggered(picture.pixels)
    found = board.sources.evidence(picture.file)
    return pictures.png(found) if found else None


def _part(frame: Frame, frames: dict[str, pd.DataFrame]) -> Part:
    own = frames[frame.name]
    part = Part(
        frame,
        frame.summary(own) if frame.summary else "",
        frame.shown(own),
        grid=matrix(frame, frames) if frame.grid else None,
        points=frame.points(own) if frame.points else None,
    )
    for title, rows in frame.parts(frame.order(own)) if part.columns else ():
        key = f"{frame.name}-{title}" if title else frame.name
        part.tables[key] = table(f"{frame.title}{f': {title}' if title else ''}", frame, rows)
        part.titles[key] = title.capitalize()
    return part


def _facts(board: Board) -> list[tuple[str, int]]:
    """What was played, in numbers."""
    victims = board.frames["victims"]
    attacks = int((victims.get("threat", pd.Series(dtype=object)) != NONE).sum())
    facts = [("cells", board.cells), ("seeds", board.seeds)]
    facts += [("attacks", attacks)] if attacks else []
    played = {(getattr(ref, "stage", NONE), ref.name) for ref in board.plugins}
    for game in GAMES.values():
        number = sum(stage in game.stages for stage, _ in played)
        facts += [(game.players, number)] if number else []
    return facts


def _plots(parts: list[Part]) -> list[str]:
    return [f"{part.frame.name}.svg" for part in parts if part.frame.drawn]


def _prose(text: str) -> Markup:
    """Paragraphs of plain text."""
    return Markup("").join(Markup("<p>{}</p>").format(part) for part in text.strip().split("\n\n"))


def _breakable(text: str) -> Markup:
    """A text that may break where names of plugins in the tables may."""
    return Markup("<wbr>").join(re.split(r"(?<=[:,+])(?=\S)", text))


def _read(name: str, room: str = __name__) -> str:
    return files(room).joinpath(name).read_text("utf-8").strip()


def _hash(content: str) -> str:
    """What a content security policy allows it by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
