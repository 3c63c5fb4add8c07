"""What commands share: consoles, options, and errors as one sentence."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer
from rich.console import Console
from rich.markup import escape

from benchmark.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmark.registry import Registry

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        # A terminal that knows few characters shows others as marks, and nothing is lost.
        _stream.reconfigure(errors="replace")

# Without pictures for words between colons, which paths and labels may have.
out, err = Console(emoji=False), Console(stderr=True, emoji=False)


def say(text: str, to: Console = out) -> None:
    """Print a text as it stands: brackets are no markup, and long lines stay whole."""
    to.print(text, soft_wrap=True, markup=False, highlight=False)


PluginFiles = Annotated[
    Optional[list[Path]],
    typer.Option("--plugin", help="A plugin in a single file; may be given several times."),
]


#: Names of files have no more bytes anywhere.
LONGEST = 255
#: The folder of all boards, in a checkout.
BOARDS = Path("leaderboards")


def all_boards(advice: str) -> list[Path]:
    """Folders of all boards.

    Raises:
        UserError: there is none; it ends with the advice.
    """
    if found := sorted(path.parent for path in BOARDS.glob("*/records")):
        return found
    raise UserError(f"there is no board in {BOARDS}/; {advice}")


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is told (done, total)."""
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Print errors that a person can mend as one sentence, without a traceback."""
    try:
        yield
    except UserError as error:
        sentence = str(error)
    except OSError as error:
        if error.filename is not None:  # such as one that may not be read, or has too long a name
            sentence = f"{error.filename}: {error.strerror}; check the path and who may use it"
        elif error.errno == errno.ENOSPC:
            sentence = "what is printed cannot be written: the disk is full"
        else:
            raise
    else:
        return
    err.print(f"[red]error:[/red] {escape(sentence)}", soft_wrap=True)
    raise typer.Exit(2)


def folder(text: str | Path) -> Path:
    """A folder that was named; no name would be the current folder."""
    if not str(text):
        raise typer.BadParameter("the name of a folder is empty; write . for this one")
    return Path(text)


def check_folder(folder: Path, what: str = "--out") -> None:
    """Refuse a place where nothing can be written, before the work is done.

    Args:
        what: names the place in the message.

    Raises:
        UserError: it lies in or is something else than a folder, or may not be written to.
    """
    import tempfile

    # Not Path.exists, which raises where a name is too long.
    there = next(one for one in (folder, *folder.absolute().parents) if os.path.exists(one))
    try:
        # Whoever may write everywhere still cannot in places such as /proc.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError:
        raise UserError(
            f"{what}: {there} is no folder that can be written to; choose another place"
        ) from None
    if long := [part for part in folder.parts if len(os.fsencode(part)) > LONGEST]:
        raise UserError(
            f"{what}: {long[0][:20]}… has more than {LONGEST} bytes; choose a shorter name"
        )


def out_folder(help: str) -> Any:
    """The option `--out` of a command that writes into a folder."""
    return typer.Option("--out", parser=folder, metavar="<path>", help=help)


def seconds_of(text: str | float) -> float:
    """Parse a duration such as 90s, 9m, 1h30m or a plain number of seconds; a float stays."""
    if isinstance(text, float):
        return text
    plain = f"{text.strip()}s" if text.strip().isdecimal() else text.strip()
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", plain)
    if not plain or match is None:
        raise typer.BadParameter(
            f"{text!r} is no duration; write 90s, 9m, 1h30m, or seconds alone, as in 90"
        )
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def some_seconds(text: str | float) -> float:
    """Likewise, but for no time at all."""
    if found := seconds_of(text):
        return found
    raise typer.BadParameter(f"{text!r} leaves no time; write 90s, 9m or 1h30m")


def duration(help: str, *, some: bool = False, **more: Any) -> Any:
    """An option that takes a duration, in seconds.

    Args:
        some: whether 0 is refused.
    """
    parser = some_seconds if some else seconds_of
    return typer.Option(
        parser=parser, metavar="<time>", help=f"{help} Write 90s, 9m or 1h.", **more
    )


def load_registry(files: list[Path] | None) -> Registry:
    from benchmark.registry import Registry

    registry = Registry(files or ())
    say_failures(registry)
    refuse_broken(registry, files)
    return registry


def say_failures(registry: Registry) -> None:
    for failure in registry.failures:
        err.print(
            f"[yellow]left out:[/yellow] plugin {escape(failure.name)} "
            f"({escape(failure.origin)}): {escape(failure.error)}",
            soft_wrap=True,
        )


def refuse_broken(registry: Registry, files: list[Path] | None) -> None:
    """End the command if a file is broken that was asked for by name."""
    if {failure.origin for failure in registry.failures} & {str(path) for path in files or ()}:
        raise typer.Exit(2)


Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
DataDir = Annotated[
    Optional[Path], typer.Option(help="Folder that holds data sets; docs/play.md says how.")
]


def choose_device(wanted: str) -> Literal["cpu", "cuda"]:
    import torch

    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted == "cuda":
            raise typer.BadParameter("no GPU is available here", param_hint="--device")
        return "cpu"
    return "cuda"
