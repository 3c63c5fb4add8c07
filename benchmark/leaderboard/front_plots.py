"""Both Pareto fronts of a board in one picture, as an SVG file and for a page's script."""

from __future__ import annotations

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from benchmark.games.columns import DIGITS, attack_label
from benchmark.games.frames import Frame
from benchmark.leaderboard.fronts import COLUMNS, KINDS, in_both, pareto, summary
from benchmark.leaderboard.plots import COLOURS, svg

#: Titles of the axes, and whom their ends favour.
X = ("ASR left by the best defense", "removed: defenders win", "stays: attackers win")
Y = ("AUC of the best detector", "hidden: attackers win", "found: defenders win")

_Box = tuple[float, float, float, float]
_SIZE = (6.4, 4.6)
_LIMITS = (-0.04, 1.04)
#: Of a letter, in points at the size of labels, and where labels may stand beside their points.
_WIDTH, _HEIGHT, _FONT = 4.0, 10.0, 7.5
_PLACES = [
    (x, y, side) for y in (5, -12, 16, -23, 27, -34, 38, -45) for x, side in ((5, 0), (-5, 1))
]


def opponents(row: dict[str, Any]) -> str:
    """How many opponents a point met, where others of its kind met more."""
    pairs = [(row[f"{what}_met"], row[what], what) for what in ("defenses", "detectors")]
    return ", ".join(f"{met} of {every} {what}" for met, every, what in pairs if met < every)


def points(frame: pd.DataFrame) -> dict[str, Any]:
    """What the page's script draws: points with intervals on both axes, which span [0, 1]."""
    by_key = {column.key: column for column in COLUMNS}

    def spread(row: dict[str, Any], key: str) -> list[float]:
        return [round(float(v), DIGITS) for v in (row[key], *by_key[key].bounds(row))]

    def point(row: dict[str, Any]) -> dict[str, Any]:
        text = {key: column.text(row) for key, column in by_key.items()}
        lines = [
            f"ASR left {text['asr_paper']} % by {text['defense']}",
            f"deployable {text['asr_deployable']} %",
            f"AUC {text['auc']} by {text['detector']}",
        ]
        found = {"name": attack_label(row), "threat": row["threat"], "kind": row["kind"]}
        found |= {"x": spread(row, "asr_paper"), "y": spread(row, "auc"), "lines": lines}
        return found | {"front": row["front"], "met": opponents(row)}

    return {"x": X, "y": Y, "points": [point(row) for row in in_both(frame).to_dict("records")]}


def draw(frame: pd.DataFrame, old: pd.DataFrame | None = None) -> bytes:
    """SVG: ASR under the best defense against AUC of the best detector, a step line per front.

    A hollow point met fewer opponents than others of its kind: it looks better than it is and is on
    no front.
    Shaded is what a front dominates.

    Args:
        frame: as `front_table` returns it, with a point that was played in both games.
        old: another one to compare with, whose fronts are drawn as dashed lines.
    """
    figure = Figure(figsize=_SIZE)
    axis = figure.subplots()
    axis.set_xlim(*_LIMITS)
    axis.set_ylim(*_LIMITS)
    points = in_both(frame)
    for kind, colour in zip(KINDS, COLOURS, strict=False):
        _front(axis, points[points.kind == kind], kind, colour)
        if old is not None:
            _line(axis, old[old.kind == kind], colour, "--", f"{kind}, before")
    if points.front.isna().any():
        axis.scatter([], [], s=26, facecolor="white", edgecolor="grey", label="met fewer opponents")
    _label(axis, points)
    axis.axhline(0.5, color="grey", linewidth=0.6, linestyle=":", zorder=0)
    for named, (title, low, high) in ((axis.set_xlabel, X), (axis.set_ylabel, Y)):
        named(f"← {low}    {title}    {high} →", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        loc="upper center", ncols=3, fontsize=8, frameon=False, bbox_to_anchor=(0.5, 0.97)
    )
    return svg(figure)


