"""The Markdown page of a board, which GitHub shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import pandas as pd

from benchmark.leaderboard import fronts_text, published_text
from benchmark.leaderboard.board import Board
from benchmark.leaderboard.inversion_text import inversion_sections
from benchmark.leaderboard.populations import SCORE
from benchmark.leaderboard.tables import share_text
from benchmark.leaderboard.text import attack_text, cell_text, interval, number, percent, table
from benchmark.metrics import REPAIRED
from benchmark.runs.record import NONE
from benchmark.runs.tuned import Search

INTRODUCTION = """\
ASR is the share of triggered test images of other classes that the model puts into the
target class; CDA is its accuracy on clean test images. A cell shows the ASR that remains
after the best the defense may do within the budget of clean accuracy. The deployable reading
takes the last checkpoint whose accuracy on held-out validation images was in budget, which a
defender can really choose; the paper's reading takes the lowest ASR of any checkpoint in
budget on the test images, as Pick your Poison does. A backdoor that worked counts as
repaired, in bold, at an ASR of at most 5 %. Rates are in percent and means over seeds;
brackets are 95 % intervals, the wider of Wilson's over all images and Student's t over
seeds. r is the number of trusted images as a share of the training set.
"""


DETECTABILITY = """\
A population has as many clean as poisoned models. A detector sees one model and the trusted
images; it is told nothing else. ROC AUC is the chance that it finds a poisoned model more
suspicious than a clean one, averaged over repetitions with other trusted images and
randomness. Its brackets are 95 % intervals, the wider of a bootstrap over pairs of models,
repetitions kept together, and Newcombe's score interval. Higher is better for the defender.
"""
DETAILS = """\
Native accuracy counts the detector's own yes or no on both halves; the coin game is Alg. 2 of
Pick your Poison played with seeded coins. Reversed ASR is what the trigger reversed for the
true target does to test images, ReASR the same on the true trigger's pixels only. A reading
other than "score" is another published score of the same examinations.
"""
NORMS = """\
Mean L1 norm of what a detector reversed, per scanned class (as Li et al. tabulate it). The first
line is the clean models'; the target's own column is where an attack shows.
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
        INTRODUCTION.rstrip(),
        "## Victims before any defense",
        _victims_table(frames["victims"]),
    ]
    if "repairs" in frames:
        parts += _repairs(frames["repairs"])
    if "detectability" in frames:
        parts += _detectability(frames)
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
        "## Remaining ASR, deployable reading",
        _grid(frame, "deployable"),
        "## Remaining ASR, the paper's reading",
        _grid(frame, "paper"),
        "## Accuracy spent and backdoors repaired",
        _spent_table(frame),
    ]


def _detectability(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    parts = ["## Detectability", DETECTABILITY.rstrip(), _auc_grid(frames["curves"])]
    parts += ["![ASR and ROC AUC over m](curves.svg)", "### Detectors in detail", DETAILS.rstrip()]
    parts += [_detectors_table(frames["detectability"])]
    if "norms" in frames:
        parts += ["### Norms of reversed triggers", NORMS.rstrip(), _norms_table(frames["norms"])]
    return parts


def _auc_grid(frame: pd.DataFrame) -> str:
    """Attacks down, detectors across."""
    lines: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for row in frame.to_dict("records"):
        column = cell_text(row["detector"])
        line = lines.setdefault(attack_text(row), {"ASR": percent(row, "asr")})
        line[column] = interval(row, "auc")
        columns[column] = None
    return table(
        [
            {"attack": attack, "ASR": line["ASR"]}
            | {column: line.get(column, "–") for column in columns}
            for attack, line in lines.items()
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
                "AP": number(row["average_precision"], 2),
            }
            | (
                {
                    "native accuracy": percent(row, "native_accuracy"),
                    "coin game": percent(row, "coin_game"),
                    "target found": percent(row, "target_found"),
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


def _searches(searches: Sequence[Search]) -> str:
    rows = []
    for found in searches:
        before = fmean(own.poisoned.asr.counts.value for own in found.poisonings)
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
                "target confidence": number(row["target_confidence"], 3),
            }
            for row in frame.to_dict("records")
        ]
    )


def _grid(frame: pd.DataFrame, reading: str) -> str:
    """Attacks down, defenses with their trusted shares across; repaired cells in bold."""
    lines: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for row in frame.to_dict("records"):
        share = "" if pd.isna(row["trusted_share"]) else f" r={share_text(row['trusted_share'])}"
        column = cell_text(row["defense"]) + share
        attack = f"{cell_text(row['attack'])} (m={row['m']})"
        text = percent(row, f"asr_{reading}")
        repaired = row["asr_before"] > REPAIRED >= row[f"asr_{reading}"]
        lines.setdefault(attack, {})[column] = f"**{text}**" if repaired else text
        columns[column] = None
    return table(
        [
            {"attack": attack} | {column: line.get(column, "–") for column in columns}
            for attack, line in lines.items()
        ]
    )


def _spent_table(frame: pd.DataFrame) -> str:
    """Per defense and share: mean loss of CDA in points, and how many attacks are repaired."""
    groups = frame.groupby(["defense", "trusted_share"], sort=False, dropna=False)
    return table(
        [
            {
                "defense": cell_text(defense),
                "r": share_text(share),
                "CDA loss, deployable (points)": number(100 * group.cda_loss_deployable.mean(), 2),
                "CDA loss, paper (points)": number(100 * group.cda_loss_paper.mean(), 2),
                "repaired, deployable": _repaired(group, "deployable"),
                "repaired, paper": _repaired(group, "paper"),
                "seconds": number(group.seconds.mean()),
            }
            for (defense, share), group in groups
        ]
    )


def _repaired(group: pd.DataFrame, reading: str) -> str:
    """Count attacks that worked and no longer do."""
    working = group[group.asr_before > REPAIRED]
    return f"{int((working[f'asr_{reading}'] <= REPAIRED).sum())} of {len(working)}"
