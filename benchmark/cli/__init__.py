"""The command line: thin commands; torch is imported inside the ones that compute.

Which module has which command is said in `benchmark.cli.group`, which imports it when it is asked
for, so that none waits for the others.
"""

from __future__ import annotations

from typing import Annotated

import typer

import benchmark
from benchmark.cli.group import Commands

app = typer.Typer(
    cls=Commands,
    help="Play backdoor attacks against defenses by fixed protocols, and rank what comes out.\n\n"
    "Begin with [b]poisongames run digits-v3[/b], then "
    "[b]poisongames board build runs/digits-v3[/b].",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"poisongames {benchmark.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    pass
