"""Cells and tables in Markdown."""

from __future__ import annotations

from typing import Any

import pandas as pd


def attack_text(row: Any) -> str:
    return f"{cell_text(row['attack'])} (m={row['m']})"


def interval(row: Any, column: str) -> str:
    return f"{row[column]:.2f} [{row[column + '_low']:.2f}, {row[column + '_high']:.2f}]"


def percent(row: Any, column: str) -> str:
    """Mean and interval of one of a row's rates, in percent."""
    mean, low, high = (row[column + suffix] for suffix in ("", "_low", "_high"))
    return "–" if pd.isna(mean) else f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def number(value: float, digits: int = 1) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


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
