"""Writing plugins: new and check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.markup import escape

from benchmark.cli.completion import plugin_names
from benchmark.cli.shared import (
    PluginFiles,
    duration,
    err,
    load_registry,
    one_sentence,
    out,
    out_folder,
    say,
)
from benchmark.hooks import Stage, Threat

if TYPE_CHECKING:
    from benchmark.scaffold import Kind

Name = Annotated[
    str, typer.Argument(help="Name of the plugin and of its package, as in my-attack.")
]
OutDir = Annotated[Path, out_folder("Folder that the package is written into.")]


MARKS = {"kept": "[green]✓[/green]", "broken": "[red]✗[/red]", "silent": "–"}


new = typer.Typer(help="Write the package that a new plugin starts from.", no_args_is_help=True)


@new.command("attack")
def new_attack(
    name: Name,
    threat: Annotated[
        Threat,
        typer.Option(help="What the attacker may change."),
    ] = "poison-label",
    out_dir: OutDir = Path("."),
) -> None:
    """Write an installable package with a small working attack and its tests."""
    _write(name, threat, out_dir)


@new.command("defense")
def new_defense(
    name: Name,
    stage: Annotated[
        Stage,
        typer.Option(help="Where in the game it acts."),
    ] = "repair",
    out_dir: OutDir = Path("."),
) -> None:
    """Write an installable package with a small working defense and its tests."""
    _write(name, stage, out_dir)


def _write(name: str, kind: Kind, parent: Path) -> None:
    with one_sentence():
        from benchmark.scaffold import write

        folder = write(name, kind, parent, load_registry(None))
    say(f"written to {folder}; next:\n")
    for command in (
        f"pip install -e '{folder}[test]'",
        f"poisongames check {name}",
        f"python -m pytest {folder}",
        f"poisongames run digits-v3 --{'attack' if kind in get_args(Threat) else 'defense'} {name} "
        "--seeds 1   # a first look; to submit it, leave --seeds out",
    ):
        say(f"  {command}")
    say(f"\n{folder}/README.md says how to play and submit it.")


def check(
    name: Annotated[
        str,
        typer.Argument(help="A plugin, as name or name:field=value,…", autocompletion=plugin_names),
    ],
    plugin: PluginFiles = None,
    rule_time_limit: Annotated[
        float,
        duration("Let one rule take no longer; it is broken then.", some=True, show_default="10m"),
    ] = 600.0,
) -> None:
    """Examine a plugin by the rules that all are held to; a line for each."""
    with one_sentence():
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from benchmark.cli.examine import examine

        count = failed = 0
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=err, transient=True) as bar:
            bar.add_task(escape(name))
            for one in examine(name, plugin or (), rule_time_limit):
                count, failed = count + 1, failed + (one.outcome == "broken")
                out.print(
                    f"{MARKS[one.outcome]} {escape(f'{one.rule:<19} {one.sentence}')}",
                    soft_wrap=True,
                    highlight=False,
                )
    if failed:
        err.print(f"{failed} of {count} checks failed", highlight=False)
        raise typer.Exit(1)
