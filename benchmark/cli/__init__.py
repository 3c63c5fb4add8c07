"""The command line: thin commands; torch is imported inside the ones that compute."""

from __future__ import annotations

from typing import Annotated

import typer

import benchmark
from benchmark.cli import authoring, boards, catalogue, experiment, forecast, pareto, play, scan
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
board = typer.Typer(help="Make tables from records.", no_args_is_help=True)
new = typer.Typer(help="Write the package that a new plugin starts from.", no_args_is_help=True)


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


app.command()(play.run)
app.command()(play.tune)
app.command()(experiment.experiment)
app.command()(forecast.plan)
app.command()(scan.scan)
app.command()(scan.repair)
app.command()(catalogue.plugins)
app.command()(catalogue.protocols)
app.command()(authoring.check)
app.command()(pareto.pareto)
app.command()(boards.submit)
app.command()(boards.verify)
new.command("attack")(authoring.new_attack)
new.command("defense")(authoring.new_defense)
board.command("build")(boards.build_board)
app.add_typer(new, name="new")
app.add_typer(board, name="board")
