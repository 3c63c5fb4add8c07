"""Playing protocols: run and tune."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.table import Table

from benchmark.cli.shared import (
    DataDir,
    Device,
    PluginFiles,
    choose_device,
    err,
    load_registry,
    one_sentence,
    out,
    seconds_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmark.records.cell import Cell, Tune
    from benchmark.registry import Registry
    from benchmark.runs.context import Setup

Attacks = Annotated[
    Optional[list[str]],
    typer.Option(
        "--attack",
        help="Attack to play, as name or name:field=value,…; m and boost count as fields. "
        "May be given several times; the protocol's grid by default.",
    ),
]
Recipe = Annotated[
    Optional[str], typer.Option(help="Training recipe; the protocol's own by default.")
]
TimeLimit = Annotated[
    Optional[str],
    typer.Option(help="Stop after this long (90s, 9m, 1h); run again to continue."),
]
OutDir = Annotated[
    Optional[Path], typer.Option("--out", help="Folder of the run; runs/PROTOCOL by default.")
]
Workers = Annotated[
    Optional[int],
    typer.Option(min=1, help="Processes side by side; one per core, one on a GPU."),
]
ProtocolName = Annotated[str, typer.Argument(help="A released protocol, or a .toml file.")]


def run(
    protocol: ProtocolName,
    attack: Attacks = None,
    defense: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Likewise for defenses and detectors; join stages of one pipeline by '+'."
        ),
    ] = None,
    seeds: Annotated[
        Optional[int],
        typer.Option(min=1, help="Number of repetitions, and of models in a population."),
    ] = None,
    recipe: Recipe = None,
    time_limit: TimeLimit = None,
    out_dir: OutDir = None,
    done: Annotated[
        Optional[Path],
        typer.Option(help="Folder with records, such as a board; what it has is not played."),
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    data_dir: DataDir = None,
    plugin: PluginFiles = None,
) -> None:
    """Play a protocol's games and save a record per cell.

    A run that was stopped, killed or interrupted continues with the same command. A cell
    that failed keeps its record with the error; delete the record to try again. Repairs use
    the settings that `poisongames tune` found for the protocol, where there are any.
    """
    started = time.monotonic()
    with one_sentence():
        from benchmark.games.robustness import searches as tuned
        from benchmark.protocol import tuned_folder
        from benchmark.runs.plan import plan

        setup, registry = prepare(protocol, recipe, out_dir, device, data_dir, plugin)
        searches = tuned_folder(protocol)
        with _as_protocol_error():
            cells = plan(
                setup.protocol,
                registry,
                attacks=attack or (),
                defenses=defense or (),
                seeds=seeds,
                recipe=recipe,
                tuned=tuned.chosen(searches),
            )
        if done is not None:
            cells, planned = _without_those_of(done, cells), len(cells)
            out.print(f"{planned - len(cells)} of {planned} cells are in {done} already")
        _load_what_is_used(registry, cells)
        tuned.copy_searches(searches, setup.root)
        execute_plan(setup, cells, "cells", started, time_limit, workers)


def tune(
    protocol: ProtocolName,
    defense: Annotated[
        Optional[list[str]],
        typer.Option(help="Repair to tune; all the protocol has a grid for by default."),
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
        from benchmark.games.robustness import searches as tuned
        from benchmark.protocol import tuned_folder
        from benchmark.runs.plan import plan_tuning

        setup, registry = prepare(protocol, recipe, out_dir, device, data_dir, plugin)
        folder = tuned_folder(protocol)
        with _as_protocol_error():
            searches = plan_tuning(setup.protocol, registry, folder, defense or (), recipe)
        execute_plan(setup, searches, "searches", started, time_limit, workers, folder)
        table = Table("repair", "r", "points", "own ASR", "cost", "chosen", box=None)
        for found in tuned.load(folder):
            table.add_row(
                found.defense,
                f"{found.trusted_share:.1%}",
                str(len(found.trials)),
                f"{found.best.asr:.3f}",
                f"{100 * found.cost(found.best)[0]:.1f}",
                ", ".join(f"{key}={value}" for key, value in found.best.params.items()),
            )
        out.print(table)


def _without_those_of(board: Path, cells: Sequence[Cell]) -> list[Cell]:
    from benchmark.records.store import Store, StoreError

    if not (board / "records").is_dir():
        raise StoreError(f"--done {board}: there is no folder {board / 'records'}")
    return [cell for cell in cells if not Store(board).has_record(cell.name)]


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
        except Exception:  # the cell itself will fail and say so
            continue


@contextmanager
def _as_protocol_error() -> Iterator[None]:
    """What a plan refuses is a mistake in what was asked for."""
    from benchmark.protocol import ProtocolError

    try:
        yield
    except ValueError as error:
        raise ProtocolError(str(error)) from None


def prepare(
    protocol: str,
    recipe: str | None,
    out_dir: Path | None,
    device: str,
    data_dir: Path | None,
    plugin: list[Path] | None,
) -> tuple[Setup, Registry]:
    """Check all that can be checked before any worker starts; errors are then said once."""
    from benchmark import data
    from benchmark import protocol as protocols
    from benchmark.api import Architecture, Dataset
    from benchmark.games.experiment import pools
    from benchmark.records.store import Store
    from benchmark.runs.context import Setup

    chosen = protocols.load(protocol)
    registry = load_registry(plugin)
    device = choose_device(device)
    # Decoding is done here, once, and not by every worker.
    source = data.load(registry.create(Dataset, chosen.splits.dataset), data_dir)
    pools(chosen, source)
    registry.create(Architecture, chosen.architecture)
    setup = Setup(
        protocol=chosen,
        recipe=recipe or chosen.recipe,
        device=device,
        plugin_files=registry.paths,
        data_dir=data_dir,
        root=out_dir or Path("runs") / chosen.name,
    )
    Store(setup.root).claim(data.sha256(source))
    return setup, registry


def workers_for(device: str) -> int:
    """Processes side by side: one on a GPU, or one per core."""
    return 1 if device == "cuda" else os.cpu_count() or 1


def execute_plan(
    setup: Setup,
    tasks: Sequence[Cell | Tune],
    what: str,
    started: float,
    time_limit: str | None,
    workers: int | None,
    results: Path | None = None,
) -> None:
    """Work through a plan with progress bars, and say how it ended."""
    from benchmark.progress import Display
    from benchmark.runs.execute import execute

    limit = seconds_of(time_limit)
    name = setup.protocol.name
    with Display(err, f"{name} on {setup.device}") as display:
        summary = execute(
            setup,
            tasks,
            workers=workers or workers_for(setup.device),
            deadline=None if limit is None else started + limit,
            listener=display.listener,
        )
    minutes = (time.monotonic() - started) / 60
    out.print(
        f"{summary.done} of {summary.total} {what} of {name} done after {minutes:.1f} min; "
        f"see {results or setup.root / 'records'}",
        soft_wrap=True,
    )
    if display.failed:
        hint = "" if results else f"; `poisongames board build {setup.root}` lists them"
        out.print(f"{display.failed} {what} failed{hint}")
    if summary.why:
        reason = "time limit reached" if summary.why == "time" else "interrupted"
        out.print(f"{reason}; the same command continues")
        raise typer.Exit(3 if summary.why == "time" else 130)
