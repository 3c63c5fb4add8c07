"""Look for a backdoor in a model that somebody gave you."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.markup import escape

from benchmark.cli.shared import (
    BOARDS,
    Device,
    PluginFiles,
    check_folder,
    err,
    load_registry,
    one_sentence,
    out,
    out_folder,
    say,
)
from benchmark.cli.suspects import (
    Anyway,
    Arch,
    Classes,
    Data,
    Mean,
    Model,
    Size,
    Std,
    file_of,
    names_of,
    progress_bars,
    read_suspect,
    say_notes,
)
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.suspect.suspect import Suspect


def scan(
    model: Model,
    data: Data,
    detector: Annotated[
        Optional[list[str]],
        typer.Option(
            help="What examines it, as NAME or NAME:steps=100,…; several times for more. "
            "`poisongames plugins --stage detect` lists them."
        ),
    ] = None,
    arch: Arch = None,
    classes: Classes = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = 0,
    only: Annotated[
        Optional[str], typer.Option(help="Of many classes, examine these alone: NAME,NAME,NAME.")
    ] = None,
    population: Annotated[
        Optional[list[Path]],
        typer.Option(help="A run or board with clean models of its kind; else leaderboards/*."),
    ] = None,
    to: Annotated[
        Optional[Path], out_folder("Folder of the report; scans/MODEL by default.")
    ] = None,
    anyway: Anyway = False,
    device: Device = "auto",
    plugin: PluginFiles = None,
) -> None:
    """Look for a backdoor in a model that somebody gave you.

    Ends with 0 where nothing was found, 1 where a detector says that there
    is a backdoor, and 2 where that could not be told. For example:

    poisongames scan weights.pt --arch resnet18 --data photos/
    """
    with _only_answers(), one_sentence():
        from benchmark.api import Detector
        from benchmark.specs import label
        from benchmark.suspect.report import save
        from benchmark.suspect.scan import examine, fit, forecast
        from benchmark.suspect.settings import create, defaults
        from benchmark.suspect.suspect import narrowed

        to = to or Path("scans") / file_of(model).stem
        check_folder(to)
        for board in population or ():
            if not (board / "records").is_dir():
                raise UserError(f"--population: {board} has no records; give a run or a board")
        registry = load_registry(plugin)
        chosen = [create(registry, Detector, spec) for spec in detector or ()]
        suspect, _ = read_suspect(
            registry, model, data, arch, classes, mean, std, size, anyway, device
        )
        if names := names_of(only):
            suspect = narrowed(suspect, names)
            say(f"{suspect.notes[-1]}, with {len(suspect.trusted)} images")
        usual = () if chosen else defaults(suspect.trusted.pixels.shape[1:])
        chosen += [create(registry, Detector, spec) for spec in usual]
        fitted = fit(chosen, suspect)
        for before, after in zip(chosen, fitted, strict=True):
            if before != after:
                say(f"smaller batches, to fit into memory: {label(after)}")
        tasks = {}
        expected = forecast(suspect, fitted)
        with progress_bars() as bars:
            for name, (count, seconds) in expected.items():
                time = "unknown" if seconds is None else f"about {_duration(seconds)} at most"
                short = escape(name.partition(":")[0])
                out.print(f"{short}: time {time}", highlight=False)
                tasks[name] = bars.add_task(short, total=count)
            if advice := _advice(suspect, sum(s or 0 for _, s in expected.values())):
                say(advice)
            found = examine(
                suspect,
                fitted,
                title=Path(model).name,
                architecture=arch,
                populations=population or sorted(path.parent for path in BOARDS.glob("*/records")),
                progress=lambda name, done: bars.update(tasks[name], completed=done),
            )
        say_notes(found.notes[len(suspect.notes) :])
        for finding in found.findings:
            out.print(escape(finding.sentence), soft_wrap=True, highlight=False)
        out.print(f"[b]{escape(found.answer)}[/b]", soft_wrap=True)
        page, written = save(found, to)
        say(f"report: {page} and {written.name}")
    raise typer.Exit({False: 0, True: 1, None: 2}[found.found])


@contextmanager
def _only_answers() -> Iterator[None]:
    """End with 2 whatever else happens: 1, as of any error in Python, would be an answer."""
    try:
        yield
    except (UserError, typer.BadParameter, typer.Exit):
        raise
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            err.print_exception()
        raise typer.Exit(2) from None


def _advice(suspect: Suspect, seconds: float) -> str:
    """What to type where a scan takes over an hour; its time goes with the number of classes."""
    classes, fewer = len(suspect.class_names), 10
    if seconds < 3600 or classes <= fewer:
        return ""
    return (
        f"all {classes} classes are examined; --only NAME,NAME,... takes some of them: {fewer} "
        f"take about {_duration(seconds * fewer / classes)}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
