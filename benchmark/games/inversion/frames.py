"""Tables of the inversion game: inverters, configurations, radii, smoothed classifiers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from statistics import fmean
from typing import Any

import pandas as pd

from benchmark.games.columns import (
    ATTACK,
    FAILED,
    HANDED_IN,
    WORKED,
    Column,
    Row,
    Unit,
    attack_label,
)
from benchmark.games.frames import Chapter, Frame, Grid, Line, Plot, Sources
from benchmark.games.inversion.contests import (
    Contest,
    best_of,
    contests,
    largest,
    selected,
    success,
    target_auc,
    target_found,
    values_of,
)
from benchmark.games.inversion.record import InversionRecord
from benchmark.games.inversion.shown import HOW, PICTURES, pictures, verdict
from benchmark.games.inversion.worst import worst_cases
from benchmark.games.means import (
    attack_columns,
    attack_key,
    grouped,
    judged,
    mean_columns,
    seconds_of,
    unplayed,
)
from benchmark.papers import inverted


def _groups(records: Iterable[InversionRecord]) -> list[list[InversionRecord]]:
    """Records of one attack and inverter, which rested on the same denoiser."""
    groups = grouped(
        records,
        lambda one: (
            *attack_key(one),
            one.defense.stages[0].label,
            one.defense.stages[0].version,
            tuple(sorted(one.uses.items())),
        ),
    )
    return [group for _, group in groups]


def _common(group: Sequence[InversionRecord], sources: Sources) -> dict[str, Any]:
    inverter = sources.name(group[0].defense.stages[0])
    columns = attack_columns(group[0], sources.name)
    return columns | {"inverter": inverter, "models": len(group)}


def inversions(sources: Sources) -> pd.DataFrame:
    """One row per attack and inverter, means over start images and models."""
    rows = []
    for group in _groups(sources.counted(InversionRecord)):
        first = group[0]
        row = _common(group, sources) | {
            "starts": len(first.starts),
            "configurations": sum(not tried.restart for tried in first.tried),
            "runs": len(first.tried),
            "failed": unplayed(group),
            **sources.handed_in(group),
            "scale": fmean(record.scale or 0.0 for record in group),
            "asr_published": inverted(first.attack.name, first.defense.stages[0].name),
        }
        for end, restarts in (("", False), ("_restarts", True)):
            for name, reading in (("best", best_of), ("selected", selected)):
                rates = [rate for one in group for rate in reading(one, restarts=restarts)]
                row |= mean_columns(f"asr_{name}{end}", rates)
        row |= mean_columns("asr_clean_model", values_of(group, "on_clean_model"))
        row |= mean_columns("reasr", values_of(group, "reasr"))
        for name in ("norm", "overlap", "distance"):
            known = values_of(group, name)
            row[name] = fmean(known) if known else float("nan")
        row |= _identified([contests(record, record.swept) for record in group])
        rows.append(row | {"seconds": seconds_of(group)})
    return judged(pd.DataFrame(rows), sources.frames["victims"])


def _identified(found: Sequence[Sequence[Contest]]) -> dict[str, float]:
    """Whether the target is the class whose triggers work best; one entry per model."""
    return mean_columns("target_found", map(target_found, found)) | {
        "target_auc": fmean(map(target_auc, found))
    }


def radii(sources: Sources) -> pd.DataFrame:
    """One row per attack, inverter and radius: the target beside the normal classes (Fig. 8).

    The radius `epsilon` is NaN for an inverter that has none.
    """
    rows = []
    for group in _groups(sources.of(InversionRecord)):
        for number, level in enumerate(group[0].swept):
            found = [contests(record, [record.swept[number]]) for record in group]
            every = [one for model in found for one in model]
            normal = [rate for _, others in every for rate in others]
            radius = float("nan") if level.radius is None else level.radius
            rows.append(
                _common(group, sources)
                | {"starts": len(level.classes), "epsilon": radius}
                | mean_columns("asr_target", [own for own, _ in every])
                | mean_columns("asr_normal", normal)
                | mean_columns("asr_largest", [largest(others) for _, others in every])
                | _identified(found)
            )
    return pd.DataFrame(rows)


def configurations(sources: Sources) -> pd.DataFrame:
    """One row per attack, inverter and configuration, without restarts (C3)."""
    rows = []
    for group in _groups(sources.of(InversionRecord)):
        common = _common(group, sources)
        for number, tried in enumerate(group[0].tried):
            if not tried.restart:
                found = [
                    success(record, record.tried[number], start)
                    for record in group
                    for start in range(len(record.starts))
                ]
                # In this order, so that a parameter named like a column does not replace it.
                rows.append(common | tried.params | common | mean_columns("asr", found))
    return pd.DataFrame(rows)


def smoothed(sources: Sources) -> pd.DataFrame:
    """One row per attack, inverter and noise level: what its smoothed classifier answers."""
    rows = []
    for group in _groups(sources.of(InversionRecord)):
        for number, level in enumerate(group[0].smoothed):
            row = _common(group, sources) | {"sigma": level.sigma}
            for part in ("clean", "asr", "untriggered"):
                row |= mean_columns(part, (getattr(r.smoothed[number], part) for r in group))
            rows.append(row)
    return pd.DataFrame(rows)


INVERSIONS = """\
How well reversed triggers work, and what they are like. Where the true trigger covers more than
half of the image, ReASR and overlap say nothing: a dash. A low number is good for the attacker.

"Published" is the best in Tab. 2 of Sun and Kolter, of ImageNet at 224 pixels, ten start images,
400 steps and N = 40: the order of inverters compares, rates do not."""

RADII = """\
Triggers reversed for every class, at radii that are the same for every attack (Fig. 8 of Sun and
Kolter). A backdoor shows where the target's ASR is far above those of the normal classes, which are
all but the target and the start image's own."""

