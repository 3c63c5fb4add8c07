"""What of an inversion record counts: the best runs, and the target against other classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from benchmark import metrics
from benchmark.games.inversion.record import InversionRecord, Swept, Tried


def success(record: InversionRecord, tried: Tried, start: int) -> metrics.Rate:
    """ASR of one run from one start image on the evaluation images."""
    return metrics.Rate(tried.evaluation[start], record.evaluation)


def best_of(record: InversionRecord, *, restarts: bool) -> list[metrics.Rate]:
    """The paper's reading: per start image the highest ASR of all runs, an oracle."""
    runs = [tried for tried in record.tried if restarts or not tried.restart]
    return [
        max((success(record, tried, start) for tried in runs), key=lambda rate: rate.hits)
        for start in range(len(record.starts))
    ]


def selected(record: InversionRecord, *, restarts: bool) -> list[metrics.Rate]:
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


def contests(record: InversionRecord, levels: Sequence[Swept]) -> list[Contest]:
    """Per start image the contest at these radii; every class has the best of its triggers.

    The image's own class is no competitor, since there was nothing to reverse for it; of two
    classes there is none then, and no contest.
    """
    found = []
    for row in range(len(levels[0].classes)):
        tried = zip(*(level.classes[row] for level in levels), strict=True)
        best = {label: largest(rate for rate in rates) for label, rates in enumerate(tried)}
        own = best.pop(record.target)
        best.pop(record.starts[row].label)
        found += [(own, list(best.values()))] if best else []
    return found


def target_found(found: Sequence[Contest]) -> metrics.Rate:
    """Start images for which the target's trigger works better than every competitor's."""
    hits = sum(own.value > largest(others).value for own, others in found)
    return metrics.Rate(hits, len(found))


def target_auc(found: Sequence[Contest]) -> float:
    """Chance that the target's trigger works better than a competitor's; ties count half."""
    pairs = [(own.value, rate.value) for own, others in found for rate in others]
    wins = [float(own > rate) + 0.5 * (own == rate) for own, rate in pairs]
    return fmean(wins) if wins else float("nan")


def largest(rates: Iterable[metrics.Rate]) -> metrics.Rate:
    return max(rates, key=lambda rate: rate.value)


def values_of(group: Iterable[InversionRecord], name: str) -> list[Any]:
    """A field of all start images, without those where it is None."""
    found = [getattr(start, name) for record in group for start in record.starts]
    return [value for value in found if value is not None]
