"""Plots of a board, as SVG without dates or random names."""

from __future__ import annotations

import io
import itertools
import math

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#B2A800", "#7F7F7F"),
)
WIDTH = 3.6


def svg(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "poisongames", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return buffer.getvalue()


def curves(frame: pd.DataFrame) -> bytes:
    """ASR before any defense and every detector's AUC over m, one panel per attack."""
    figure, panels = _panels(frame, frame.attack)
    detectors = list(dict.fromkeys(frame.detector))
    for axis, group in panels:
        asr = group.drop_duplicates("m")
        # Evenly spaced: m spans magnitudes, and is 0 for some who own the training.
        place = {m: number for number, m in enumerate(asr.m)}
        _line(axis, asr.m.map(place), asr, "asr", "ASR", "black", "--")
        for detector, colour in zip(detectors, COLOURS, strict=False):
            own = group[group.detector == detector]
            _line(axis, own.m.map(place), own, "auc", f"AUC, {detector.split(':')[0]}", colour, "-")
        axis.set_xticks(list(place.values()), [str(m) for m in place])
        axis.set_xlim(-0.3, len(place) - 0.7)
        axis.set_xlabel("poisoned images m")
        axis.axhline(0.5, color="grey", linewidth=0.6)
    return _finished(figure, panels, "rate")


def class_scores(frame: pd.DataFrame) -> bytes:
    """Mean scores of every class, one panel per detector and attack, each on its own scale.

    Dots are clean models, circles poisoned ones with another target, triangles those with this.
    """
    titles = (
        _short(frame.attack) + frame.m.map(" (m={})\n".format).astype(str) + _short(frame.detector)
    )
    figure, panels = _panels(frame, titles, shared=False)
    marks = {
        "score_clean": ("clean models", "o", "black"),
        "score_other": ("poisoned, another class", "o", "white"),
        "score_target": ("poisoned, the target", "^", COLOURS[1]),
    }
    for axis, group in panels:
        for place, (column, (label, mark, face)) in enumerate(marks.items()):
            axis.plot(
                group["class"] + 0.15 * (place - 1), group[column], mark, label=label, markersize=4,
                markerfacecolor=face, markeredgecolor=face if face != "white" else "black",
                markeredgewidth=0.8,
            )  # fmt: skip
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("class")
    return _finished(figure, panels, "mean score", apart=0.3)


def _line(
    axis: matplotlib.axes.Axes,
    x: pd.Series,
    frame: pd.DataFrame,
    column: str,
    label: str,
    colour: str,
    style: str,
) -> None:
    """Means with their intervals as bars."""
    middle = frame[column]
    errors = [middle - frame[f"{column}_low"], frame[f"{column}_high"] - middle]
    axis.errorbar(
        x, middle, errors, label=label, color=colour, linestyle=style, marker="o", markersize=3,
        linewidth=1.2, elinewidth=0.6, capsize=2,
    )  # fmt: skip


def radii(frame: pd.DataFrame) -> bytes:
    """ASR of the target's and of the best normal class's trigger over the radius.

    One panel per attack. Inverters without a radius are drawn across.
    """
    figure, panels = _panels(frame, frame.attack + frame.m.map(" (m={})".format))
    parts = {"asr_target": ("target", "-"), "asr_largest": ("largest of normal classes", ":")}
    names = _short(frame.inverter)
    colours = _colours(names)
    # Evenly spaced, as they are doubled from one to the next.
    place = {radius: n for n, radius in enumerate(sorted(frame.epsilon.dropna().unique()))}
    for axis, group in panels:
        for name, own in group.groupby(names, sort=False):
            for part, (title, style) in parts.items():
                label, colour = f"{title}, {name}", colours[name]
                if own.epsilon.notna().all():
                    _line(axis, own.epsilon.map(place), own, part, label, colour, style)
                else:
                    axis.axhline(
                        own[part].mean(), label=label, color=colour, linestyle=style, linewidth=0.7
                    )
        axis.set_xticks(list(place.values()), [f"{radius:g}" for radius in place])
        axis.set_xlabel("radius ε")
    return _finished(figure, panels, "ASR on other images")


def configurations(frame: pd.DataFrame) -> bytes:
    """Mean ASR of single configurations over the noise level, one panel per attack.

    Lines are inverters and radii; those without noise are drawn across.
    """
    figure, panels = _panels(frame, frame.attack + frame.m.map(" (m={})".format))
    radii = frame.epsilon if "epsilon" in frame else pd.Series(float("nan"), frame.index)
    names = _short(frame.inverter) + radii.map(lambda r: "" if pd.isna(r) else f", ε={r:g}")
    colours = _colours(names)
    for axis, group in panels:
        for name, own in group.groupby(names, sort=False):
            if "sigma" in own and own.sigma.notna().all():
                own = own.sort_values("sigma")
                _line(axis, own.sigma, own, "asr", name, colours[name], "-")
            else:
                axis.axhline(own.asr.mean(), label=name, color=colours[name], linestyle=":")
        axis.set_xlabel("σ of the inverter")
    return _finished(figure, panels, "ASR on other images")


def smoothed(frame: pd.DataFrame) -> bytes:
    """Accuracy, ASR and untriggered target answers over the noise level, one panel per attack."""
    figure, panels = _panels(frame, frame.attack + frame.m.map(" (m={})".format))
    styles = {"clean": ("accuracy", "-"), "asr": ("ASR", "--"), "untriggered": ("untriggered", ":")}
    names = _short(frame.inverter)
    colours = _colours(names)
    for axis, group in panels:
        for name, own in group.groupby(names, sort=False):
            for part, (title, style) in styles.items():
                _line(axis, own.sigma, own, part, f"{title}, {name}", colours[name], style)
        axis.set_xlabel("σ of the smoothed classifier")
    return _finished(figure, panels, "share of test images")


def _short(labels: pd.Series) -> pd.Series:
    """Names without settings, where no two are of the same plugin."""
    short = labels.str.split(":").str[0]
    return labels.where(labels.groupby(short).transform("nunique") > 1, short)


def _colours(names: pd.Series) -> dict[str, str]:
    """The same colour for a name in every panel."""
    return dict(zip(dict.fromkeys(names), itertools.cycle(COLOURS), strict=False))


_Panels = list[tuple[matplotlib.axes.Axes, pd.DataFrame]]


def _panels(
    frame: pd.DataFrame, titles: pd.Series, *, shared: bool = True
) -> tuple[Figure, _Panels]:
    """A figure with one panel per title, three in a row; a shared axis is that of shares."""
    attacks = list(frame.groupby(titles, sort=False))
    columns = min(3, max(1, len(attacks)))
    rows = max(1, math.ceil(len(attacks) / columns))
    figure = Figure(figsize=(WIDTH * columns, 2.8 * rows + 0.8))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=shared).flatten()
    for axis, (attack, _) in zip(axes, attacks, strict=False):
        axis.set_title(attack, fontsize=9)
        if shared:
            axis.set_ylim(-0.03, 1.03)
    for axis in axes[len(attacks) :]:
        axis.remove()
    return figure, [(axis, group) for axis, (_, group) in zip(axes, attacks, strict=False)]


def _finished(figure: Figure, panels: _Panels, label: str, *, apart: float = 0.08) -> bytes:
    """One legend above all panels, and the name of the common axis."""
    for axis, _ in panels[:1]:
        axis.set_ylabel(label)
    found: dict[str, Artist] = {}
    for axis, _ in panels:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(found.values()), list(found), loc="upper center", ncols=3, fontsize=8, frameon=False
    )
    lines = math.ceil(len(found) / 3)
    height = figure.get_figheight()
    figure.subplots_adjust(top=1 - (0.4 + 0.2 * lines) / height, hspace=0.6, wspace=apart)
    return svg(figure)
