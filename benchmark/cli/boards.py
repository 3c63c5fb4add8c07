"""Boards: build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.shared import one_sentence, out


def build_board(
    folder: Annotated[Path, typer.Argument(help="A run's folder, with records/ inside.")],
) -> None:
    """Write README.md and CSV tables from records, and print them."""
    with one_sentence():
        from rich.markdown import Markdown

        from benchmark.leaderboard.build import build

        text = build(folder)
    if out.is_terminal:
        out.print(Markdown(text))
    else:
        out.print(text, soft_wrap=True, markup=False, highlight=False)
    out.print(f"written to {folder / 'README.md'} and {folder}/*.csv", soft_wrap=True)
