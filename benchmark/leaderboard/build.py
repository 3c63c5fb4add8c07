"""The files of a board: a pure function of its records, the same bytes wherever it runs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from benchmark.leaderboard import front_plots, markdown, page, plots
from benchmark.leaderboard.board import Board, read_board
from benchmark.records.store import write_whole

#: Tables that a board may have, and plots of them.
TABLES = (
    *("victims", "repairs", "detectability", "norms", "classscores", "curves", "pareto"),
    *("costs", "defenders", "comparison"),
    *("inversions", "radii", "configurations", "smoothed"),
)
PLOTS = {
    "curves": plots.curves,
    "classscores": plots.class_scores,
    "pareto": front_plots.pareto,
    "radii": plots.radii,
    "configurations": plots.configurations,
    "smoothed": plots.smoothed,
}

#: What a plot never holds: scripts, handlers, and links to elsewhere.
_ACTIVE = re.compile(rb"<script|\son\w+\s*=|href=[\"'](?!#)|<(foreignObject|image|iframe)", re.I)
_DRAWN_BY = re.compile(rb"<dc:title>Matplotlib v.*?</dc:title>")


def build(folder: Path) -> str:
    """Write README.md, index.html, CSV files and plots beside the records of `folder`.

    Returns:
        The Markdown text.

    Raises:
        StoreError: no records, damaged ones, or records of more than one protocol; explanations
            that cannot be shown or that explain nothing.
    """
    files = files_of(read_board(folder))
    for name, content in files.items():
        write_whole(folder / name, content)
    for name in generated() - files.keys():
        (folder / name).unlink(missing_ok=True)
    return files["README.md"].decode()


def stale(folder: Path) -> list[str]:
    """Names of files that are missing, left over, or not what the records of `folder` make.

    Raises:
        StoreError: as `build`.
    """
    files = files_of(read_board(folder))
    return sorted(
        name
        for name in generated() | files.keys()
        if not _same(_content(folder / name), files.get(name))
    )


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _same(there: bytes | None, made: bytes | None) -> bool:
    if there is None or made is None or there == made:
        return there == made
    # Another version of matplotlib draws the same table with other bytes.
    found, drawn = _DRAWN_BY.search(there), _DRAWN_BY.search(made)
    elsewhere = found and drawn and found[0] != drawn[0] and not _ACTIVE.search(there)
    return bool(elsewhere) and there.splitlines()[-1] == made.splitlines()[-1]


def files_of(board: Board) -> dict[str, bytes]:
    """Content by file name."""
    files = {"README.md": markdown.page(board).encode(), "index.html": page.render(board)}
    for title, frame in board.frames.items():
        text = frame.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()
        files[f"{title}.csv"] = text
        if title in PLOTS:
            digest = hashlib.sha256(text).hexdigest()
            files[f"{title}.svg"] = (
                PLOTS[title](frame) + f"<!-- {title}.csv {digest} -->\n".encode()
            )
    return files


def generated() -> set[str]:
    """All names that the files of a board may have."""
    return {"README.md", "index.html", *(f"{t}.csv" for t in TABLES), *(f"{t}.svg" for t in PLOTS)}
