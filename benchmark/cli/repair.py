"""Take a backdoor out of a model that somebody gave you."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.table import Table

from benchmark.cli.shared import (
    Device,
    PluginFiles,
    check_folder,
    load_registry,
    one_sentence,
    out,
    say,
)
from benchmark.cli.suspects import (
    Arch,
    Classes,
    Data,
    Mean,
    Model,
    Size,
    Std,
    file_of,
    progress_bars,
    read_suspect,
    side_of,
)

if TYPE_CHECKING:
    from benchmark.suspect.repair import Triggered
    from benchmark.suspect.suspect import Suspect


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
        from benchmark.suspect.repair import mend
        from benchmark.suspect.settings import create_repair
        from benchmark.suspect.states import check_savable, save_state

        if to.suffix not in (".safetensors", ".pt", ".pth"):
            raise ModelError(f"--out {to} is not allowed; end its name in .safetensors or .pt")
        check_folder(to.parent)
        if to.is_dir():
            raise ModelError(f"--out {to} is a folder; give the name of a file in it")
        if to.exists() and (file := file_of(model)).exists() and to.samefile(file):
            raise ModelError(f"--out {to} is the model that is to be repaired; choose another name")
        if (triggered is None) != (target is None):
            raise ModelError("--triggered and --target belong together; say both or none")
        registry = load_registry(plugin)
        plugged = create_repair(registry, method)
        suspect, given = read_suspect(
            registry, model, data, arch, classes, mean, std, size, False, device
        )
        check_savable(given.model.state_dict(), to)
        asked = _triggered(suspect, triggered, target, side_of(model, size))
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
        say(
            f"accuracy on all images: {before.value:.1%} ({before.hits}/{before.total}) before, "
            f"{after.value:.1%} ({after.hits}/{after.total}) after"
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
        say(f"saved: {to}; model.load_state_dict({load}({str(to)!r}))")
        if not fixed.success:
            say(
                "Whether a backdoor is gone this does not tell: scan the saved model, or give "
                "images with the trigger by --triggered and --target."
            )


def _triggered(
    suspect: Suspect, folder: Path | None, target: str | None, size: int
) -> Triggered | None:
    if folder is None or target is None:
        return None
    from benchmark.suspect.adapter import ModelError
    from benchmark.suspect.images import in_order_of, read_folder
    from benchmark.suspect.repair import Triggered

    names = suspect.class_names
    if target not in names:
        raise ModelError(f"--target {target} is no class; there are {', '.join(names[:10])}")
    album = in_order_of(read_folder(folder, size), names, len(names))
    return Triggered.of(suspect, album.images, names.index(target))
