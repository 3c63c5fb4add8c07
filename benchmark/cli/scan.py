"""A model that somebody gave you: examine it, and repair it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.markup import escape
from rich.table import Table

from benchmark.cli.shared import BOARDS, Device, PluginFiles, err, load_registry, one_sentence, out
from benchmark.cli.suspects import (
    Anyway,
    Arch,
    Classes,
    Data,
    Mean,
    Model,
    Size,
    Std,
    names_of,
    progress_bars,
    read_suspect,
)
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.suspect.repair import Triggered
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
        Optional[Path], typer.Option("--out", help="Folder of the report; scans/MODEL by default.")
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
    with one_sentence(), _only_answers():
        from benchmark.api import Detector
        from benchmark.specs import label
        from benchmark.suspect.report import save
        from benchmark.suspect.scan import examine, fit, forecast
        from benchmark.suspect.settings import create, defaults
        from benchmark.suspect.suspect import narrowed

        to = to or Path("scans") / _file_of(model).stem
        _check_folder(to)
        registry = load_registry(plugin)
        chosen = [create(registry, Detector, spec) for spec in detector or ()]
        suspect, _ = read_suspect(
            registry, model, data, arch, classes, mean, std, size, anyway, device
        )
        if names := names_of(only):
            suspect = narrowed(suspect, names)
            out.print(f"{suspect.notes[-1]}, with {len(suspect.trusted)} images", soft_wrap=True)
        usual = () if chosen else defaults(suspect.trusted.pixels.shape[1:])
        chosen += [create(registry, Detector, spec) for spec in usual]
        fitted = [fit(one, suspect) for one in chosen]
        for before, after in zip(chosen, fitted, strict=True):
            if before != after:
                out.print(f"smaller batches, to fit into memory: {label(after)}", soft_wrap=True)
        tasks = {}
        expected = forecast(suspect, fitted)
        with progress_bars() as bars:
            for name, (count, seconds) in expected.items():
                time = "unknown" if seconds is None else f"about {_duration(seconds)} at most"
                short = escape(name.partition(":")[0])
                out.print(f"{short}: time {time}", highlight=False)
                tasks[name] = bars.add_task(short, total=count)
            if advice := _advice(suspect, sum(s or 0 for _, s in expected.values())):
                out.print(advice, soft_wrap=True, highlight=False)
            found = examine(
                suspect,
                fitted,
                title=Path(model).name,
                architecture=arch,
                populations=population or sorted(path.parent for path in BOARDS.glob("*/records")),
                progress=lambda name, done: bars.update(tasks[name], completed=done),
            )
        for finding in found.findings:
            out.print(escape(finding.sentence), soft_wrap=True, highlight=False)
        page, written = save(found, to)
        out.print(f"report: {page} and {written.name}", soft_wrap=True, highlight=False)
        out.print(f"[b]{escape(found.answer)}[/b]", soft_wrap=True)
    raise typer.Exit({False: 0, True: 1, None: 2}[found.found])


def _file_of(model: str) -> Path:
    """The file of a model, which may be FILE:FUNCTION."""
    return Path(model.partition(":")[0])


def _check_folder(folder: Path) -> None:
    """Refuse a place where nothing can be written, before the work is done.

    Raises:
        UserError: it lies in or is something else than a folder, or may not be written to.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--out: {there} is no folder that can be written to; choose another place")


