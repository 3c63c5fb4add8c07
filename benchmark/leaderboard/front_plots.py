"""Both Pareto fronts of a board in one picture."""

from __future__ import annotations

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from benchmark.leaderboard.fronts import KINDS, attack_label, in_both
from benchmark.leaderboard.plots import COLOURS, svg

_Box = tuple[float, float, float, float]
_SIZE = (6.4, 4.6)
_LIMITS = (-0.04, 1.04)
#: Of a letter, in points at the size of labels, and where labels may stand beside their points.
_WIDTH, _HEIGHT, _FONT = 4.0, 10.0, 7.5
_PLACES = [
    (x, y, side) for y in (5, -12, 16, -23, 27, -34, 38, -45) for x, side in ((5, 0), (-5, 1))
]


def pareto(frame: pd.DataFrame, old: pd.DataFrame | None = None) -> bytes:
    """ASR under the best repair against AUC of the best detector, and a step line per front.

    A hollow point met fewer defenders than others of its kind, so that what it shows is flattered:
    it is on no front. Shaded is what a front dominates.

    Args:
        frame: as `fronts.front_table` returns it, with a point that was played in both games.
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
        axis.scatter(
            [], [], s=26, facecolor="white", edgecolor="grey", label="met some defenders only"
        )
    _label(axis, points)
    axis.axhline(0.5, color="grey", linewidth=0.6, linestyle=":", zorder=0)
    axis.set_xlabel("remaining ASR under the best repair, guard or sanitizer")
    axis.set_ylabel("ROC AUC of the best detector")
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
        text = attack_label(row)
        width = _WIDTH * len(text)
        candidates = []
        for place, (right_by, up, side) in enumerate(_PLACES):
            start = x + right_by - side * width
            box = (start, y + up, start + width, y + up + _HEIGHT)
            outside = box[0] < left or box[1] < bottom or box[2] > right or box[3] > top + 8
            candidates.append((outside, sum(_shared(box, other) for other in taken), place, box))
        *_, place, box = min(candidates)
        taken.append(box)
        right_by, up, side = _PLACES[place]
        axis.annotate(
            text, (row["asr_paper"], row["auc"]), xytext=(right_by, up),
            textcoords="offset points", fontsize=_FONT, ha="right" if side else "left",
            bbox={"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.3},
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "grey"}
            if abs(up) > 12 else None,
        )  # fmt: skip


def _shared(one: _Box, other: _Box) -> float:
    """Area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