SMOOTHED = """\
The smoothed classifier that is inverted (Tab. 5 of Sun and Kolter). Where it calls untriggered
images the target, ASR says nothing about the trigger."""

_WHO = (
    *ATTACK,
    Column("inverter", "inverter", Unit.TEXT, "the inverter", brief=True, menu=True,
           names="defender"),
    Column("models", "models", Unit.COUNT, "backdoored models"),
)  # fmt: skip
_STARTS = Column("starts", "starts", Unit.COUNT, "start images of each model")


def _rate(key: str, title: str, doc: str, **options: Any) -> Column:
    return Column(key, title, Unit.RATE, doc, interval=True, **options)


_FOUND = (
    _rate("target_found", "target found", "start images for which the target's trigger works "
          "better than that of every competing class; the interval is over models", brief=True),
    Column("target_auc", "AUC of the target", Unit.AREA,
           "chance that the target's trigger works better than one of a competing class"),
)  # fmt: skip

COLUMNS = (
    *_WHO,
    WORKED,
    FAILED,
    *HANDED_IN,
    _STARTS,
    Column("configurations", "configurations", Unit.COUNT, "settings that were tried"),
    Column("runs", "runs", Unit.COUNT, "the same with restarts"),
    _rate("asr_selected", "selected", "ASR of the configuration that worked best on other images",
          brief=True, favours="defender"),
    _rate("asr_best", "best", "ASR of the configuration that is best on the reported images",
          brief=True, favours="defender"),
    Column("asr_published", "published", Unit.RATE, "the best in Tab. 2 of Sun and Kolter"),
    _rate("asr_selected_restarts", "selected with restarts", "the same over all runs"),
    _rate("asr_best_restarts", "best with restarts", "the same over all runs"),
    _rate("asr_clean_model", "on the clean model", "what selected triggers do to a model without "
          "the backdoor", brief=True, favours="attacker"),
    _rate("reasr", "ReASR", "ASR on the pixels that the true trigger changes only"),
    Column("norm", "norm", Unit.AREA, "L2 norm of what the trigger changes on the start image, in "
           "units of the true trigger's"),
    Column("overlap", "overlap", Unit.AREA, "intersection over union of the pixels that the true "
           "trigger changes with at most as many that the reversed one changes most"),
    Column("distance", "distance", Unit.AREA, "L2 distance of the inverted to the truly triggered "
           "start image, in units of the true trigger's norm; about 1 for an untouched image"),
    *_FOUND,
    Column("scale", "scale", Unit.NUMBER, "L2 norm of what the true trigger changes", hidden=True),
    Column("seconds", "seconds", Unit.SECONDS, "of one cell"),
)  # fmt: skip


def _series(row: Row) -> str:
    """An inverter, at its radius where it has one."""
    radius = row.get("epsilon")
    return str(row["inverter"]) + ("" if pd.isna(radius) else f", ε={radius:g}")


CHAPTER = Chapter(
    "Inversion",
    (
        Frame(
            "inversions", "Inverters", INVERSIONS, inversions, COLUMNS,
            grid=Grid(
                "ASR of reversed triggers in percent, attacks down and inverters across",
                "inverter",
                (("selected", "asr_selected"), ("best", "asr_best"),
                 ("on the clean model", "asr_clean_model")),
            ),
        ),
        Frame(
            "radii", "All classes over the radius", RADII, radii,
            (
                *_WHO, _STARTS,
                Column("epsilon", "ε", Unit.NUMBER, "radius; none for an inverter without one",
                       brief=True),
                _rate("asr_target", "ASR, target", "of the trigger for the target", brief=True),
                _rate("asr_normal", "normal classes, mean", "ASR of their triggers", brief=True),
                _rate("asr_largest", "normal classes, largest", "the largest ASR of their triggers",
                      brief=True),
                *_FOUND,
            ),
            plot=Plot(
                "epsilon", attack_label,
                (Line("asr_target", "target"), Line("asr_largest", "largest normal class", ":")),
                ("radius ε", "ASR on other images"), "ASR over the radius", itemgetter("inverter"),
                even=True,
            ),
            readme=False,
        ),
        Frame(
            "configurations", "Configurations",
            "Every configuration of an inverter by itself, without restarts.", configurations,
            (*_WHO, _rate("asr", "ASR", "of all start images", brief=True)),
            rest="this parameter of the configuration",
            plot=Plot(
                "sigma", attack_label, (Line("asr", ""),), 
                ("σ of the inverter", "ASR on other images"), "ASR over the noise level", _series,
            ),
            readme=False,
        ),
        Frame(
            "smoothed", "Smoothed classifiers", SMOOTHED, smoothed,
            (
                *_WHO,
                Column("sigma", "σ", Unit.NUMBER, "noise level", brief=True),
                _rate("clean", "accuracy", "on clean test images", brief=True),
                _rate("asr", "ASR", "of the true trigger", brief=True),
                _rate("untriggered", "target, untriggered",
                      "target answers to untriggered images of other classes", brief=True),
            ),
            plot=Plot(
                "sigma", attack_label,
                (Line("clean", "accuracy"), Line("asr", "ASR", "--"),
                 Line("untriggered", "untriggered", ":")),
                ("σ of the smoothed classifier", "share of test images"), "Smoothed classifiers",
                itemgetter("inverter"),
            ),
            readme=False,
        ),
    ),
    HOW, InversionRecord, worst_cases, verdict=verdict, gallery=("Pictures", PICTURES),
    pictures=pictures,
)  # fmt: skip
