"""The detectability game, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from benchmark.leaderboard.populations import SCORE
from benchmark.leaderboard.text import attack_text, cell_text, interval, number, percent, table
from benchmark.records.record import NONE

DETECTABILITY = """\
A population has as many clean as poisoned models, whose targets differ. A detector sees one model
and the trusted images; it is told nothing else. ROC AUC is the chance that it finds a poisoned
model more suspicious than a clean one, averaged over repetitions with other trusted images and
randomness. Its brackets are 95 % intervals, the wider of a bootstrap over pairs of models,
repetitions kept together, and Newcombe's score interval. Higher is better for the defender. ‡ the
attack did not work undefended, so that there is nothing to find.
"""
THRESHOLDS = """\
Target found: how often the class that a detector suspects most is the attack's target. An oracle
knows what nobody is told. That of the target's AUC compares the scores of the true target alone;
where it is high and the AUC is not, the attack shows but other classes hide it. That of the
threshold takes the one that is best for these very models. Native is the detector's own yes or no
on both halves, false alarms are its yes to clean models.
"""
DETAILS = """\
AP is average precision; the coin game is Alg. 2 of Pick your Poison played with seeded coins.
Reversed ASR is what the trigger reversed for the true target does to test images, ReASR the same
on the true trigger's pixels only. A reading other than "score" is another published score of the
same examinations.
"""
SCORES = """\
Mean score of every class: on clean models, and on poisoned models where the class is the target
and where it is not. `classscores.csv` has the numbers.
"""
NORMS = """\
Mean L1 norm of what a detector reversed, per scanned class (as Li et al. tabulate it). The first
line is the clean models'; the target's own column is where an attack shows.
"""


def sections(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """Of the frames of a board that has played this game."""
    frame = frames["detectability"]
    parts = ["## Detectability", DETECTABILITY.rstrip(), _auc_grid(frames["curves"])]
    parts += ["![ASR and ROC AUC over m](curves.svg)", "### Targets and thresholds"]
    parts += [THRESHOLDS.rstrip(), _thresholds_table(frame[frame.reading == SCORE])]
    parts += ["### Detectors in detail", DETAILS.rstrip(), _detectors_table(frame)]
    parts += ["### Scores of classes", SCORES.rstrip()]
    parts += ["![Mean scores of classes](classscores.svg)"]
    if "norms" in frames:
        parts += ["### Norms of reversed triggers", NORMS.rstrip(), _norms_table(frames["norms"])]
    return parts


def _auc_grid(frame: pd.DataFrame) -> str:
    """Attacks down, detectors across."""
    lines: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for row in frame.to_dict("records"):
        column = cell_text(row["detector"])
        attack = attack_text(row) + ("" if row["worked"] else " ‡")
        line = lines.setdefault(attack, {"ASR": percent(row, "asr")})
        line[column] = interval(row, "auc")
        columns[column] = None
    return table(
        [
            {"attack": attack, "ASR": line["ASR"]}
            | {column: line.get(column, "–") for column in columns}
            for attack, line in lines.items()
        ]
    )


def _thresholds_table(frame: pd.DataFrame) -> str:
    return table(
        [
            {
                "attack": attack_text(row),
                "detector": cell_text(row["detector"]),
                "AUC": interval(row, "auc"),
                "target found": percent(row, "target_found"),
                "AUC of the target (oracle)": interval(row, "oracle_auc"),
                "native accuracy": percent(row, "native_accuracy"),
                "best accuracy (oracle)": percent(row, "best_accuracy"),
                "false alarms": percent(row, "false_alarms"),
            }
            for row in frame.to_dict("records")
        ]
    )


def _detectors_table(frame: pd.DataFrame) -> str:
    return table(
        [
            {
                "attack": attack_text(row),
                "detector": cell_text(row["detector"]),
                "reading": cell_text(row["reading"]),
                "models": f"{row['models']}+{row['models']}, x{row['repeats']}",
                "AUC": interval(row, "auc"),
                "AP": interval(row, "average_precision"),
            }
            | (
                {
                    "coin game": percent(row, "coin_game"),
                    "reversed ASR": number(100 * row["reversed_asr"]),
                    "ReASR": number(100 * row["reasr"]),
                    "seconds": number(row["seconds"]),
                }
                if row["reading"] == SCORE
                else {}
            )
            for row in frame.to_dict("records")
        ]
    )


def _norms_table(frame: pd.DataFrame) -> str:
    classes = [column for column in frame.columns if column.startswith("class_")]
    return table(
        [
            {
                "detector": cell_text(row["detector"]),
                "models": "clean" if row["threat"] == NONE else attack_text(row),
            }
            | {column.removeprefix("class_"): number(row[column]) for column in classes}
            for row in frame.to_dict("records")
        ]
    )
