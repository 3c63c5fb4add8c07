"""Cells and tables in Markdown."""

from __future__ import annotations

from typing import Any

import pandas as pd


def attack_text(row: Any) -> str:
    return f"{cell_text(row['attack'])} (m={row['m']})"


def interval(row: Any, column: str) -> str:
    """Mean and interval of one of a row's numbers in [0, 1]; without bounds the mean alone."""
    return _spread(row, column, 1, 2)


def percent(row: Any, column: str) -> str:
    """Likewise of one of its rates, in percent."""
    return _spread(row, column, 100, 1)


def _spread(row: Any, column: str, factor: int, digits: int) -> str:
    mean, low, high = (number(factor * row[column + end], digits) for end in ("", "_low", "_high"))
    return mean if low == "–" else f"{mean} [{low}, {high}]"


def number(value: float, digits: int = 1) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


def marks(row: Any, reading: str) -> str:
    """What a cell of "repairs" needs said: in how many seeds a backdoor is repaired whose interval
    is not, and in how many the chosen model is the untouched victim."""
    seeds = row["seeds"]
    repaired, untouched = (row[f"{what}_{reading}"] for what in ("seeds_repaired", "untouched"))
    found = ""
    if row["worked"] and repaired and not row[f"repaired_{reading}"]:
        found += f" ✓ {repaired}/{seeds}"
    if untouched:
        found += " †" if untouched == seeds else f" † {untouched}/{seeds}"
    return found


def yes_or_no(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "no"


def table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "Nothing was measured."
    text: str = pd.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True)
    return text


def cell_text(text: str) -> str:
    """Escape what would break a Markdown table or turn into markup."""
    for mark in "\\|<>*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
