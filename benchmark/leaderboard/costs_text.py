"""What defenders cost and may expect, as tables for people."""

from __future__ import annotations

import pandas as pd

from benchmark.leaderboard.tables import READINGS, share_text
from benchmark.leaderboard.text import cell_text, number, percent, table

SPENT = """\
Over the attacks that worked: how many are repaired, and in how many cells, one per seed, 5 % at
most are left or the chosen model is the untouched victim. CDA - ASR is what a defender may expect,
100 at best, with the interval of its mean over seeds.
"""
COSTS = """\
What a defense takes of models without a backdoor, with Student's interval over them, and in time:
its seconds as a multiple of those of training the victim. Over the grid is the mean absolute
difference of what is left of the own backdoor between any two settings that the search tried.
"""
ALARMS = """\
How often a detector's own yes or no, at its native threshold, flags a clean model, and the seconds
of one examination as a multiple of those of training its suspect.
"""


def sections(frame: pd.DataFrame) -> list[str]:
    """Of a table as `costs.costs` returns it."""
    played, examined = (frame[frame.game == game] for game in ("robustness", "detectability"))
    parts = []
    if not played.empty:
        parts += ["## Accuracy spent and backdoors repaired", SPENT.rstrip(), _spent_table(played)]
        parts += ["## Clean models, time and stability", COSTS.rstrip(), _costs_table(played)]
    if not examined.empty:
        parts += ["## False alarms", ALARMS.rstrip(), _alarms_table(examined)]
    return parts


def _spent_table(frame: pd.DataFrame) -> str:
    """Two lines per defense and share, one per reading."""
    return table(
        [
            {
                "defense": cell_text(row["defender"]),
                "r": share_text(row["trusted_share"]),
                "reading": reading,
                "repaired": f"{row[f'repaired_{reading}']:.0f} of {row['attacks']:.0f}",
                "cells repaired": f"{row[f'cells_repaired_{reading}']:.0f} of {row['cells']:.0f}",
                "untouched": f"{row[f'untouched_{reading}']:.0f}",
                "CDA loss (points)": number(100 * row[f"cda_loss_{reading}"], 2),
                "CDA - ASR": percent(row, f"success_{reading}"),
            }
            for row in frame.to_dict("records")
            for reading in READINGS
        ]
    )


def _costs_table(frame: pd.DataFrame) -> str:
    return table(
        [
            {
                "defense": cell_text(row["defender"]),
                "r": share_text(row["trusted_share"]),
                "clean models": str(row["clean_models"]),
                "CDA lost (points)": percent(row, "clean_loss_paper"),
                "CDA lost, deployable": percent(row, "clean_loss_deployable"),
                "time": number(row["overhead"], 2),
                "over the grid (±)": number(100 * row["instability"]),
            }
            for row in frame.to_dict("records")
        ]
    )


def _alarms_table(frame: pd.DataFrame) -> str:
    return table(
        [
            {
                "detector": cell_text(row["defender"]),
                "r": share_text(row["trusted_share"]),
                "clean models": str(row["clean_models"]),
                "false alarms": percent(row, "false_alarms"),
                "time": number(row["overhead"], 2),
            }
            for row in frame.to_dict("records")
        ]
    )
