"""The sections of a page, in the order in which they stand on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean

import pandas as pd

from benchmark.leaderboard.board import Board
from benchmark.leaderboard.costs_text import ALARMS, COSTS, SPENT
from benchmark.leaderboard.detectors_text import DETAILS, DETECTABILITY, NORMS, SCORES, THRESHOLDS
from benchmark.leaderboard.fronts_text import DEFENDERS, PARETO, volume_text
from benchmark.leaderboard.markdown import MARKS, TUNING, WORKED
from benchmark.leaderboard.page import pictures
from benchmark.leaderboard.page.charts import matrix, scatter
from benchmark.leaderboard.page.columns import (
    Row,
    Writer,
    area,
    general,
    points,
    rate,
    table,
)
from benchmark.leaderboard.page.inversion import inversion
from benchmark.leaderboard.page.parts import WHO, Part, Picture, Section, with_victims
from benchmark.leaderboard.page.published import published
from benchmark.leaderboard.populations import SCORE
from benchmark.leaderboard.tables import READINGS
from benchmark.leaderboard.text import marks
from benchmark.records.record import NONE

ROBUSTNESS = f"""\
The attack success rate in percent that remains after every defense, in two readings. Point at a
number, tap it, or go there with Tab and arrow keys to see the trade-off curves behind it.

{MARKS.replace("Bold", "✓ alone")}"""
VICTIMS = f"""\
Models before any defense: their clean accuracy, how well the backdoor works, and what the same
trigger does to a clean model of the same seed.

