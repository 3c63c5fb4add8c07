"""What was published beside what was measured, on a page."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from benchmark.leaderboard.board import Board
from benchmark.leaderboard.page.columns import Writer, points, table, two, whole_percent
from benchmark.leaderboard.page.parts import WHO, Part
from benchmark.leaderboard.published import INSIDE, NOT_MEASURED, OUTSIDE
from benchmark.leaderboard.published_text import (
    AREAS,
    PUBLISHED,
    QUANTITIES,
    remark_numbers,
    remarks,
    summary,
)

VERDICTS = [OUTSIDE, INSIDE, NOT_MEASURED]


def published(board: Board) -> Iterator[Part]:
    if "comparison" not in board.frames:
        return
    found = board.frames["comparison"]
    # What disagrees comes first.
    frame = found.sort_values("verdict", key=lambda v: v.map(VERDICTS.index), kind="stable")
    frame = frame.assign(
        quantity=frame.quantity.map(QUANTITIES), notes=frame.note.map(remark_numbers)
    )
    areas = frame.quantity.isin([QUANTITIES[name] for name in AREAS])
    text = f"{PUBLISHED}\n{summary(frame)}"
    own = frame[~areas]
    yield _part(text, "Accuracy and success of attacks", own, "measured", whole_percent, points)
    # By its name a column tells an area from a rate.
    own = frame[areas].rename(columns=lambda name: name.replace("measured", "auc"))
    yield _part("", "ROC AUC and average precision", own, "auc", two, two)
    if notes := remarks(frame):
        yield Part("published-notes", "\n\n".join(notes), "Notes on the published numbers")


def _part(
    text: str, title: str, frame: pd.DataFrame, measured: str, number: Writer, difference: Writer
) -> Part:
    shown = table(
        f"{title}, measured and published",
        frame,
        [
            *(*WHO, "quantity", "defense", "trusted_share", "published", measured, "difference"),
            *("verdict", "explanation", "models", "asr_before", "asr_deployable", "notes"),
            *("attack_played", "defense_played", "paper", "table"),
        ],
        known={
            "published": ("published", number),
            measured: ("measured", number),
            "difference": ("difference", difference),
        },
    )
    return Part(f"published-{measured}", text, title, table=shown)
