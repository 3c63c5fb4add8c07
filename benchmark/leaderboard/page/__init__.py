"""The page of a board: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from benchmark.leaderboard.board import Board, played
from benchmark.leaderboard.markdown import INTRODUCTION
from benchmark.leaderboard.page.charts import curve
from benchmark.leaderboard.page.parts import Section
from benchmark.leaderboard.page.sections import sections
from benchmark.leaderboard.tables import settings
from benchmark.leaderboard.verdict import sentences
from benchmark.records.record import NONE

#: In the order in which they are run.
SCRIPTS = ("elements.js", "charts.js", "tables.js", "page.js")
#: Frames with a plot beside the page.
PLOTS = ("curves", "classscores", "pareto", "radii", "configurations", "smoothed")


@dataclass(frozen=True)
class Plugin:
    """A plugin as it was played; `key` is its anchor, `kind` its threat or stage."""

    key: str
    label: str
    name: str
    version: int
    kind: str
    params: dict[str, str]


def render(board: Board) -> bytes:
    """The page as UTF-8; the same records and pictures give the same bytes."""
    shown = sections(board)
    plugins = _plugins(board)
    protocol = played(board.protocol)
    budget = protocol.robustness.budget if protocol and protocol.robustness else None
    style = _read("style.css")
    script = "\n".join(map(_read, SCRIPTS))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "allow_nan": False,
        "separators": (",", ":"),
    }
    environment.filters["prose"] = _prose
    environment.filters["breakable"] = _breakable
    text = environment.from_string(_read("index.html.jinja")).render(
        board=board,
        facts=_facts(board),
        files=_files(board),
        summary=protocol.summary if protocol else "",
        budget=budget,
        introduction=INTRODUCTION,
        verdict=sentences(board.frames),
        sections=shown,
        plugins=plugins,
        data=_data(board, shown, plugins, budget),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    return text.encode()


def _facts(board: Board) -> list[tuple[str, int]]:
    """What was played, in numbers."""
    kinds = {"attacks": "attack", "defenses": "defense"}
    kinds |= {"detectors": "detector", "inverters": "inverter"}
    facts = [("cells", board.cells), ("seeds", board.seeds)]
    for title, column in kinds.items():
        # What was published need not have been played.
        frames = [f for name, f in board.frames.items() if column in f and name != "comparison"]
        names = {name for frame in frames for name in frame[column].dropna()} - {NONE}
        facts += [(title, len(names))] if names else []
    return facts


def _files(board: Board) -> list[str]:
    """Files beside the page that show the same."""
    tables = [f"{name}.csv" for name in board.frames]
    return tables + [f"{name}.svg" for name in PLOTS if name in board.frames]


def _data(
    board: Board, shown: Sequence[Section], plugins: Sequence[Plugin], budget: float | None
) -> dict[str, Any]:
    """What the page's script draws, by the keys of the parts."""
    parts = [part for section in shown for part in section.parts]
    return {
        "tables": {part.key: vars(part.table) for part in parts if part.table},
        "matrices": {part.key: vars(part.matrix) for part in parts if part.matrix},
        "scatters": {part.key: vars(part.scatter) for part in parts if part.scatter},
        # Not in the order of the files, whatever they are called.
        "curves": [
            [curve(seed, found) for seed, found in sorted(group, key=lambda one: one[0])]
            for group in board.curves
        ],
        "budget": budget,
        # Names are shared by settings of a plugin; the first is as good as the others.
        "plugins": {
            text: plugin.key for plugin in reversed(plugins) for text in (plugin.label, plugin.name)
        },
    }


def _plugins(board: Board) -> list[Plugin]:
    return [
        Plugin(
            key=f"plugin-{number}",
            label=ref.label,
            name=ref.name,
            version=ref.version,
            kind=getattr(ref, "threat", "") or getattr(ref, "stage", ""),
            params=settings(ref),
        )
        for number, ref in enumerate(board.plugins, 1)
    ]


def _prose(text: str) -> Markup:
    """Paragraphs of plain text in which backticks mark code."""
    return Markup("").join(
        Markup("<p>{}</p>").format(
            Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(part))))
        )
        for part in text.strip().split("\n\n")
    )


def _breakable(text: str) -> Markup:
    """A text that may break where names of plugins in the tables may."""
    return Markup("<wbr>").join(re.split(r"(?<=[:,+])(?=\S)", text))


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8").strip()


def _hash(content: str) -> str:
    """What a content security policy allows it by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
