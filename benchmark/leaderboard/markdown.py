"""The Markdown page of a board, which GitHub shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from benchmark.games.robustness.searches import Search
from benchmark.leaderboard import costs_text, detectors_text, fronts_text, published_text
from benchmark.leaderboard.board import Board
from benchmark.leaderboard.inversion_text import inversion_sections
from benchmark.leaderboard.tables import share_text
from benchmark.leaderboard.text import (
    attack_text,
    cell_text,
    marks,
    number,
    percent,
    table,
    yes_or_no,
)
from benchmark.leaderboard.verdict import sentences

INTRODUCTION = """\
ASR is the share of triggered test images of other classes that the model puts into the
target class; CDA is its accuracy on clean test images. A cell shows the ASR that remains
after the best the defense may do within the budget of clean accuracy. The paper's reading, the
headline, takes the lowest ASR of any checkpoint before accuracy on the test images left the
budget, as Pick your Poison does. The deployable reading takes what a defender can really choose:
the last checkpoint within the budget on trusted images that he holds out, where the answers of
suspect and repaired model are compared image by image. Whatever helps him counts towards r, the
number of trusted images as a share of the training set. A backdoor that worked is repaired if
the upper end of the interval is at most 5 %. Rates are in percent and means over seeds; brackets
are 95 % intervals, the wider of Wilson's over all images and Student's t over seeds.
"""
WORKED = """\
An attack worked if its ASR is above 5 % and its interval above that of what the same trigger does
to clean models. One that did not is left out of every count, mean, worst case and front.
"""
MARKS = """\
Bold is repaired. ✓ 3/5: no more than 5 % are left in three of five seeds, but the interval reaches
higher. † the chosen model is the untouched victim, † 2/5 in two of five seeds. ‡ the attack did
not work undefended.
"""

TUNING = """\
What defenders found with trusted images only, on a clean model that they poisoned themselves:
the point of the grid that leaves the lowest ASR of their own trigger within the budget, on
held-out trusted images. `tuning/` holds every point of every grid.
"""


def page(board: Board) -> str:
    """The whole text; sections without records are left out."""
    frames = board.frames
    parts = [
        f"# {board.protocol.name}",
        f"{board.cells} cells, {board.seeds} seed{'s' if board.seeds > 1 else ''}, "
        f"protocol `{board.protocol.sha256[:12]}`.",
        "\n".join(f"- {cell_text(sentence)}" for sentence in sentences(frames)),
        INTRODUCTION.rstrip(),
        "## Victims before any defense",
        WORKED.rstrip(),
        _victims_table(frames["victims"]),
    ]
    if "repairs" in frames:
        parts += _repairs(frames["repairs"])
    if "detectability" in frames:
        parts += detectors_text.sections(frames)
    if "costs" in frames:
        parts += costs_text.sections(frames["costs"])
    parts += fronts_text.sections(frames)
    if "inversions" in frames:
        parts += inversion_sections(board)
    if "comparison" in frames:
        parts += published_text.sections(frames["comparison"])
    if board.searches:
        parts += ["## Settings that defenders chose", TUNING.rstrip(), _searches(board.searches)]
    if board.problems:
        rows = [{key: cell_text(value) for key, value in row.items()} for row in board.problems]
        parts += ["## Failed and invalid cells", table(rows)]
    return "\n\n".join(parts) + "\n"


def _repairs(frame: pd.DataFrame) -> list[str]:
    return [
        "## Remaining ASR, the paper's reading",
        _grid(frame, "paper"),
        MARKS.rstrip(),
        "## Remaining ASR, deployable reading",
        _grid(frame, "deployable"),
    ]


def _searches(searches: Sequence[Search]) -> str:
    rows = []
    for found in searches:
        before = fmean(own.poisoned.asr.value for own in found.poisonings)
        held_out, unseen = found.cost(found.best)
        params = ", ".join(f"{key}={value}" for key, value in found.best.params.items())
        rows.append(
            {
                "repair": cell_text(found.defense),
                "r": share_text(found.trusted_share),
                "points": str(len(found.trials)),
                "own ASR before": number(100 * before),
                "own ASR left": number(100 * found.best.asr),
                "over the grid (±)": number(100 * found.instability),
                "cost (points)": number(100 * held_out),
                "on unseen images": number(100 * unseen),
                "chosen": cell_text(params),
            }
        )
    return table(rows)


def _victims_table(frame: pd.DataFrame) -> str:
    return table(
        [
            {
                "attack": cell_text(row["attack"]),
                "threat": row["threat"],
                "m": str(row["m"]),
                "CDA": percent(row, "cda"),
                "ASR": percent(row, "asr"),
                "ASR as in the game": number(100 * row["asr_game"]),
                "ASR on clean model": percent(row, "asr_clean"),
                "worked": yes_or_no(row["worked"]),
                "target confidence": number(row["target_confidence"], 3),
            }
            for row in frame.to_dict("records")
        ]
    )


def _grid(frame: pd.DataFrame, reading: str) -> str:
    """Attacks down, defenses with their trusted shares across."""
    lines: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for row in frame.to_dict("records"):
        share = "" if pd.isna(row["trusted_share"]) else f" r={share_text(row['trusted_share'])}"
        column = cell_text(row["defense"]) + share
        attack = attack_text(row) + ("" if row["worked"] else " ‡")
        lines.setdefault(attack, {})[column] = _left(row, reading)
        columns[column] = None
    return table(
        [
            {"attack": attack} | {column: line.get(column, "–") for column in columns}
            for attack, line in lines.items()
        ]
    )


def _left(row: Mapping[str, Any], reading: str) -> str:
    """A cell of a grid with its marks."""
    text = percent(row, f"asr_{reading}")
    if row["worked"] and row[f"repaired_{reading}"]:
        text = f"**{text}**"
    return text + marks(row, reading)
