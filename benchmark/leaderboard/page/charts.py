"""What the page's script draws: the matrix of all pairs, the scatter plot, trade-off curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.leaderboard.fronts import attack_label, defender_label, in_both
from benchmark.leaderboard.page.columns import DIGITS, Row, area, rate
from benchmark.leaderboard.rows import Curve
from benchmark.leaderboard.text import number


@dataclass(frozen=True)
class Matrix:
    """Attacks down, defenses across.

    Attributes:
        readings: title and cells of each. A cell is the numbers of its line and column, its
            short text, its whole text, how strongly it is coloured in [0, 1], whether it is
            marked, and the number of its trade-off curves if it has any.
        scale: what no colour and the strongest colour stand for.
        mark: what a marked cell means; empty where none can be marked.
    """

    caption: str
    lines: tuple[str, ...]
    columns: tuple[str, ...]
    readings: tuple[tuple[str, tuple[tuple[Any, ...], ...]], ...]
    scale: tuple[str, str]
    mark: str


def matrix(
    caption: str,
    frame: pd.DataFrame,
    who: str,
    readings: Mapping[str, str],
    *,
    shares: bool = False,
    marked: Callable[[Row, str], bool] | None = None,
    noted: Callable[[Row, str], str] = lambda row, column: "",
    curves: bool = False,
) -> Matrix:
    """Cells of a frame: ROC AUCs where `readings` has the column "auc", rates elsewhere.

    Args:
        who: the column of names that stand across, with their trusted shares if `shares`.
        readings: title and column of each.
        marked: tells of a row and the column of a reading whether its cell is marked.
        noted: likewise what is added to the cell's text.
        curves: whether there are trade-off curves for the frame's rows.
    """
    rows = frame.to_dict("records")
    # Missing shares come as NaN, and no two of those are the same.
    share = [row["trusted_share"] if shares else None for row in rows]
    across = [
        (row[who], None if pd.isna(one) else one) for row, one in zip(rows, share, strict=True)
    ]
    ordered = sorted(set(across), key=lambda name: (name[0], name[1] or 0))
    # What did not work undefended is marked.
    down = [attack_label(row) + ("" if row.get("worked", True) else " ‡") for row in rows]
    line = {name: number for number, name in enumerate(dict.fromkeys(down))}
    column = {name: number for number, name in enumerate(ordered)}
    is_area = "auc" in readings.values()
    found = []
    for title, reading in readings.items():
        cells = []
        for index, row in enumerate(rows):
            cell = (area if is_area else rate)(row, reading)
            if cell is not None:
                value, note = row[reading], noted(row, reading)
                cells.append(
                    (
                        line[down[index]],
                        column[across[index]],
                        (number(value, 2) if is_area else number(100 * value)) + note,
                        f"{cell[1]}{note}",
                        # A detector at chance or below it stays blank.
                        round(max(0, 2 * value - 1) if is_area else value, 2),
                        marked is not None and marked(row, reading),
                        index if curves else None,
                    )
                )
        found.append((title, tuple(cells)))
    return Matrix(
        caption,
        tuple(line),
        tuple(defender_label(*name) for name in ordered),
        tuple(found),
        ("AUC 0.5", "1") if is_area else ("ASR 0 %", "100 %"),
        "repaired" if marked else "",
    )


@dataclass(frozen=True)
class Scatter:
    """Points with intervals on both axes, which span [0, 1].

    Attributes:
        points: for each its name, threat, (value, low, high) on either axis, lines that
            explain it, the kind whose front it may be on, and whether it is.
    """

    x: str
    y: str
    points: tuple[Mapping[str, Any], ...]


def scatter(frame: pd.DataFrame) -> Scatter:
    """Remaining ASR under the best repair against ROC AUC of the best detector."""
    rows = in_both(frame).to_dict("records")
    return Scatter(
        "ASR under the best repair",
        "ROC AUC of the best detector",
        tuple(
            {
                "name": attack_label(row),
                "threat": row["threat"],
                "x": _spread(row, "asr_paper"),
                "y": _spread(row, "auc"),
                "lines": (
                    f"ASR left {_text(rate(row, 'asr_paper'))} %",
                    f"deployable {_text(rate(row, 'asr_deployable'))} %",
                    f"by {defender_label(row['defense'], row['trusted_share'])}",
                    f"AUC {_text(area(row, 'auc'))}",
                    f"by {row['detector']}",
                ),
                "kind": row["kind"],
                "front": row["front"],
            }
            for row in rows
        ),
    )


def _text(cell: Any) -> str:
    return "–" if cell is None else str(cell[1])


def _spread(row: Row, column: str) -> tuple[float, ...]:
    return tuple(round(float(row[column + end]), DIGITS) for end in ("", "_low", "_high"))


def curve(seed: int, found: Curve) -> dict[str, Any]:
    """The trade-off curve of one seed: lost CDA and ASR, both as shares, over steps."""
    steps, _, cda, asr = found.values
    return {
        "seed": seed,
        # Of stages without steps the name says more.
        "points": [
            f"step {step:.0f}" if stage == "repair" else stage
            for stage, step in zip(found.stages, steps, strict=True)
        ],
        "loss": [_number(cda[0] - value) for value in cda],
        "asr": [_number(value) for value in asr],
        "deployable": found.deployable,
        "paper": found.paper,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), DIGITS)
