"""What all commands that play share: what is checked before, and how a plan is executed."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from benchmark.cli.shared import choose_device, counting, err, load_registry, out, say
from benchmark.texts import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmark.api import Source
    from benchmark.games.robustness.searches import Search
    from benchmark.protocol import Protocol
    from benchmark.records.cell import Cell, Tune
    from benchmark.records.record import Record
    from benchmark.registry import Registry
    from benchmark.runs.context import Setup
    from benchmark.runs.executor import Executor


def prepare(
    protocol: Protocol,
    recipe: str | None,
    out_dir: Path | None,
    device: str,
    data_dir: Path | None,
    plugin: list[Path] | None,
    elsewhere: bool = False,
) -> tuple[Setup, Registry, Source]:
    """Check all that can be checked before any worker starts; errors are then said once.

    Returns:
        What workers begin with, the plugins, and the decoded data.

    Args:
        elsewhere: other machines play, so that the device need not be here.
    """
    from benchmark import data
    from benchmark.api import Architecture, Dataset
    from benchmark.games.experiment import pools
    from benchmark.games.initial import initial
    from benchmark.records.store import Store
    from benchmark.runs.context import Setup

    registry = load_registry(plugin)
    device = device if elsewhere else choose_device(device)
    store = Store(out_dir or Path("runs") / protocol.name)
    store.begin()
    store.keep_to(protocol.name, protocol.sha256)
    # Decoding is done here, once, and not by every worker.
    dataset = registry.create(Dataset, protocol.splits.dataset)
    with counting(f"decoding {dataset.name}") as progress:
        source = data.load(dataset, data_dir, progress=progress)
    for line in data.summary(source):
        say(f"data: {line}", err)
    pools(protocol, source)
    architecture = registry.create(Architecture, protocol.architecture)
    if (trained := protocol.recipes.get(recipe or protocol.recipe)) is not None:
        c, h, w = source.train.pixels.shape[1:]
        if note := initial(trained, architecture, (c, h, w), len(source.class_names)).note:
            say(f"init: {note}", err)
    setup = Setup(
        protocol=protocol,
        recipe=recipe or protocol.recipe,
        device=device,
        plugin_files=registry.paths,
        data_dir=data_dir and data_dir.absolute(),  # machines of a cluster work elsewhere
        root=store.root,
    )
    store.claim(data.sha256(source))
    return setup, registry, source


def workers_for(device: str) -> int:
    """Tasks side by side: one on a GPU, or as many as there are cores and memory for."""
    import joblib

    from benchmark.runs.machine import TASK_BYTES, memory_left

    if device == "cuda":
        return 1
    # Affinity and a container's quota decide how many cores there are.
    return max(1, min(int(joblib.cpu_count()), memory_left() // TASK_BYTES))


def say_what_is_played(cells: Sequence[Cell], protocol: str) -> None:
    """Print attacks and defenses with their settings, those of the protocol included."""
    from benchmark.records.cell import CLEAN

    played = (cell.victim.attack for cell in cells)
    attacks = dict.fromkeys(str(attack) for attack in played if attack != CLEAN)
    defenses = dict.fromkeys(stage.label for cell in cells for stage in cell.defense.stages)
    for what, found in (("attacks", attacks), ("defenses", defenses)):
        if found:
            say(f"{what}: {'; '.join(found)}", err)
    say(f"settings that were not given are those of {protocol}, then the plugins' own", err)


def searches_of(
    name: str, protocol: Protocol, registry: Registry, recipe: str | None = None
) -> list[Search]:
    """What defenders found for a protocol; it is said where searches are not of it.

    Args:
        name: of the protocol, or its file, as it was asked for.
    """
    from benchmark.games.robustness.searches import load
    from benchmark.protocol import tuned_folder
    from benchmark.runs.plan import searched

    folder = tuned_folder(name)
    found = searched(protocol, registry, folder, recipe)
    if others := len(load(folder)) - len(found):
        again = f"poisongames tune {name}{f' --recipe {recipe}' if recipe else ''}"
        say(
            f"tuned: {counted(others, 'file')} in {folder} left out, as found for another "
            f"protocol, recipe or version of a repair; {again} searches anew",
            err,
        )
    return found


def execute_plan(
    setup: Setup,
    tasks: Sequence[Cell | Tune],
    what: str,
    started: float,
    workers: int | None,
    *,
    results: Path | None = None,
    show: Callable[[], None] = lambda: None,
    ray: bool = False,
    time_limit: float | None = None,
    cell_time_limit: float | None = None,
) -> None:
    """Work through a plan with progress bars, and say how it ended and what came out.

    Args:
        results: where they are, if not among the run's records.
        show: prints what came out, also where the time was too short for all.
    """
    from benchmark.progress import Display
    from benchmark.records.cell import Cell
    from benchmark.records.store import Store
    from benchmark.runs.done import record_of
    from benchmark.runs.execute import execute
    from benchmark.runs.local import LocalExecutor
    from benchmark.runs.on_ray import RayExecutor

    executor: Executor
    if ray:
        executor = RayExecutor(setup, workers or 1)
    else:
        executor = LocalExecutor(setup, workers or workers_for(setup.device))
    store = Store(setup.root)
    name = setup.protocol.name
    with store.alone(), Display(err, f"{name} on {setup.device}") as display:
        summary = execute(
            store,
            tasks,
            executor,
            cell_seconds=cell_time_limit,
            deadline=None if time_limit is None else started + time_limit,
            listener=display.listener,
        )
    minutes = (time.monotonic() - started) / 60
    say(
        f"{summary.done} of {summary.total} {what} of {name} done after {minutes:.1f} min; "
        f"see {results or setup.root / 'records'}"
    )
    cells = [task for task in tasks if isinstance(task, Cell)]
    there = [record_of(cell, store) for cell in cells]
    # Also those of an earlier call, which this one has not played again.
    failed = sum(record is not None and record.status == "failed" for record in there)
    if failed:
        say(
            f"{failed} {what} failed; `poisongames board build {setup.root}` lists them. To play "
            f"one again, delete its record in {setup.root / 'records'}"
        )
    elif display.failed:
        out.print(f"{display.failed} {what} failed")
    _say_invalid([record for record in there if record is not None], what)
    show()
    if summary.why:
        reason = "time limit reached" if summary.why == "time" else summary.why
        out.print(f"{reason}; the same command continues")
        raise typer.Exit({"time": 3, "interrupted": 130}.get(summary.why, 1))


def _say_invalid(records: Sequence[Record], what: str) -> None:
    """How many have numbers that do not count, and why."""
    from benchmark.records.record import REASONS

    reasons = Counter(record.reason for record in records if record.reason is not None)
    if reasons:
        why = "; ".join(f"{REASONS[reason]} ({count})" for reason, count in reasons.items())
        say(f"invalid are {reasons.total()} of the {what}, and their numbers do not count: {why}")
