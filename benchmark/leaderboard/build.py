"""The files of a board: a pure function of its records, the same bytes wherever it runs."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from benchmark.leaderboard import markdown, page, plots
from benchmark.leaderboard.board import Board, read_board
from benchmark.leaderboard.chapters import frames
from benchmark.leaderboard.deviations import refuse_unused
from benchmark.records.files import write_whole

_LINK = "{http://www.w3.org/1999/xlink}href"
#: Instructions and declarations, which are no elements.
_DECLARED = re.compile(rb"<\?[^>]*>|<![A-Za-z\[][^>]*>")
_DRAWN_BY = re.compile(rb"<dc:title>Matplotlib v.*?</dc:title>")


def build(folder: Path, beside: Path | None = None) -> str:
    """Write README.md, index.html, CSV files and plots beside the records of `folder`.

    Args:
        beside: a board whose records are shown together with them; its files stay as they are.

    Returns:
        The Markdown text.

    Raises:
        StoreError: no records, damaged ones, or records of more than one protocol; explanations
            that cannot be shown or that explain nothing.
    """
    files = _made(folder, beside)
    for name, content in files.items():
        write_whole(folder / name, content)
    for name in generated() - files.keys():
        (folder / name).unlink(missing_ok=True)
    return files["README.md"].decode()


def stale(folder: Path, beside: Path | None = None) -> list[str]:
    """Names of files that are missing, left over, or not what the records make.

    Raises:
        StoreError: as `build`.
    """
    files = _made(folder, beside)
    return sorted(
        name
        for name in generated() | files.keys()
        if not same(content(folder / name), files.get(name))
    )


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def same(there: bytes | None, made: bytes | None) -> bool:
    """Whether a file is what was made, but for the version of what drew it."""
    if there is None or made is None or there == made:
        return there == made
    # Another version of matplotlib draws the same table with other bytes.
    found, drawn = _DRAWN_BY.search(there), _DRAWN_BY.search(made)
    if not found or not drawn or found[0] == drawn[0] or not _harmless(there, made):
        return False
    return there.splitlines()[-1] == made.splitlines()[-1]


def _harmless(there: bytes, made: bytes) -> bool:
    """Whether a plot has no element or attribute that ours has not, and leads nowhere."""
    if not set(_DECLARED.findall(there)) <= set(_DECLARED.findall(made)):
        return False
    try:
        found, own = ElementTree.fromstring(there), ElementTree.fromstring(made)
    except ElementTree.ParseError:
        return False
    allowed = {(node.tag, name) for node in own.iter() for name in ("", *node.attrib)}
    values_of_ours = {value for node in own.iter() for value in node.attrib.values()}
    styles = {node.text for node in own.iter() if node.tag.endswith("}style")}
    for node in found.iter():
        if any((node.tag, name) not in allowed for name in ("", *node.attrib)):
            return False
        # References lead to parts of the plot itself.
        values = " ".join(node.attrib.values()).replace("url(#", "")
        if not node.get(_LINK, "#").startswith("#") or "url(" in values.lower():
            return False
        if node.tag.endswith("}style") and (node.text not in styles or len(node)):
            return False
        strange = (value for value in node.attrib.values() if value not in values_of_ours)
        if any(mark in value for value in strange for mark in ("\\", "://", "image", "@")):
            return False
    return True


def _made(folder: Path, beside: Path | None) -> dict[str, bytes]:
    board = read_board(folder, beside)
    if beside is None:  # others' records may agree where the board alone does not
        refuse_unused(board.sources.frames["comparison"], folder)
    return files_of(board)


def files_of(board: Board) -> dict[str, bytes]:
    """Content by file name."""
    files = {"README.md": markdown.page(board).encode(), "index.html": page.render(board)}
    for frame in frames():
        if frame.name not in board.frames:
            continue
        table = board.frames[frame.name]
        text = csv_text(table)
        files[f"{frame.name}.csv"] = text
        draw = frame.draw or (partial(plots.draw, frame.plot) if frame.plot else None)
        if draw is not None:
            mark = f"<!-- {frame.name}.csv {hashlib.sha256(text).hexdigest()} -->\n"
            files[f"{frame.name}.svg"] = draw(table) + mark.encode()
    return files


def csv_text(table: pd.DataFrame) -> bytes:
    """A frame as a CSV file."""
    quoted = table.map(_no_formula)
    text: str = quoted.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return text.encode()


def _no_formula(value: object) -> object:
    """Text that a spreadsheet would take for a formula is quoted."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@") else value


def generated() -> set[str]:
    """All names that the files of a board may have."""
    drawn = {f"{frame.name}.svg" for frame in frames() if frame.drawn}
    return {"README.md", "index.html", *drawn, *(f"{frame.name}.csv" for frame in frames())}