def repair(
    model: Model,
    data: Data,
    method: Annotated[
        str,
        typer.Option(
            help="A repair as NAME or NAME:steps=50,…; `poisongames plugins --stage repair` lists "
            "them."
        ),
    ],
    to: Annotated[Path, typer.Option("--out", help="The repaired weights, .safetensors or .pt.")],
    budget: Annotated[
        float, typer.Option(help="Accuracy that it may cost on held-out images, as a share.")
    ] = 0.02,
    arch: Arch = None,
    classes: Classes = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = 0,
    triggered: Annotated[
        Optional[Path],
        typer.Option(help="Images with the trigger by true class, where known: measures ASR."),
    ] = None,
    target: Annotated[Optional[str], typer.Option(help="The class of that trigger.")] = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
) -> None:
    """Repair a model that somebody gave you, and save its weights by their own names.

    A fifth of the images judges: the last step that costs no more of the
    accuracy on them than the budget is kept, and nothing is saved where none is. For example:

    poisongames repair weights.pt --arch resnet18 --data photos/
    --method neural-cleanse-repair --out fixed.pt
    """
    with one_sentence():
        from benchmark.suspect.adapter import ModelError
        from benchmark.suspect.reading import save_state
        from benchmark.suspect.repair import mend
        from benchmark.suspect.settings import create_repair

        if to.suffix not in (".safetensors", ".pt", ".pth"):
            raise ModelError(f"--out {to} is not allowed; end its name in .safetensors or .pt")
        _check_folder(to.parent)
        if to.exists() and (file := _file_of(model)).exists() and to.samefile(file):
            raise ModelError(f"--out {to} is the model that is to be repaired; choose another name")
        if (triggered is None) != (target is None):
            raise ModelError("--triggered and --target belong together; say both or none")
        registry = load_registry(plugin)
        plugged = create_repair(registry, method)
        suspect, given = read_suspect(
            registry, model, data, arch, classes, mean, std, size, False, device
        )
        asked = _triggered(suspect, triggered, target)
        with progress_bars() as bars:
            task = bars.add_task(plugged.name, total=None)
            fixed = mend(
                given.model,
                suspect,
                plugged,
                budget,
                asked,
                lambda step, steps: bars.update(task, completed=step, total=steps),
            )
        table = Table(
            "step", "held-out accuracy", "newly wrong", "ASR", "", box=None, pad_edge=False
        )
        for number, point in enumerate(fixed.points):
            rate = fixed.success[number] if fixed.success else None
            table.add_row(
                str(point.step),
                f"{point.held_out.value:.1%} ({point.held_out.hits}/{point.held_out.total})",
                str(point.lost),
                "-" if rate is None else f"{rate.value:.1%} ({rate.hits}/{rate.total})",
                "[b]kept[/b]" if number == fixed.chosen else "",
            )
        out.print(table)
        before, after = fixed.before, fixed.after
        out.print(
            f"accuracy on all images: {before.value:.1%} ({before.hits}/{before.total}) before, "
            f"{after.value:.1%} ({after.hits}/{after.total}) after",
            soft_wrap=True,
            highlight=False,
        )
        if fixed.success:
            first, last = fixed.success[0], fixed.success[fixed.chosen]
            out.print(
                f"ASR: {first.value:.1%} ({first.hits}/{first.total}) before, "
                f"{last.value:.1%} ({last.hits}/{last.total}) after",
                highlight=False,
            )
        if not fixed.chosen:
            raise ModelError(
                f"no step was within the budget of {budget:g}, so nothing was repaired and nothing "
                "saved; try gentler settings in --method, or a larger --budget"
            )
        state = {given.prefix + name: value for name, value in fixed.model.state_dict().items()}
        save_state(state, to)
        load = "load_file" if to.suffix == ".safetensors" else "torch.load"
        out.print(
            f"saved: {to}; model.load_state_dict({load}({str(to)!r}))",
            soft_wrap=True,
            highlight=False,
        )
        if not fixed.success:
            out.print(
                "Whether a backdoor is gone this does not tell: scan the saved model, or give "
                "images with the trigger by --triggered and --target.",
                soft_wrap=True,
            )


def _triggered(suspect: Suspect, folder: Path | None, target: str | None) -> Triggered | None:
    if folder is None or target is None:
        return None
    from benchmark.images import ImageSet
    from benchmark.suspect.adapter import ModelError
    from benchmark.suspect.images import in_channels, in_order_of, read_folder
    from benchmark.suspect.repair import Triggered

    names, shape = suspect.class_names, suspect.trusted.pixels.shape
    if target not in names:
        raise ModelError(f"--target {target} is no class; there are {', '.join(names[:10])}")
    album = in_order_of(read_folder(folder, int(shape[2])), names, len(names))
    pixels = in_channels(album.images.pixels, int(shape[1]))
    return Triggered(ImageSet(pixels, album.images.labels), names.index(target))


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
