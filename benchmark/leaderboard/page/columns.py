"""Columns of a page's tables: what a column of a frame is called and how its cells are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from benchmark.leaderboard.tables import share_text
from benchmark.leaderboard.text import interval, number, percent

#: A row of a frame.
Row = Mapping[str, Any]
#: A cell as the page's script gets it: text; [value, text]; [value, text, low, high] with the
#: numbers as shares; None where nothing was measured.
Cell = str | tuple[float, str] | tuple[float, str, float, float] | None
Writer = Callable[[Row, str], Cell]

#: As in the CSV files, so that the page is the same wherever it is made.
DIGITS = 6


def words(row: Row, column: str) -> Cell:
    """Text, or yes and no."""
    value = row[column]
    if pd.isna(value) or value == "":
        return None
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def trusted(row: Row, column: str) -> Cell:
    share = row[column]
    return None if share is None or pd.isna(share) else (_rounded(share), share_text(share))


def plain(row: Row, column: str, *, digits: int = 1, factor: float = 1) -> Cell:
    """A number without an interval."""
    value = row[column]
    return None if pd.isna(value) else (_rounded(factor * value), number(factor * value, digits))


def general(row: Row, column: str) -> Cell:
    """A number of no known unit, with as many digits as it needs."""
    value = row[column]
    return None if pd.isna(value) else (_rounded(value), f"{value:.4g}")


def rate(row: Row, column: str) -> Cell:
    """A share with its interval, in percent."""
    return _with_interval(row, column, percent)


def area(row: Row, column: str) -> Cell:
    """A ROC AUC with its interval."""
    return _with_interval(row, column, interval)


def signed(row: Row, column: str) -> Cell:
    """A difference of shares with its interval, in percent; no bar can stand for it."""
    value = row[column]
    return None if pd.isna(value) else (_rounded(100 * value), percent(row, column))


def _with_interval(row: Row, column: str, text: Callable[[Row, str], str]) -> Cell:
    if pd.isna(row[column]):
        return None
    value, low, high = (_rounded(row[column + end]) for end in ("", "_low", "_high"))
    return value, text(row, column), low, high


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)


points = partial(plain, digits=2, factor=100)
count = partial(plain, digits=0)
two = partial(plain, digits=2)
whole_percent = partial(plain, factor=100)

#: Heading and writer of the columns that frames have; other columns are written as they are.
KNOWN: dict[str, tuple[str, Writer]] = {
    "trusted_share": ("r", trusted),
    "detector_share": ("r of the detector", trusted),
    "cda": ("CDA", rate),
    "asr": ("ASR", rate),
    "asr_game": ("ASR as in the game", whole_percent),
    "asr_clean": ("ASR on clean model", rate),
    "target_confidence": ("target confidence", partial(plain, digits=3)),
    "asr_before": ("ASR before", rate),
    "asr_paper": ("ASR left, paper", rate),
    "asr_deployable": ("ASR left, deployable", rate),
    "cda_loss_paper": ("CDA loss, paper (points)", points),
    "cda_loss_deployable": ("CDA loss, deployable (points)", points),
    "repaired_paper": ("repaired, paper", words),
    "repaired_deployable": ("repaired, deployable", words),
    "seeds_repaired_paper": ("seeds repaired, paper", count),
    "seeds_repaired_deployable": ("seeds repaired, deployable", count),
    "cells_repaired_paper": ("cells repaired, paper", count),
    "cells_repaired_deployable": ("cells repaired, deployable", count),
    "untouched_paper": ("untouched, paper", count),
    "untouched_deployable": ("untouched, deployable", count),
    "success_paper": ("CDA - ASR, paper", signed),
    "success_deployable": ("CDA - ASR, deployable", signed),
    "clean_loss_paper": ("CDA lost on clean models, paper", signed),
    "clean_loss_deployable": ("CDA lost on clean models, deployable", signed),
    "false_alarms": ("false alarms", rate),
    "overhead": ("time / training", two),
    "guard_auc": ("AUC of the guard", two),
    "auc": ("AUC", area),
    "average_precision": ("AP", area),
    "oracle_auc": ("AUC of the target (oracle)", area),
    "native_accuracy": ("native accuracy", rate),
    "best_accuracy": ("best accuracy (oracle)", rate),
    "coin_game": ("coin game", rate),
    "target_found": ("target found", rate),
    "reversed_asr": ("reversed ASR", whole_percent),
    "reasr": ("ReASR", rate),
    "asr_best": ("best", rate),
    "asr_published": ("published", whole_percent),
    "asr_selected": ("selected", rate),
    "asr_best_restarts": ("best with restarts", rate),
    "asr_selected_restarts": ("selected with restarts", rate),
    "asr_clean_model": ("on the clean model", rate),
    "target_auc": ("AUC of the target", two),
    "asr_target": ("ASR, target", rate),
    "asr_normal": ("normal classes, mean", rate),
    "asr_largest": ("normal classes, largest", rate),
    "norm": ("norm", two),
    "overlap": ("overlap", two),
    "distance": ("distance", two),
    "clean": ("accuracy", rate),
    "untriggered": ("target, untriggered", rate),
    "sigma": ("σ", general),
    "epsilon": ("ε", general),
    "own_asr_before": ("own ASR before", whole_percent),
    "own_asr_left": ("own ASR left", whole_percent),
    "instability": ("over the grid (±)", whole_percent),
    "accuracy_spent": ("cost (points)", whole_percent),
    "accuracy_spent_unseen": ("cost on unseen images", whole_percent),
    "seconds": ("seconds", plain),
}
#: Columns that get a drop-down.
MENUS = {
    *("attack", "threat", "defense", "detector", "inverter", "reading"),
    *("status", "step", "by", "kind", "front", "game", "side", "quantity", "verdict"),
}
#: Columns of plugins' names.
PLUGINS = {"attack", "defense", "detector", "inverter", "by", "defender"}
#: Columns left out where they say the same everywhere.
COMMON = {"boost", "recipe"}


@dataclass(frozen=True)
class Table:
    """What the page's script makes a table of.

    Attributes:
        columns: for each column its heading, whether it has a drop-down, whether it names
            plugins and whether its cells show the trade-off curve of their row.
    """

    caption: str
    columns: tuple[Mapping[str, Any], ...]
    rows: tuple[tuple[Cell, ...], ...]


def table(
    caption: str,
    frame: pd.DataFrame,
    names: Iterable[str] | None = None,
    *,
    known: Mapping[str, tuple[str, Writer]] | None = None,
    curves: Sequence[str] = (),
) -> Table:
    """A table of a frame's columns `names`, of all columns if there are none.

    `known` goes before `KNOWN`. Columns that the frame lacks, that hold nothing, or that are
    `COMMON` and say the same everywhere are left out, and so are bounds of intervals.
    """
    wanted = [name for name in names or frame.columns if _says_something(frame, name)]
    rows = frame.to_dict("records")
    written = KNOWN | dict(known or {})
    writers = {name: _writer(frame, name, written) for name in wanted}
    return Table(
        caption,
        tuple(
            {
                "title": writers[name][0],
                "menu": name in MENUS,
                "plugin": name in PLUGINS,
                "curve": name in curves,
            }
            for name in wanted
        ),
        tuple(tuple(writers[name][1](row, name) for name in wanted) for row in rows),
    )


def _says_something(frame: pd.DataFrame, name: str) -> bool:
    if name not in frame or not frame[name].notna().any():
        return False
    if name in COMMON:
        return bool(frame[name].nunique() > 1)
    bound = name.endswith(("_low", "_high"))
    return not (bound and name.rsplit("_", 1)[0] in frame)


def _writer(
    frame: pd.DataFrame, name: str, known: Mapping[str, tuple[str, Writer | None]]
) -> tuple[str, Writer]:
    """Known columns as they are known, others by what they hold."""
    title, writer = known.get(name, (name.replace("_", " "), None))
    if name.startswith("class_"):
        writer = plain
    elif writer is None:
        writer = _by_type(frame[name])
    if f"{name}_low" in frame:
        if writer not in (signed, area):
            writer = area if "auc" in name else rate
    elif writer in (rate, area):
        # A mean whose interval the frame does not hold.
        writer = whole_percent if writer is rate else two
    return title, writer


def _by_type(values: pd.Series) -> Writer:
    if pd.api.types.is_integer_dtype(values):
        return count
    return general if pd.api.types.is_float_dtype(values) else words
