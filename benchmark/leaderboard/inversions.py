"""Data frames of the inversion game: inverters, configurations, radii, smoothed classifiers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from benchmark import metrics
from benchmark.games.inversion.record import Swept, Tried
from benchmark.leaderboard.published import inverted
from benchmark.leaderboard.rows import Reversed
from benchmark.leaderboard.tables import Namer, attack_columns, mean_columns
from benchmark.metrics import Rate


def success(record: Reversed, tried: Tried, start: int) -> metrics.Rate:
    """ASR of one run from one start image on the evaluation images."""
    return metrics.Rate(tried.evaluation[start], record.evaluation)


def best_of(record: Reversed, *, restarts: bool) -> list[metrics.Rate]:
    """The paper's reading: per start image the highest ASR of all runs, an oracle."""
    runs = [tried for tried in record.tried if restarts or not tried.restart]
    return [
        max((success(record, tried, start) for tried in runs), key=lambda rate: rate.hits)
        for start in range(len(record.starts))
    ]


def selected(record: Reversed, *, restarts: bool) -> list[metrics.Rate]:
    """Per start image the ASR of the run that works best on the selection images.

    Of equals it is the first.
    """
    runs = [tried for tried in record.tried if restarts or not tried.restart]
    return [
        success(record, max(runs, key=lambda tried: tried.selection[start]), start)
        for start in range(len(record.starts))
    ]


#: Success of the target's trigger, and that of its competitors', from one start image.
Contest = tuple[metrics.Rate, list[metrics.Rate]]


def contests(record: Reversed, levels: Sequence[Swept]) -> list[Contest]:
    """Per start image the contest at these radii; every class has the best of its triggers.

    The image's own class is no competitor, since there was nothing to reverse for it; of two
    classes there is none then, and no contest.
    """
    found = []
    for row in range(len(levels[0].classes)):
        tried = zip(*(level.classes[row] for level in levels), strict=True)
        best = {label: _largest(rate for rate in rates) for label, rates in enumerate(tried)}
        own = best.pop(record.target)
        best.pop(record.starts[row].label)
        found += [(own, list(best.values()))] if best else []
    return found


def target_found(found: Sequence[Contest]) -> metrics.Rate:
    """Start images for which the target's trigger works better than every competitor's."""
    hits = sum(own.value > _largest(others).value for own, others in found)
    return metrics.Rate(hits, len(found))


def target_auc(found: Sequence[Contest]) -> float:
    """Chance that the target's trigger works better than a competitor's; ties count half."""
    pairs = [(own.value, rate.value) for own, others in found for rate in others]
    wins = [float(own > rate) + 0.5 * (own == rate) for own, rate in pairs]
    return fmean(wins) if wins else float("nan")


def _largest(rates: Iterable[metrics.Rate]) -> metrics.Rate:
    return max(rates, key=lambda rate: rate.value)


def _groups(records: Sequence[Reversed]) -> list[list[Reversed]]:
    """Measured records of one attack and inverter, which rested on the same denoiser."""
    groups: defaultdict[tuple[Any, ...], list[Reversed]] = defaultdict(list)
    for record in records:
        attack, inverter = record.attack, record.defense.stages[0]
        used = tuple(sorted(record.uses.items()))
        key = (attack.label, attack.m, attack.boost, inverter.label, inverter.version, used)
        groups[(record.recipe, *key)].append(record)
    return [groups[key] for key in sorted(groups)]


def _all(
    group: Iterable[Reversed], rates: Callable[[Reversed], Iterable[metrics.Rate]]
) -> list[metrics.Rate]:
    return [rate for record in group for rate in rates(record)]


def _known(group: Iterable[Reversed], name: str) -> list[Any]:
    """What is told of all start images, where it says something."""
    found = [getattr(start, name) for record in group for start in record.starts]
    return [value for value in found if value is not None]


def _rates(group: Iterable[Reversed], name: str) -> list[metrics.Rate]:
    return list(_known(group, name))


def _mean(group: Iterable[Reversed], name: str) -> float:
    found = _known(group, name)
    return fmean(found) if found else float("nan")


def _common(group: Sequence[Reversed], name: Namer) -> dict[str, Any]:
    inverter = group[0].defense.stages[0]
    return attack_columns(group[0], name) | {"inverter": name(inverter), "models": len(group)}


def inversions(records: Sequence[Reversed], name: Namer) -> pd.DataFrame:
    """One row per attack and inverter, means over start images and models."""
    rows = []
    for group in _groups(records):
        first = group[0]
        configurations = sum(not tried.restart for tried in first.tried)
        rows.append(
            _common(group, name)
            | {
                "starts": len(first.starts),
                "configurations": configurations,
                "runs": len(first.tried),
                "scale": fmean(record.scale for record in group),
                "asr_published": inverted(first.attack.name, first.defense.stages[0].name),
            }
            | mean_columns("asr_best", _all(group, lambda r: best_of(r, restarts=False)))
            | mean_columns("asr_selected", _all(group, lambda r: selected(r, restarts=False)))
            | mean_columns("asr_best_restarts", _all(group, lambda r: best_of(r, restarts=True)))
            | mean_columns(
                "asr_selected_restarts", _all(group, lambda r: selected(r, restarts=True))
            )
            | mean_columns("asr_clean_model", _rates(group, "on_clean_model"))
            | mean_columns("reasr", _rates(group, "reasr"))
            | {name: _mean(group, name) for name in ("norm", "overlap", "distance")}
            | _identified([contests(record, record.swept) for record in group])
            | {"seconds": fmean(record.seconds for record in group)}
        )
    return pd.DataFrame(rows)


def _identified(found: Sequence[Sequence[Contest]]) -> dict[str, float]:
    """Whether the target is the class whose triggers work best; one entry per model."""
    return mean_columns("target_found", map(target_found, found)) | {
        "target_auc": fmean(map(target_auc, found))
    }


def radii(records: Sequence[Reversed], name: Namer) -> pd.DataFrame:
    """One row per attack, inverter and radius: the target beside the normal classes (Fig. 8).

    The radius `epsilon` is NaN for an inverter that has none.
    """
    rows = []
    for group in _groups(records):
        for number, level in enumerate(group[0].swept):
            found = [contests(record, [record.swept[number]]) for record in group]
            every = [one for model in found for one in model]
            normal = [rate for _, others in every for rate in others]
            rows.append(
                _common(group, name)
                | {
                    "starts": len(level.classes),
                    "epsilon": float("nan") if level.radius is None else level.radius,
                }
                | mean_columns("asr_target", [own for own, _ in every])
                | mean_columns("asr_normal", normal)
                | mean_columns("asr_largest", [_largest(others) for _, others in every])
                | _identified(found)
            )
    return pd.DataFrame(rows)


def configurations(records: Sequence[Reversed], name: Namer) -> pd.DataFrame:
    """One row per attack, inverter and configuration, without restarts (C3)."""
    rows = []
    for group in _groups(records):
        common = _common(group, name)
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


def smoothed(records: Sequence[Reversed], name: Namer) -> pd.DataFrame:
    """One row per attack, inverter and noise level: what its smoothed classifier answers."""
    rows = []
    for group in _groups(records):
        for number, level in enumerate(group[0].smoothed):
            levels = [record.smoothed[number] for record in group]

            def columns(part: str, levels: list[Any] = levels) -> dict[str, float]:
                rates: list[Rate] = [getattr(found, part) for found in levels]
                return mean_columns(part, list(rates))

            rows.append(
                _common(group, name)
                | {"sigma": level.sigma}
                | columns("clean")
                | columns("asr")
                | columns("untriggered")
            )
    return pd.DataFrame(rows)
