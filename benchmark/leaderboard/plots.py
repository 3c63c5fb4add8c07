"""Plots of frames, as SVG without dates or random names."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.games.columns import Row
from benchmark.games.frames import Line, Plot

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#B2A800", "#7F7F7F"),
)
WIDTH = 3.6
#: A picture has no more panels than these, and says so; the CSV file has all numbers.
PANELS = 12


def svg(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "poisongames", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return buffer.getvalue()


def draw(plot: Plot, frame: pd.DataFrame) -> bytes:
    """A frame as its declaration says; without x values a series is a line at its mean."""
    titles = _labels(frame, plot.panel)
    every = titles.unique()
    frame = frame[titles.isin(every[:PANELS])]
    panels = list(frame.groupby(titles[frame.index], sort=False))
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(WIDTH * columns, 2.8 * rows + 0.8))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=plot.shares).flatten()
    series = _labels(frame, plot.series)
    colours = dict(zip(dict.fromkeys(series), itertools.cycle(COLOURS), strict=False))
    x = frame[plot.x] if plot.x in frame else pd.Series(float("nan"), frame.index)
    shared = {value: place for place, value in enumerate(sorted(x.dropna().unique()))}
    for axis, (title, group) in zip(axes, panels, strict=False):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(plot.labels[0])
        if plot.shares:
            axis.set_ylim(-0.03, 1.03)
        if plot.even:
            axis.set_xticks(list(shared.values()), [f"{value:g}" for value in shared])
            axis.set_xlim(-0.3, len(shared) - 0.7)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=not plot.shares))
        if plot.chance:
            axis.axhline(0.5, color="grey", linewidth=0.6)
        places = x[group.index].map(shared) if plot.even else x[group.index]
        for line in plot.lines:
            if line.alone:
                _line(axis, places, group.drop_duplicates(plot.x), line, line.title, "black")
                continue
            # What was never measured has no line, and no place in the legend.
            there = group[group[line.key].notna()]
            for name, own in there.groupby(series[there.index], sort=False):
                label = ", ".join(filter(None, (line.title, name)))
                _line(axis, places[own.index], own, line, label, colours[name])
    for axis in axes[len(panels) :]:
        axis.remove()
    if len(every) > PANELS:
        said = f"{PANELS} of {len(every)} panels; the CSV file has all numbers"
        figure.text(0.5, 0, said, ha="center", fontsize=8)
    return _finished(figure, list(axes[: len(panels)]), plot)


def _labels(frame: pd.DataFrame, label: Callable[[Row], str]) -> pd.Series:
    return pd.Series(map(label, frame.to_dict("records")), frame.index, dtype=object)


def _line(
    axis: matplotlib.axes.Axes,
    x: pd.Series,
    frame: pd.DataFrame,
    line: Line,
    label: str,
    colour: str,
) -> None:
    """Means with their intervals as bars where there are any, or marks alone."""
    middle = frame[line.key]
    x = x[frame.index]
    if x.isna().any():
        axis.axhline(middle.mean(), label=label, color=colour, linestyle=line.style, linewidth=0.7)
    elif line.style in "os^":
        axis.plot(x, middle, line.style, label=label, markersize=4, markerfacecolor="none")
    else:
        order = x.sort_values(kind="stable").index
        x, frame, middle = x[order], frame.loc[order], middle[order]
        low, high = (frame.get(f"{line.key}_{end}") for end in ("low", "high"))
        errors = None if low is None or high is None else [middle - low, high - middle]
        axis.errorbar(
            x, middle, errors, label=label, color=colour, linestyle=line.style, marker="o",
            markersize=3, linewidth=1.2, elinewidth=0.6, capsize=2,
        )  # fmt: skip


def _finished(figure: Figure, axes: list[matplotlib.axes.Axes], plot: Plot) -> bytes:
    """One legend above all panels, and the name of the common axis."""
    found: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    for axis in axes[:1]:
        axis.set_ylabel(plot.labels[1])
    figure.legend(
        list(found.values()), list(found), loc="upper center", ncols=3, fontsize=8, frameon=False
    )
    lines, height = math.ceil(len(found) / 3), figure.get_figheight()
    apart = 0.08 if plot.shares else 0.3
    figure.subplots_adjust(top=1 - (0.4 + 0.2 * lines) / height, hspace=0.6, wspace=apart)
    return svg(figure)
