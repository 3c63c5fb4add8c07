"""The files of a board: a pure function of its records, the same bytes wherever it runs."""

from __future__ import annotations

from pathlib import Path

from benchmark.leaderboard import markdown, plots
from benchmark.leaderboard.board import Board, read_board
from benchmark.runs.store import write_whole

#: Tables that a board may have, and plots of them.
TABLES = (
    *("victims", "repairs", "detectability", "norms", "curves", "pareto"),
    *("inversions", "configurations", "smoothed"),
)
PLOTS = {
    "curves": plots.curves,
    "pareto": plots.pareto,
    "configurations": plots.configurations,
    "smoothed": plots.smoothed,
}


def build(folder: Path) -> str:
    """Write README.md, CSV files and plots beside the records of `folder`.

    Returns:
        The Markdown text.

    Raises:
        StoreError: no records, damaged ones, or records of more than one protocol.
    """
    files = files_of(read_board(folder))
    for name, content in files.items():
        write_whole(folder / name, content)
    for name in _known() - files.keys():
        (folder / name).unlink(missing_ok=True)
    return files["README.md"].decode()


def files_of(board: Board) -> dict[str, bytes]:
    """Content by file name."""
    files = {"README.md": markdown.page(board).encode()}
    for title, frame in board.frames.items():
        text = frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        files[f"{title}.csv"] = text.encode()
        if title in PLOTS:
            files[f"{title}.svg"] = PLOTS[title](frame)
    return files


def _known() -> set[str]:
    return {"README.md", *(f"{t}.csv" for t in TABLES), *(f"{t}.svg" for t in PLOTS)}
