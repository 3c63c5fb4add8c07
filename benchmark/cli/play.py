"""Playing protocols: run and tune."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer
from rich.markup import escape
from rich.table import Table

from benchmark.cli.completion import plugin_names, protocol_names
from benchmark.cli.execution import execute_plan, prepare, say_what_is_played, searches_of
from benchmark.cli.shared import (
    DataDir,
    Device,
    PluginFiles,
    check_folder,
    duration,
    one_sentence,
    out,
    out_folder,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.api import Source
    from benchmark.games.experiment import Experiment
    from benchmark.records.cell import Cell
    from benchmark.registry import Registry
    from benchmark.runs.context import Setup

Attacks = Annotated[
    Optional[list[str]],
    typer.Option(
        "--attack",
        autocompletion=plugin_names,
        help="Attack to play, as name or name:field=value,…; m and boost count as fields. "
        "May be given several times; the protocol's grid by default.",
    ),
]
Defenses = Annotated[
    Optional[list[str]],
    typer.Option(
        "--defense",
        autocompletion=plugin_names,
        help="Likewise for defenses and detectors; join stages of one pipeline by '+'.",
    ),
]
Recipe = Annotated[
    Optional[str], typer.Option(help="Training recipe; the protocol's own by default.")
]
Seeds = Annotated[
    Optional[int],
    typer.Option(min=1, help="Number of repetitions, and of models in a population."),
]
Done = Annotated[
    Optional[Path],
    typer.Option(help="Folder with records, such as a board; what it has is not played."),
]
TimeLimit = Annotated[Optional[float], duration("Stop after this long; run again to continue.")]
OutDir = Annotated[Optional[Path], out_folder("Folder of the run; runs/PROTOCOL by default.")]
Workers = Annotated[
    Optional[int],
    typer.Option(
        min=1,
        help="Tasks side by side; by default as many as there are cores and memory for, "
        "one on a GPU.",
    ),
]
CellTimeLimit = Annotated[
    Optional[float],
    duration(
        "Let one cell take no longer; it has failed then. By default 100 times what the training "
        "of its clean model took, and at least 10 minutes.",
        some=True,
    ),
]
ProtocolName = Annotated[
    str,
    typer.Argument(help="A released protocol, or a .toml file.", autocompletion=protocol_names),
]


def run(
    protocol: ProtocolName,
    attack: Attacks = None,
    defense: Defenses = None,
    seeds: Seeds = None,
    recipe: Recipe = None,
    time_limit: TimeLimit = None,
    cell_time_limit: CellTimeLimit = None,
    ray: Annotated[
        Optional[str],
        typer.Option(
            metavar="auto|ADDRESS",
            help="Play on a Ray cluster: the one that this machine belongs to, or another one. "
            "--workers is then the number of tasks that share a GPU.",
        ),
    ] = None,
    out_dir: OutDir = None,
    done: Done = None,
    device: Device = "auto",
    workers: Workers = None,
    data_dir: DataDir = None,
    plugin: PluginFiles = None,
) -> None:
    """Play a protocol's games and save a record per cell.

    A run that was stopped, killed or interrupted continues with the same command. A cell
    that failed keeps its record with the error; delete the record to try again. Each cell is
    played in a process of its own: one that dies is tried once more. Repairs use
    the settings that `poisongames tune` found for the protocol, where there are any.
    """
    started = time.monotonic()
    with one_sentence():
        from benchmark.cli.results import show_results
        from benchmark.games.robustness import searches as tuned
        from benchmark.protocol import load, tuned_folder
        from benchmark.runs.plan import plan

        if ray is not None:
            device = _join(ray, device)
        setup, registry, source = prepare(
            load(protocol), recipe, out_dir, device, data_dir, plugin, elsewhere=ray is not None
        )
        folder = tuned_folder(protocol)
        searches = searches_of(protocol, setup.protocol, registry, recipe)
        cells = plan(
            setup.protocol,
            registry,
            attacks=attack or (),
            defenses=defense or (),
            seeds=seeds,
            recipe=recipe,
            tuned=tuned.chosen(searches),
        )
        if attack or defense:
            say_what_is_played(cells, setup.protocol.name)
        asked = cells
        if done is not None:
            cells = without_those_of(done, cells)
        check_cells(cells, setup, registry, source)
        tuned.copy_searches(searches, folder, setup.root)
        execute_plan(
            setup,
            cells,
            "cells",
            started,
            workers,
            show=lambda: show_results(setup.root, asked, done),
            ray=ray is not None,
            time_limit=time_limit,
            cell_time_limit=cell_time_limit,
        )


def tune(
    protocol: ProtocolName,
    defense: Annotated[
        Optional[list[str]],
        typer.Option(
            autocompletion=plugin_names,
            help="Repair to tune; all the protocol has a grid for by default.",
        ),
    ] = None,
    recipe: Recipe = None,
    time_limit: TimeLimit = None,
    out_dir: OutDir = None,
    device: Device = "auto",
    workers: Workers = None,
    data_dir: DataDir = None,
    plugin: PluginFiles = None,
) -> None:
    """Let defenders choose their settings on a model that they poison themselves.

    Every point of the protocol's grid repairs a model that holds the defender's own backdoor;
    the one that removes it best within the budget of clean accuracy is used against all
    attacks from then on. The searches are kept beside the protocol's file; delete one to
    search again.
    """
    started = time.monotonic()
    with one_sentence():
        from benchmark.games.columns import share_text
        from benchmark.games.robustness import searches as tuned
        from benchmark.protocol import load, tuned_folder
        from benchmark.runs.plan import plan_tuning

        setup, registry, _ = prepare(load(protocol), recipe, out_dir, device, data_dir, plugin)
        folder = tuned_folder(protocol)
        searches = plan_tuning(setup.protocol, registry, folder, defense or (), recipe)
        for task in searches:
            tuned.refuse_other_recipe(task)
        if any(tuned.result(task) is None for task in searches):
            check_folder(folder, "the folder of searches")
        execute_plan(
            setup, searches, "searches", started, workers, results=folder, time_limit=time_limit
        )
        table = Table("repair", "r", "points", "own ASR", "cost", "chosen", box=None)
        for found in filter(None, map(tuned.result, searches)):
            share = share_text(found.trusted_share)
            if not found.trials:
                table.add_row(found.defense, share, "0", "", "", escape(str(found.impossible)))
                continue
            table.add_row(
                found.defense,
                share,
                str(len(found.trials)),
                f"{found.best.asr:.3f}",
                f"{100 * found.cost(found.best)[0]:.1f}",
                escape(", ".join(f"{key}={value}" for key, value in found.best.params.items())),
            )
        out.print(table)


def _join(address: str, device: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Join a Ray cluster; returns the device that its machines play on."""
    from benchmark.runs.on_ray import connect, has_gpus

    connect(address)
    there = has_gpus() if device == "auto" else device == "cuda"
    return "cuda" if there else "cpu"


