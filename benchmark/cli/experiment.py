"""The papers' figures and tables by name: list them, play one, and draw it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.markup import escape
from rich.table import Table

from benchmark.cli.completion import protocol_names
from benchmark.cli.execution import execute_plan, prepare, say_what_is_played, searches_of
from benchmark.cli.play import (
    Done,
    OutDir,
    Seeds,
    TimeLimit,
    Workers,
    check_cells,
    without_those_of,
)
from benchmark.cli.results import below_names, holding, narrow
from benchmark.cli.shared import DataDir, Device, PluginFiles, one_sentence, out, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.experiments.declared import PaperExperiment
    from benchmark.records.cell import Cell


def experiment_names() -> list[str]:
    """For the completion of the command line."""
    from benchmark.experiments.declared import names

    return list(names())


def experiment(
    name: Annotated[
        Optional[str],
        typer.Argument(
            help="A paper's figure or table; all are listed without one.",
            autocompletion=experiment_names,
        ),
    ] = None,
    protocol: Annotated[
        Optional[str],
        typer.Argument(
            help="A released protocol, or a .toml file; the experiment's own by default.",
            autocompletion=protocol_names,
        ),
    ] = None,
    seeds: Seeds = None,
    time_limit: TimeLimit = None,
    out_dir: OutDir = None,
    done: Done = None,
    device: Device = "auto",
    workers: Workers = None,
    data_dir: DataDir = None,
    plugin: PluginFiles = None,
) -> None:
    """Play what a figure or a table of a paper needs, and draw it beside the published numbers.

    The cells are those of `poisongames run`, in the same folder; what is there is not played
    again. An experiment that trains otherwise has a folder of its own. Tables and plots are
    written into its folder experiments/.
    """
    started = time.monotonic()
    with one_sentence():
        if name is None:
            out.print(_listed())
            say("\n`poisongames experiment NAME PROTOCOL` plays one and draws it.")
            return
        from benchmark.experiments.cells import cells_of
        from benchmark.experiments.declared import load
        from benchmark.games.robustness import searches as tuned
        from benchmark.protocol import load as load_protocol
        from benchmark.protocol import tuned_folder

        chosen = load(name)
        named = protocol or chosen.protocol
        base = load_protocol(named)
        played = chosen.on(base)
        setup, registry, source = prepare(played, None, out_dir, device, data_dir, plugin)
        folder = tuned_folder(named)
        searches = searches_of(named, base, registry)
        cells = cells_of(chosen, setup.protocol, tuned.chosen(searches), registry, seeds)
        say_what_is_played(cells, setup.protocol.name)
        asked = cells
        if done is not None:
            cells = without_those_of(done, cells)
        check_cells(cells, setup, registry, source)
        if not chosen.training:  # which would be another protocol than that of the searches
            tuned.copy_searches(searches, folder, setup.root)
        execute_plan(
            setup,
            cells,
            "cells",
            started,
            workers,
            show=lambda: _show(chosen, asked, setup.root, done),
            time_limit=time_limit,
        )


def _listed() -> Table:
    from benchmark.experiments.declared import load, names

    table = Table("experiment", "where", "question", box=None, pad_edge=False)
    for name in names():
        found = load(name)
        table.add_row(*map(escape, (name, f"{found.paper}, {found.shows}", found.question)))
    return table


def _show(chosen: PaperExperiment, cells: Sequence[Cell], root: Path, done: Path | None) -> None:
    from benchmark.experiments.shown import in_papers, tables, write
    from benchmark.leaderboard.board import read_board

    if not (places := holding(cells, root, done)):
        return
    board = read_board(*places, only={cell.key for cell in cells})
    made = tables(chosen, board)
    for one in made:
        out.print(f"\n[b]{escape(one.frame.title)}[/b]")
        out.print(_table(one.lines))
    out.print(f"\n[b]Published in {escape(chosen.paper)}, {escape(chosen.shows)}[/b]")
    say(chosen.published)
    for lines in in_papers(chosen):
        out.print(_table(lines))
    page = write(chosen, made, board, root / "experiments")
    say(f"\nRates in percent, brackets 95 % intervals; see {page}")


def _table(lines: list[dict[str, str]]) -> Table:
    titles, texts = [*lines[0]], [[*line.values()] for line in lines]
    if titles[0] == "attack" and len({name for name, *_ in texts}) < len(texts):
        return below_names(titles[1:], texts)
    table = Table(box=None, pad_edge=False)
    for number, title in enumerate(titles):
        table.add_column(escape(title), overflow="fold", no_wrap=not number)
    for name, *others in texts:
        table.add_row(*map(escape, [narrow(name), *others]))
    return table
