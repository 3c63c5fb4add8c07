"""What a board says of detectors in a sentence, and which of their scores it is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from benchmark.games.columns import (
    Column,
    Unit,
    attack_label,
    defender_label,
    joined,
    written,
)

#: The detector's own score; others are readings of the same examinations.
SCORE = "score"
#: The name of the frame that says how well detectors tell models apart.
DETECTORS = "detectability"
#: The number alone.
AUC = Column("auc", "", Unit.AREA, "")


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of "detectability" that are a detector's own score."""
    return frame if frame.empty else frame[frame.reading == SCORE]


def verdict(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Whose lowest AUC is highest, among those who met most attacks; all whose is shown alike."""
    frame = scored(frames.get(DETECTORS, pd.DataFrame()))
    if frame.empty or (frame := frame[frame.worked].dropna(subset="auc")).empty:
        return
    groups = frame.groupby(["detector", "trusted_share"], dropna=False).auc
    least = frame.loc[groups.idxmin()[groups.size() == groups.size().max()]]
    lowest = {row["auc"]: AUC.text(row) for row in least.to_dict("records")}
    best = least[least.auc.map(lowest) == lowest[least.auc.max()]]
    who = joined([*map(defender_label, best.detector, best.trusted_share)], "detector")
    worst, s = best.iloc[0].to_dict(), "s" if len(best) == 1 else ""
    if (least.auc_low > 0.5).any():
        said = f"{who} detect{s} best"
    else:
        said = f"No detector is sure to find every attack; {who} come{s} closest"
    if len(best) == 1:
        auc = written(worst, "auc", Unit.AREA)
        yield f"{said}: its lowest AUC is {auc}, against {attack_label(worst)}."
    else:
        yield f"{said}: the lowest AUC of each is {lowest[worst['auc']]}."