def without_those_of(board: Path, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that a folder has no record of; it is said how many it has."""
    from benchmark.games.all import records
    from benchmark.records.files import StoreError
    from benchmark.records.store import Store
    from benchmark.runs.done import record_of

    there = next(records(board), None)
    if there is None:
        raise StoreError(f"--done {board}: there are no records in {board / 'records'}")
    if any(cell.victim.protocol_sha256 != there.protocol.sha256 for cell in cells):
        name = f"{there.protocol.name} {there.protocol.sha256[:12]}"
        raise StoreError(f"--done {board}: its records are of {name}, another protocol")
    left = [cell for cell in cells if record_of(cell, Store(board)) is None]
    say(f"{len(cells) - len(left)} of {len(cells)} cells are in {board} already")
    return left


def check_cells(cells: Sequence[Cell], setup: Setup, registry: Registry, source: Source) -> None:
    """Find out before any work begins that something is missing which cells need."""
    from benchmark.games.experiment import Experiment

    _load_what_is_used(registry, cells)
    experiment = Experiment(setup.protocol, source, registry, recipe=setup.recipe)
    _check_enough_images(experiment, cells, registry)


def _load_what_is_used(registry: Registry, cells: Sequence[Cell]) -> None:
    """Find out before any work begins that something an inverter uses is missing."""
    from benchmark.api import Defense, Inverter
    from benchmark.errors import UserError

    labels = {stage.label for cell in cells for stage in cell.defense.stages}
    for label in sorted(labels):
        plugin = registry.create(Defense, label)
        try:
            if isinstance(plugin, Inverter):
                plugin.uses()
        except UserError:
            raise
        except (Exception, SystemExit):  # the cell itself will fail and say so
            continue


def _check_enough_images(experiment: Experiment, cells: Sequence[Cell], registry: Registry) -> None:
    from benchmark.api import Attack
    from benchmark.games.all import GAMES
    from benchmark.games.victims import check_enough

    for victim in {cell.victim.key: cell.victim for cell in cells}.values():
        if not victim.attack.clean:
            attack = registry.create(Attack, victim.attack.label)
            check_enough(experiment, attack, victim.attack.m, experiment.target(victim.seed))
    for cell in cells:
        GAMES[cell.game].check_enough(experiment, cell)