{WORKED}"""
TRIGGERS = f"""\
Test images above, the same with the trigger below them, and at the bottom what the trigger
changed, times {pictures.MAGNIFIED}.
"""
COST = """\
Mean wall-clock seconds of one cell, and of training one victim, on the machine that played it.
"""
UNFINISHED = """\
A cell whose plugin raised an error has failed; one that the sanity gate refused is invalid. Neither
counts in any table.
"""
#: Columns of the defenders' table that mean something else there than elsewhere.
_WORST: dict[str, tuple[str, Writer]] = {
    "asr_paper": ("highest ASR left", rate),
    "asr_deployable": ("highest ASR left, deployable", rate),
    "auc": ("lowest AUC", area),
    "cda_loss": ("CDA loss (points)", points),
}


def sections(board: Board) -> list[Section]:
    """All sections for which there is anything to show."""
    made: list[tuple[str, str, Callable[[Board], Iterator[Part]]]] = [
        ("overview", "Overview", _overview),
        ("robustness", "Robustness", _robustness),
        ("detectability", "Detectability", _detectability),
        ("inversion", "Inversion", inversion),
        ("published", "Beside what was published", published),
        ("defenders", "Defenders", _defenders),
        ("victims", "Victims", _victims),
        ("cost", "What defenders cost", _cost),
        ("settings", "Chosen settings", _settings),
        ("unfinished", "Failed and invalid", _unfinished),
    ]
    found = [Section(key, title, tuple(parts(board))) for key, title, parts in made]
    return [section for section in found if section.parts]


def _overview(board: Board) -> Iterator[Part]:
    if "pareto" in board.frames:
        frame = board.frames["pareto"]
        yield Part(
            "pareto",
            f"{PARETO}\n{volume_text(frame)}",
            scatter=scatter(frame),
            table=table(
                "What every attack is left with",
                frame,
                [
                    *(*WHO, "kind", "front", "asr_before", "asr_paper", "asr_deployable"),
                    *("defense", "trusted_share", "defenses_met", "defenses"),
                    *("auc", "detector", "detector_share", "detectors_met", "detectors"),
                    "dominated_by",
                ],
            ),
        )


def _defenders(board: Board) -> Iterator[Part]:
    if "defenders" in board.frames:
        title = "Defenders in the worst case"
        shown = table(title, board.frames["defenders"], known=_WORST)
        yield Part("defenders-frame", DEFENDERS, title, table=shown)


def _robustness(board: Board) -> Iterator[Part]:
    if "repairs" not in board.frames:
        return
    frame = board.frames["repairs"]
    left = tuple(f"asr_{reading}" for reading in READINGS)
    counts = ("cda_loss", "repaired", "seeds_repaired", "untouched")
    yield Part(
        "repairs",
        ROBUSTNESS,
        matrix=matrix(
            "Remaining ASR in percent, attacks down and defenses across",
            frame,
            "defense",
            {"paper's reading": left[0], "deployable reading": left[1]},
            shares=True,
            marked=_is_repaired,
            noted=lambda row, column: marks(row, column.removeprefix("asr_")),
            curves=True,
        ),
        table=table(
            "Every defense against every attack",
            frame,
            [
                *(*WHO, "worked", "defense", "trusted_share", "seeds", "asr_before", *left),
                *(f"{what}_{reading}" for what in counts for reading in READINGS),
                *("guard_auc", "seconds"),
            ],
            curves=left,
        ),
    )


def _is_repaired(row: Row, column: str) -> bool:
    return bool(row["worked"] and row[f"repaired_{column.removeprefix('asr_')}"])


def _detectability(board: Board) -> Iterator[Part]:
    if "detectability" not in board.frames:
        return
    frame = with_victims(board, board.frames["detectability"])
    own = frame[frame.reading == SCORE]
    yield Part(
        "detectors",
        DETECTABILITY,
        matrix=matrix(
            "ROC AUC, attacks down and detectors across",
            own,
            "detector",
            {"ROC AUC": "auc", "of the true target's score (oracle)": "oracle_auc"},
        ),
    )
    yield Part(
        "examinations",
        f"{THRESHOLDS}\n{DETAILS}",
        "Detectors in detail",
        table=table(
            "Every detector against every attack",
            frame,
            [
                *(*WHO, "worked", "detector", "reading", "models", "repeats", "asr", "auc"),
                *("target_found", "oracle_auc", "average_precision", "native_accuracy"),
                *("best_accuracy", "false_alarms", "coin_game", "reversed_asr", "reasr"),
                "seconds",
            ],
            known={"asr": ("ASR before", rate)},
        ),
    )
    shown = table(
        "Mean score per class",
        board.frames["classscores"],
        [
            *("detector", "trusted_share", *WHO, "class", "models", "targets"),
            *("score_clean", "score_target", "score_other"),
        ],
        known={
            "score_clean": ("clean models", general),
            "score_target": ("poisoned, the target", general),
            "score_other": ("poisoned, another class", general),
        },
    )
    yield Part("classscores", SCORES, "Scores of classes", table=shown)
    if "norms" in board.frames:
        shown = board.frames["norms"].replace({"attack": {NONE: "clean"}})
        classes = [name for name in shown if name.startswith("class_")]
        names = ["detector", *WHO[:2], *WHO[3:], "models", *classes]
        caption = "Mean L1 norm of reversed triggers per class"
        yield Part("norms", NORMS, "Norms of reversed triggers", table=table(caption, shown, names))


def _victims(board: Board) -> Iterator[Part]:
    frame = board.frames["victims"]
    if not frame.empty:
        names = [*WHO, "seeds", "cda", "asr", "worked"]
        names += ["asr_game", "asr_clean", "target_confidence"]
        caption = "Victims before any defense"
        yield Part("victims-table", VICTIMS, table=table(caption, frame, names))
    shown = tuple(
        Picture(
            one.title,
            "clean images, triggered images and their difference",
            pictures.triggered(one.pixels),
        )
        for one in board.triggers
    )
    if shown:
        yield Part("triggers", TRIGGERS, "Triggers", pictures=shown)


def _cost(board: Board) -> Iterator[Part]:
    frame = board.frames.get("costs", pd.DataFrame({"game": []}))
    for game, text, own in (
        ("robustness", f"{COSTS}\n{SPENT}", frame[frame.game == "robustness"]),
        ("detectability", ALARMS, frame[frame.game == "detectability"]),
    ):
        if not own.empty:
            shown = table(f"What defenders cost: {game}", own.drop(columns="game"))
            yield Part(f"costs-{game}", text, game.capitalize(), table=shown)
    steps = {
        "victims": ("training a victim", None),
        "repairs": ("defense", "defense"),
        "detectability": ("examination", "detector"),
        "inversions": ("inversion", "inverter"),
    }
    rows = [
        {key: row[key] for key in WHO}
        | {"step": step, "by": row[by] if by else None}
        | {"trusted_share": row.get("trusted_share"), "seconds": row["seconds"]}
        for name, (step, by) in steps.items()
        if name in board.frames
        for row in board.frames[name].to_dict("records")
        if not pd.isna(row["seconds"])
    ]
    if rows:
        names = ["step", "by", "trusted_share", *WHO, "seconds"]
        yield Part("seconds", COST, "Seconds", table=table("Seconds", pd.DataFrame(rows), names))


def _settings(board: Board) -> Iterator[Part]:
    rows = []
    for found in board.searches:
        held_out, unseen = found.cost(found.best)
        rows.append(
            {
                "defense": found.defense,
                "trusted_share": found.trusted_share,
                "points": len(found.trials),
                "own_asr_before": fmean(own.poisoned.asr.value for own in found.poisonings),
                "own_asr_left": found.best.asr,
                "instability": found.instability,
                "accuracy_spent": held_out,
                "accuracy_spent_unseen": unseen,
                "chosen": ", ".join(f"{key}={v}" for key, v in found.best.params.items()),
            }
        )
    if rows:
        shown = table("Settings that defenders chose", pd.DataFrame(rows))
        yield Part("searches", TUNING, table=shown)


def _unfinished(board: Board) -> Iterator[Part]:
    if board.problems:
        rows = sorted(board.problems, key=lambda row: tuple(row.values()))
        shown = table("Failed and invalid cells", pd.DataFrame(rows))
        yield Part("problems", UNFINISHED, table=shown)