def _front(axis: matplotlib.axes.Axes, points: pd.DataFrame, kind: str, colour: str) -> None:
    """Points with their intervals, and the front through those on it."""
    x, y = points.asr_paper, points.auc
    if points.empty:
        return
    axis.errorbar(
        x, y,
        [y - points.auc_low, points.auc_high - y],
        [x - points.asr_paper_low, points.asr_paper_high - x],
        fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.3, zorder=1,
    )  # fmt: skip
    whole = points.front.notna()
    for own, face in ((whole, colour), (~whole, "white")):
        axis.scatter(x[own], y[own], s=26, facecolor=face, edgecolor=colour, zorder=3)
    _line(axis, points, colour, "-", kind)
    if whole.any():
        axis.fill_between(
            *_steps(points), 1, step="pre", color=colour, alpha=0.07, linewidth=0, zorder=0
        )


def _line(
    axis: matplotlib.axes.Axes, points: pd.DataFrame, colour: str, style: str, label: str
) -> None:
    if points.front.eq(True).any():
        axis.plot(
            *_steps(points), drawstyle="steps-pre", color=colour, linestyle=style, linewidth=1.4,
            label=label, zorder=2,
        )  # fmt: skip


def _steps(points: pd.DataFrame) -> tuple[list[float], list[float]]:
    """The lower right border of what the front dominates, from the left edge to the top."""
    front = points[points.front.eq(True)].sort_values(["asr_paper", "auc"])
    x, y = [*front.asr_paper], [*front.auc]
    return [0.0, *x, x[-1]], [y[0], *y, 1.0]


def _label(axis: matplotlib.axes.Axes, points: pd.DataFrame) -> None:
    """Names beside their points, each where it covers least of what is there already."""
    axis.figure.canvas.draw()
    scale = 72 / axis.figure.dpi
    spots = [
        tuple(scale * value for value in axis.transData.transform((row["asr_paper"], row["auc"])))
        for row in points.to_dict("records")
    ]
    left, bottom, right, top = (scale * value for value in axis.bbox.extents)
    taken: list[_Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    for row, (x, y) in zip(points.to_dict("records"), spots, strict=True):
        text = _name(row)
        width = _WIDTH * len(text)
        candidates = []
        for place, (right_by, up, side) in enumerate(_PLACES):
            start = x + right_by - side * width
            box = (start, y + up, start + width, y + up + _HEIGHT)
            outside = box[0] < left or box[1] < bottom or box[2] > right or box[3] > top + 8
            covered = sum(_shared(box, other) for other in taken)
            candidates.append((outside, covered, place, box))
        *_, place, box = min(candidates)
        taken.append(box)
        right_by, up, side = _PLACES[place]
        axis.annotate(
            text, (row["asr_paper"], row["auc"]), xytext=(right_by, up),
            textcoords="offset points", fontsize=_FONT, ha="right" if side else "left",
            bbox={"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.3},
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "grey"}
            if place > 1 else None,
        )  # fmt: skip


def _name(row: dict[str, Any]) -> str:
    met = opponents(row)
    return attack_label(row) + (f", met {met}" if met else "")


def _shared(one: _Box, other: _Box) -> float:
    """Area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _front_first(frame: pd.DataFrame) -> pd.DataFrame:
    """The front, then those behind it, then those that cannot be compared."""
    place = frame.front.map({True: 0, False: 1}).fillna(2)
    return frame.assign(place=place).sort_values(["place", "asr_paper"], ascending=[True, False])[
        frame.columns
    ]


PARETO = Frame(
    "pareto",
    "Robust and hidden",
    """\
What an attacker whose attack worked is left with: the ASR after the repair, guard or sanitizer that
helps most against this attack, in the paper's reading, and the AUC of the detector that finds it
best. An attack is on the front if no other of its kind is as robust and as hidden. One that met
fewer defenses or detectors than others of its kind looks better than it is: it is drawn hollow and
is on no front. The hypervolume is the area that a front dominates: 0 for attackers
without a chance, 1 for one that nobody repairs or finds.

Brackets are 95 % intervals of the defender that was chosen; that it was chosen among several makes
it look a little better than it is. Only where the intervals are apart on both axes does one attack
clearly dominate another.""",
    pareto,
    COLUMNS,
    order=_front_first,
    summary=summary,
    points=points,
    draw=draw,
    alt="Remaining ASR against ROC AUC",
)
