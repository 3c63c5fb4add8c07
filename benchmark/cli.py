"""The command line: thin commands; torch is imported inside the ones that compute."""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmark.registry import Registry
    from benchmark.runs.cells import Cell, Tune
    from benchmark.runs.workshop import Setup

app = typer.Typer(
    help="Play backdoor attacks against defenses by fixed protocols, and rank what comes out.\n\n"
    "Begin with [b]poisongames run digits-v1[/b], then "
    "[b]poisongames board build runs/digits-v1[/b].",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
board = typer.Typer(help="Make tables from records.", no_args_is_help=True)
app.add_typer(board, name="board")
denoiser = typer.Typer(help="Train denoisers for smoothed classifiers.", no_args_is_help=True)
app.add_typer(denoiser, name="denoiser")

out, err = Console(), Console(stderr=True)

PluginFiles = Annotated[
    Optional[list[Path]],
    typer.Option("--plugin", help="A plugin in a single file; may be given several times."),
]


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Print errors that a person can mend as one sentence, without a traceback."""
    from benchmark.data import DataError
    from benchmark.denoising import DenoiserError
    from benchmark.protocol import ProtocolError
    from benchmark.runs.execute import WorkerDied
    from benchmark.runs.store import StoreError
    from benchmark.specs import RegistryError

    try:
        yield
    except (
        DataError,
        DenoiserError,
        ProtocolError,
        RegistryError,
        StoreError,
        WorkerDied,
    ) as error:
        err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None


def _seconds(text: str | None) -> float | None:
    """Parse a duration such as 90s, 9m, 1h30m or a plain number of seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    if not text.strip() or match is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 9m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def _registry(files: list[Path] | None) -> Registry:
    from benchmark.registry import Registry

    registry = Registry(files or ())
    wanted = {str(path) for path in files or ()}
    for failure in registry.failures:
        err.print(
            f"[yellow]left out:[/yellow] plugin {escape(failure.name)} "
            f"({escape(failure.origin)}): {escape(failure.error)}",
            soft_wrap=True,
        )
        if failure.origin in wanted:  # a file that was asked for by name
            raise typer.Exit(2)
    return registry


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
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Workers = Annotated[
    Optional[int],
    typer.Option(min=1, help="Processes side by side; one per core, one on a GPU."),
]
DataDir = Annotated[Optional[Path], typer.Option(help="Folder that holds data sets; see README.")]
ProtocolName = Annotated[str, typer.Argument(help="A released protocol, or a .toml file.")]


@app.command()
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
    with _one_sentence():
        from benchmark.protocol import tuned_folder
        from benchmark.runs import tuned
        from benchmark.runs.plan import plan

        setup, registry = _setup(protocol, recipe, out_dir, device, data_dir, plugin)
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
        _load_what_is_used(registry, cells)
        tuned.copy_searches(searches, setup.root)
        _execute(setup, cells, "cells", started, time_limit, workers)


@app.command()
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
    with _one_sentence():
        from benchmark.protocol import tuned_folder
        from benchmark.runs import tuned
        from benchmark.runs.plan import plan_tuning

        setup, registry = _setup(protocol, recipe, out_dir, device, data_dir, plugin)
        folder = tuned_folder(protocol)
        with _as_protocol_error():
            searches = plan_tuning(setup.protocol, registry, folder, defense or (), recipe)
        _execute(setup, searches, "searches", started, time_limit, workers, folder)
        table = Table("repair", "r", "points", "own ASR", "CDA", "chosen", box=None)
        for found in tuned.load(folder):
            table.add_row(
                found.defense,
                f"{found.trusted_share:.1%}",
                str(len(found.trials)),
                f"{found.best.asr:.3f}",
                f"{found.best.cda:.3f}",
                ", ".join(f"{key}={value:g}" for key, value in found.best.params.items()),
            )
        out.print(table)


def _load_what_is_used(registry: Registry, cells: Sequence[Cell]) -> None:
    """Find out before any work begins that a denoiser is missing."""
    from benchmark.api import Defense, Inverter
    from benchmark.denoising import DenoiserError

    labels = {stage.label for cell in cells for stage in cell.defense.stages}
    for label in sorted(labels):
        plugin = registry.create(Defense, label)
        try:
            if isinstance(plugin, Inverter):
                plugin.uses()
        except DenoiserError:
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


def _setup(
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
    from benchmark.games.arena import pools
    from benchmark.runs.workshop import Setup

    chosen = protocols.load(protocol)
    registry = _registry(plugin)
    device = _device(device)
    # Decoding is done here, once, and not by every worker.
    pools(chosen, data.load(registry.create(Dataset, chosen.splits.dataset), data_dir))
    registry.create(Architecture, chosen.architecture)
    setup = Setup(
        protocol=chosen,
        recipe=recipe or chosen.recipe,
        device=device,
        plugin_files=registry.paths,
        data_dir=data_dir,
        root=out_dir or Path("runs") / chosen.name,
    )
    return setup, registry


def _device(wanted: str) -> str:
    import torch

    if wanted not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"{wanted!r}; choose auto, cpu or cuda", param_hint="--device")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("no GPU is available here", param_hint="--device")
    return wanted


def _execute(
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

    limit = _seconds(time_limit)
    name = setup.protocol.name
    with Display(err, f"{name} on {setup.device}") as display:
        summary = execute(
            setup,
            tasks,
            workers=workers or (1 if setup.device == "cuda" else os.cpu_count() or 1),
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


@app.command()
def plugins(
    name: Annotated[Optional[str], typer.Argument(help="Show one plugin's parameters.")] = None,
    plugin: PluginFiles = None,
) -> None:
    """List attacks, defenses, data sets and architectures, or show one of them."""
    from benchmark.registry import Registry

    registry = Registry(plugin or ())
    if name is None:
        _list_plugins(registry)
    else:
        _show_plugin(registry, name)


def _list_plugins(registry: Registry) -> None:
    from benchmark.specs import nature

    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "threat or stage", "version", "from", "summary"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for entry in registry.entries:
        table.add_row(
            entry.plugin.name,
            entry.kind.__name__.lower(),
            nature(entry.plugin),
            str(entry.plugin.version),
            escape(entry.origin),
            escape(entry.summary),
        )
    out.print(table)
    for failure in registry.failures:
        out.print(
            f"[red]failed[/red] {escape(failure.name)} ({escape(failure.origin)}): "
            f"{escape(failure.error)}",
            soft_wrap=True,
        )


def _show_plugin(registry: Registry, name: str) -> None:
    import inspect

    from benchmark.specs import describe_type, nature, parameters, shown_default

    found = [entry for entry in registry.entries if entry.plugin.name == name]
    if not found:
        import difflib

        names = [entry.plugin.name for entry in registry.entries]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        err.print(f"[red]error:[/red] no plugin is named {escape(name)}{hint}")
        raise typer.Exit(2)
    for entry in found:
        plugin = entry.plugin
        kind = entry.kind.__name__.lower()
        out.print(
            f"[b]{plugin.name}[/b] {kind} ({nature(plugin) or kind}), version {plugin.version}"
        )
        out.print(f"from {escape(entry.origin)}; paper: {escape(plugin.paper) or 'none given'}\n")
        out.print(escape(inspect.getdoc(plugin) or ""))
        table = Table("parameter", "default", "allowed", box=None, pad_edge=False)
        for field, (hint, default) in parameters(plugin).items():
            table.add_row(field, escape(shown_default(default)), escape(describe_type(hint)))
        out.print()
        out.print(table if table.rows else "no parameters")


@app.command()
def protocols(
    name: Annotated[Optional[str], typer.Argument(help="Show one protocol's grid.")] = None,
) -> None:
    """List the released protocols, or show one of them."""
    with _one_sentence():
        from benchmark import protocol as module

        if name is None:
            table = Table("name", "sha256", "summary", box=None, pad_edge=False)
            for known, sha in module.released().items():
                table.add_row(known, sha[:12], escape(module.load(known).summary))
            out.print(table)
        else:
            shown = module.load(name)
            out.print(f"{shown.name} {shown.sha256}", soft_wrap=True)
            out.print_json(shown.model_dump_json())


@board.command("build")
def build_board(
    folder: Annotated[Path, typer.Argument(help="A run's folder, with records/ inside.")],
) -> None:
    """Write README.md and CSV tables from records, and print them."""
    with _one_sentence():
        from rich.markdown import Markdown

        from benchmark.leaderboard.build import build

        text = build(folder)
    if out.is_terminal:
        out.print(Markdown(text))
    else:
        out.print(text, soft_wrap=True, markup=False, highlight=False)
    out.print(f"written to {folder / 'README.md'} and {folder}/*.csv", soft_wrap=True)


@denoiser.command("train")
def train_denoiser(
    dataset: Annotated[
        str, typer.Option(help="Data set to train on, as name or name:field=value.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Batches of 32 images.")] = 5000,
    out_dir: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder to write; a cache that is searched by default."),
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    plugin: PluginFiles = None,
) -> None:
    """Train a small diffusion network on a data set's training images.

    Smoothed classifiers take noise off images with it. Methods find it by the data set's name,
    or by the folder that --out names.
    """
    with _one_sentence():
        from rich.progress import Progress

        from benchmark import data, denoising
        from benchmark.api import Dataset
        from benchmark.protocol import named_seed

        device = _device(device)
        chosen = _registry(plugin).create(Dataset, dataset)
        source, seed = data.load(chosen, data_dir), named_seed("denoiser", chosen.name)
        folder = out_dir or denoising.folder_of(chosen.name)
        denoising.check_folder(folder)
        if source.test is None:
            err.print(
                f"[yellow]note:[/yellow] {chosen.name} has no test part; the denoiser will see "
                "images that protocols judge by",
                soft_wrap=True,
            )
        own, others = denoising.hold_out(source.train, source.test, seed)
        with Progress(console=err) as bar:
            task = bar.add_task(f"denoiser of {chosen.name} on {device}", total=steps)
            unet, scheduler = denoising.train(
                own,
                steps=steps,
                seed=seed,
                device=device,
                progress=lambda done, total: bar.update(task, completed=done),
            )
        denoising.save(unet, scheduler, folder)
        before, after = denoising.errors(denoising.load(str(folder)), others, 0.25, seed)
    out.print(
        f"saved to {folder}; on {len(others)} held-out images at sigma 0.25 the mean squared "
        f"error is {before:.4f} before and {after:.4f} after denoising",
        soft_wrap=True,
    )


if __name__ == "__main__":
    app()
