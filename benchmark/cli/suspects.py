"""What `scan` and `repair` share: how a person names a model and images, and reading both."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.markup import escape

from benchmark.cli.shared import choose_device, out, say
from benchmark.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from benchmark.registry import Registry
    from benchmark.suspect.reading import Given, TorchvisionWeights
    from benchmark.suspect.suspect import Suspect

Model = Annotated[
    str,
    typer.Argument(
        help="Weights (.safetensors, .pt, .pth), a model of torchvision, or module.py:function."
    ),
]
Data = Annotated[Path, typer.Option(help="Clean images that you trust, a folder per class.")]
Arch = Annotated[
    Optional[str],
    typer.Option(help="Of weights in a file: resnet18, resnet-small:width=16, module.py:function."),
]
Classes = Annotated[
    Optional[str],
    typer.Option(
        help="Names of the model's outputs in their order, with commas, or a file with one a line; "
        "by default the class folders, sorted."
    ),
]
Mean = Annotated[Optional[str], typer.Option(help="What its images are normalised by: 0.5,0.5,0.5")]
Std = Annotated[Optional[str], typer.Option(help="The deviation, likewise.")]
# Up to what the data set `folder` allows.
Size = Annotated[int, typer.Option(help="Resize images to this side.", min=0, max=2048)]
Anyway = Annotated[bool, typer.Option("--anyway", help="Go on with a model that only guesses.")]


def read_suspect(
    registry: Registry,
    model: str,
    folder: Path,
    arch: str | None,
    classes: str | None,
    mean: str | None,
    std: str | None,
    size: int,
    anyway: bool,
    device: str,
) -> tuple[Suspect, Given]:
    """Read model and images, say what they are, and see that they fit each other."""
    from benchmark.suspect.images import read_folder
    from benchmark.suspect.reading import read
    from benchmark.suspect.suspect import prepare

    where = choose_device(device)
    known = _published(model)
    album = read_folder(folder, side_of(model, size))
    side = tuple(album.images.pixels.shape[2:])
    given = read(model, (side[0], side[1]), arch, registry)
    names = names_of(classes) or (known.class_names if known else None)
    suspect = prepare(
        given.model,
        album,
        class_names=names,
        mean=numbers_of("--mean", mean) or (known.mean.tolist() if known else None),
        std=numbers_of("--std", std) or (known.std.tolist() if known else None),
        anyway=anyway,
        device=where,
    )
    suspect = dataclasses.replace(suspect, notes=(*given.notes, *suspect.notes))
    right = suspect.accuracy
    low, high = right.interval()
    say(
        f"{len(suspect.trusted)} images of {len(album.class_names)} classes, {side[1]}x{side[0]}; "
        f"the model is right on {right.hits}, {right.value:.1%} ({low:.1%} to {high:.1%})"
    )
    say_notes(suspect.notes)
    return suspect, given


def say_notes(notes: Sequence[str]) -> None:
    for note in notes:
        out.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True, highlight=False)


def side_of(model: str, size: int) -> int:
    """To which side images are resized, 0 for as they are."""
    known = _published(model)
    return size or (known.size if known else 0)


def _published(model: str) -> TorchvisionWeights | None:
    from benchmark.suspect.reading import published

    return None if os.path.exists(model) else published(model)


def names_of(text: str | None) -> tuple[str, ...] | None:
    """Names with commas between them, or of a file with one in each line."""
    if text is None:
        return None
    # Not Path.is_file, which raises where many names are too long for one of a file.
    if not os.path.isfile(text):
        lines = text.split(",")
    else:
        try:
            lines = Path(text).read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{text} is no text in UTF-8; save it as such") from None
    return tuple(line.strip() for line in lines if line.strip())


def numbers_of(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}; write numbers with commas between them", param_hint=option
        ) from None


def file_of(model: str) -> Path:
    """The file of a model, which may be FILE:FUNCTION."""
    return Path(model.partition(":")[0])


def progress_bars() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), Remaining())
    return Progress(*columns, console=out, disable=not out.is_terminal)
