"""Whether models of more poisoned images are found more easily (Pick your Poison, Fig. 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from benchmark import metrics
from benchmark.games.columns import BOOST, RECIPE, TRUSTED, Column, Unit
from benchmark.games.detectability.classes import DETECTOR, populations, readings
from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.games.detectability.shown import SCORE
from benchmark.games.frames import Frame, Sources
from benchmark.games.means import attack_key, defense_key

#: More settings have too many orders to go through.
EXACT = 7
#: A poisoned model's record by repetition.
Models = Mapping[int, DetectabilityRecord]


@dataclass(frozen=True)
class Trend:
    """Whether scores rise with a number that the experiment sets.

    Attributes:
        correlation: Spearman's, the mean over repetitions, with its 95 % interval.
        p_value: one-sided, of Page's trend test (JASA 1963); exact up to `EXACT` settings, by the
            normal approximation above.
    """

    correlation: float
    low: float
    high: float
    p_value: float


def trend(numbers: metrics.Scores, scores: metrics.Scores) -> Trend:
    """The trend of scores (N, k) of N repetitions over k settings, which are not all alike.

    The interval is the wider of two: Student's over repetitions, and Wilson's, which does not
    vanish where all agree, as if each repetition were wholly in order or in reverse.
    """
    found = rank_correlations(numbers, scores)
    mean, half = float(found.mean()), metrics.half_width(found) if len(found) > 1 else 0.0
    low, high = (2 * bound - 1 for bound in metrics.wilson((1 + mean) / 2, len(found)))
    return Trend(
        mean,
        max(min(low, mean - half), -1.0),
        min(max(high, mean + half), 1.0),
        _p_value(_centred_ranks(numbers[None])[0], _centred_ranks(scores)),
    )


def _p_value(numbers: metrics.Scores, ranks: metrics.Scores) -> float:
    """How often the ranks (N, k), each row shuffled, have as large products with (k,) as these."""
    if len(numbers) > EXACT:
        # Shuffled products have the mean 0 and this variance, whatever the ranks.
        variance = float((ranks**2).sum() * (numbers**2).sum()) / (len(numbers) - 1)
        own = float((ranks @ numbers).sum())
        return NormalDist().cdf(-own / variance**0.5) if variance else 1.0
    # Of the sum of products: of each repetition by all orders, of all together by convolution.
    # Centred ranks are halves, so that four times a product is a whole number.
    orders = np.array([*permutations(range(len(numbers)))])
    spread, reached = np.ones(1), 0
    for row in ranks:
        values = np.rint(4 * row[orders] @ numbers).astype(int)
        low = int(values.min())
        spread = np.convolve(spread, np.bincount(values - low) / len(values))
        reached += round(4 * float(row @ numbers)) - low
    return min(float(spread[reached:].sum()), 1.0)


def rank_correlations(numbers: metrics.Scores, scores: metrics.Scores) -> metrics.Scores:
    """Spearman's correlation of `numbers` (k,) with each row (N, k); 0 where it is all alike."""
    x, y = _centred_ranks(numbers[None]), _centred_ranks(scores)
    spread = np.sqrt((x**2).sum() * (y**2).sum(1))
    return np.asarray(np.divide((x * y).sum(1), spread, out=np.zeros(len(y)), where=spread > 0))


def _centred_ranks(rows: metrics.Scores) -> metrics.Scores:
    """Ranks within each row less their mean; ties share one. Infinite scores have ranks, too."""
    one, other = rows[:, :, None], rows[:, None]
    return np.asarray(((one > other) - 1.0 * (one < other)).sum(2) / 2)


def trends(sources: Sources) -> pd.DataFrame:
    """One row per attack that was played with several m, detector and reading of its scores."""
    sweeps: defaultdict[tuple[Any, ...], list[tuple[int, Models]]] = defaultdict(list)
    for pairs in populations(sources.counted(DetectabilityRecord)):
        first = pairs[0][1]
        poisoned = {record.seed: record for _, record in pairs}
        recipe, attack, m, boost = attack_key(first)
        sweeps[recipe, attack, boost, *defense_key(first)].append((m, poisoned))
    rows = []
    for sweep in sweeps.values():
        numbers = [m for m, _ in sweep]
        seeds = sorted(set.intersection(*(set(models) for _, models in sweep)))
        if len(set(numbers)) < 2 or not seeds:
            continue
        first = sweep[0][1][seeds[0]]
        common = {
            "attack": sources.name(first.attack),
            "boost": first.attack.boost,
            "recipe": first.protocol.recipe,
            "images": ", ".join(map(str, numbers)),
            "detector": sources.name(first.defense.stages[0]),
            "trusted_share": first.trusted_share,
            "repetitions": len(seeds),
        }
        for reading in (SCORE, *readings(models[seed] for _, models in sweep for seed in seeds)):
            scores = [[_mean(models[seed], reading) for _, models in sweep] for seed in seeds]
            found = trend(np.array(numbers), np.array(scores))
            own = {
                "reading": reading,
                "rank_correlation": found.correlation,
                "rank_correlation_low": found.low,
                "rank_correlation_high": found.high,
                "p_value": found.p_value,
            }
            rows.append(common | own)
    return pd.DataFrame(rows)


def _mean(record: DetectabilityRecord, reading: str) -> float:
    scans = record.scans
    return float(np.mean([one.score if reading == SCORE else one.also[reading] for one in scans]))


TRENDS = """\
Of attacks that were played with several numbers m of poisoned images: Spearman's rank correlation
of m with the score of the poisoned model, in each repetition, and its mean. 1: more poisoned images
are always found more easily; 0: m does not matter; -1: they are found less easily. A repetition has
the same target for every m."""

FRAME = Frame(
    "trend",
    "Whether more poisoned images are found more easily",
    TRENDS,
    trends,
    (
        Column("attack", "attack", Unit.TEXT, "the attack", brief=True, menu=True),
        replace(BOOST, brief=True),
        RECIPE,
        Column("images", "m", Unit.TEXT, "numbers of poisoned images that were played", brief=True),
        replace(DETECTOR, menu=False),
        TRUSTED,
        Column("reading", "reading", Unit.TEXT, "which score of the examination", brief=True),
        Column("repetitions", "repetitions", Unit.COUNT, "models of each m"),
        Column("rank_correlation", "rank correlation", Unit.NUMBER, "Spearman's, of m and the "
               "score, the mean over repetitions", interval=True, brief=True, digits=2),
        Column("p_value", "p", Unit.NUMBER, "one-sided p-value of Page's trend test: how often "
               "the mean would be as large if m did not matter", brief=True, digits=-2),
    ),
    readme=False,
)  # fmt: skip
