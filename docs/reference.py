"""Pages of reference, made from what is registered, released and declared."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tabulate import tabulate

from benchmark import protocol as protocols
from benchmark.leaderboard import chapters
from benchmark.registry import Entry, Registry
from benchmark.specs import describe_type, parameters, shown_default, threat_or_stage


def write(folder: Path) -> None:
    """Write all pages into a folder, which is made where it is missing."""
    folder.mkdir(exist_ok=True)
    pages = {"plugins": plugins(), "protocols": released(), "columns": columns()}
    for name, parts in pages.items():
        (folder / f"{name}.md").write_text("\n".join(parts) + "\n")


def plugins() -> Iterator[str]:
    """Every plugin with its parameters, by kind."""
    yield "# Plugins\n\n`poisongames plugins NAME` prints the same of one that is installed.\n"
    entries = sorted(Registry().entries, key=_kind)
    for kind, found in groupby(entries, key=_kind):
        yield f"## {kind[0]}{f': {kind[1]}' if kind[1] else ''}\n"
        for entry in sorted(found, key=lambda one: one.plugin.name):
            yield from _plugin(entry)


def _kind(entry: Entry) -> tuple[str, str]:
    return entry.kind.__name__, threat_or_stage(entry.plugin)


def _plugin(entry: Entry) -> Iterator[str]:
    plugin = entry.plugin
    yield f"### {plugin.name}\n\nVersion {plugin.version}. Paper: {plugin.paper or 'none'}.\n"
    # As it stands in the code: blocks and lists of a docstring are no Markdown.
    yield f"```text\n{inspect.getdoc(plugin)}\n```\n"
    rows = [
        [f"`{name}`", f"`{shown_default(default)}`", describe_type(hint)]
        for name, (hint, default) in parameters(plugin).items()
    ]
    if rows:
        yield tabulate(rows, ["parameter", "default", "allowed"], tablefmt="github") + "\n"


def released() -> Iterator[str]:
    """The file of every released protocol."""
    yield "# Protocols\n\nA released protocol never changes; its hash is in every record.\n"
    for name in sorted(protocols.released()):
        protocol = protocols.load(name)
        file = Path(protocols.__file__).parent / "protocols" / f"{name}.toml"
        yield f"## {name}\n\n{protocol.summary}. `{protocol.sha256[:12]}`\n"
        yield f"```toml\n{file.read_text()}```\n"


def columns() -> Iterator[str]:
    """Every column of every table of a board."""
    yield "# Columns of boards\n\nNames are those of the CSV files and of `load_results`.\n"
    for frame in chapters.frames():
        yield f"## {frame.name}\n\n{frame.title}. {frame.text}\n"
        rows = [
            [
                f"`{one.key}`" + (", `_low`, `_high`" if one.interval else ""),
                one.unit.value,
                one.doc,
            ]
            for one in frame.columns
        ]
        yield tabulate(rows, ["column", "unit", "what it holds"], tablefmt="github") + "\n"
