"""All boards at a glance: a part of README.md and index.html in the folder that holds them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark import protocol as protocols
from benchmark.leaderboard import markdown, page
from benchmark.leaderboard.build import content
from benchmark.records.files import write_whole

#: What is between these in README.md is made; the rest is written by hand and stays.
BEGIN = "<!-- made by `poisongames board build`: begin -->"
END = "<!-- made by `poisongames board build`: end -->"
_MADE = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)


@dataclass(frozen=True)
class Entry:
    """A board: its name, what its protocol is, and its verdict as its README.md has it."""

    name: str
    summary: str
    verdict: list[str]


def write(boards: Path) -> None:
    """Bring README.md and index.html of the folder of all boards up to date."""
    for name, made in files_of(boards).items():
        write_whole(boards / name, made)


def stale(boards: Path) -> list[str]:
    """Names of the files that are not what the boards make."""
    return [name for name, made in files_of(boards).items() if content(boards / name) != made]


def has_index(boards: Path) -> bool:
    """Whether a folder has a README.md that lists boards."""
    return BEGIN.encode() in (content(boards / "README.md") or b"")


def files_of(boards: Path) -> dict[str, bytes]:
    """Content by file name: a pure function of README.md there and of those of the boards."""
    entries = list(_entries(boards))
    there = (content(boards / "README.md") or b"# Leaderboards\n").decode()
    if not _MADE.search(there):
        there = f"{there.rstrip()}\n\n{BEGIN}{END}\n"
    listed = "\n\n".join(map(_markdown, entries))
    text = _MADE.sub(lambda _: f"{BEGIN}\n\n{listed}\n\n{END}", there)
    shown = page.html("index.html.jinja", title="PoisonGames leaderboards", boards=entries)
    return {"README.md": text.encode(), "index.html": shown}


def _entries(boards: Path) -> Iterator[Entry]:
    known = protocols.released()
    for folder in sorted(path.parent for path in boards.glob("*/records")):
        # A board that was never built has none, and somebody may have written another one.
        made = folder / "README.md"
        paragraphs = made.read_text("utf-8").split("\n\n") if made.is_file() else []
        if len(paragraphs) < 2:
            continue
        summary = protocols.load(folder.name).summary if folder.name in known else ""
        lines = paragraphs[1].splitlines()
        said = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
        yield Entry(folder.name, summary, [re.sub(r"\\(.)", r"\1", one) for one in said])


def _markdown(entry: Entry) -> str:
    said = "\n".join(f"- {markdown.escaped(sentence)}" for sentence in entry.verdict)
    links = f"[{entry.name}]({entry.name}/README.md) ([page]({entry.name}/index.html))"
    return "\n\n".join(filter(None, (f"## {links}", entry.summary, said)))
