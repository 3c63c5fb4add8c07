"""The command `poisongames denoiser train`; torch is imported inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from benchmark import hookimpl
from benchmark.cli.shared import (
    DataDir,
    Device,
    PluginFiles,
    choose_device,
    err,
    load_registry,
    one_sentence,
    out,
)


def train_denoiser(
    dataset: Annotated[
        str, typer.Option(help="Data set to train on, as name or name:field=value.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Batches of 32 images.")] = 5000,
    out_dir: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder to write; by default one in a cache that is searched."),
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    plugin: PluginFiles = None,
) -> None:
    """Train a small diffusion network on a data set's training images.

    Smoothed classifiers take noise off images with it. Methods find it by the data set's name,
    or by the folder that --out names; data sets with settings, such as folder:path=scans, need
    the latter.
    """
    with one_sentence():
        from rich.progress import Progress

        from backdoor_defenses.smoothinv import denoiser, training
        from benchmark import data
        from benchmark.api import Dataset
        from benchmark.protocol import named_seed
        from benchmark.specs import label

        device = choose_device(device)
        chosen = load_registry(plugin).create(Dataset, dataset)
        if out_dir is None and label(chosen) != chosen.name:
            raise denoiser.DenoiserError(
                f"{label(chosen)} has settings, and the cache knows denoisers by the data set's "
                "name alone; choose a folder with --out"
            )
        source, seed = data.load(chosen, data_dir), named_seed("denoiser", chosen.name)
        folder = out_dir or denoiser.folder_of(chosen.name)
        training.check_folder(folder)
        if source.test is None:
            err.print(
                f"[yellow]note:[/yellow] {chosen.name} has no test part; the denoiser will see "
                "images that protocols judge by",
                soft_wrap=True,
            )
        own, others = training.hold_out(source.train, source.test, seed)
        with Progress(console=err) as bar:
            task = bar.add_task(f"denoiser of {chosen.name} on {device}", total=steps)
            unet, scheduler = training.train(
                own,
                steps=steps,
                seed=seed,
                device=device,
                progress=lambda done, total: bar.update(task, completed=done),
            )
        training.save(unet, scheduler, folder)
        before, after = training.errors(denoiser.load(str(folder)), others, 0.25, seed)
    out.print(
        f"saved to {folder}; on {len(others)} held-out images at sigma 0.25 the mean squared "
        f"error is {before:.4f} before and {after:.4f} after denoising",
        soft_wrap=True,
    )


@hookimpl
def register_commands(cli: typer.Typer) -> None:
    group = typer.Typer(help="Train denoisers for smoothed classifiers.", no_args_is_help=True)
    group.command("train")(train_denoiser)
    cli.add_typer(group, name="denoiser")
