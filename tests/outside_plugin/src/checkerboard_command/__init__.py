"""A command as a stranger would write it; outside of the plugin's package, which imports torch."""

from __future__ import annotations

import typer

from benchmark import hookimpl


def checkerboard(side: int = 4) -> None:
    """Draw a checkerboard."""
    from checkerboard import Checkerboard

    print(f"{Checkerboard.name} {Checkerboard.version}")
    for row in range(side):
        print("".join(".#"[(row + column) % 2] for column in range(side)))


@hookimpl
def register_commands(cli: typer.Typer) -> None:
    cli.command()(checkerboard)
