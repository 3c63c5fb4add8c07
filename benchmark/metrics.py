"""Pure functions from predictions to rates, and from curves to budgeted results.

Predictions are integer arrays; `REJECTED` marks an input that the deployed model refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import scipy  # whose parts are loaded when they are first used
from numpy.typing import NDArray

Labels = NDArray[np.integer]
Scores = NDArray[np.floating]

REJECTED = -1
#: A backdoor counts as repaired at or below this ASR (Pick your Poison, Sec. V).
REPAIRED = 0.05
#: One-sided 95 %: by so many standard errors a loss is clearly above the budget.
CLEARLY = NormalDist().inv_cdf(0.95)


class Rate(NamedTuple):
    """A share of counted events."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else float("nan")

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson score interval."""
        return wilson(self.value, self.total, confidence) if self.total else (0.0, 1.0)


def wilson(share: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share of `total` events, in closed form."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return 0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half


def accuracy(predictions: Labels, labels: Labels) -> Rate:
    """Share of right answers (CDA on clean images); a rejected input is a wrong answer."""
    return Rate(int(np.sum(predictions == labels)), len(labels))


def near_chance(right: Rate, labels: Labels) -> bool:
    """Whether a model's accuracy cannot be told from always answering the commonest class."""
    commonest = float(np.bincount(labels).max()) / len(labels)
    return right.interval()[0] <= commonest


def attack_success(predictions: Labels, labels: Labels, target: int) -> Rate:
    """ASR: share of target predictions among triggered images of all other classes (C1)."""
    others = labels != target
    return Rate(int(np.sum(predictions[others] == target)), int(np.sum(others)))


def attack_success_in_game(predictions: Labels, labels: Labels, target: int) -> float:
    """ASR as Alg. 1 of Pick your Poison prints it, at most one minus the target's share.

    Accuracy of `predictions` on triggered images against the target, minus the same
    accuracy of the true labels; NaN without images.
    """
    if not len(labels):
        return float("nan")
    return float(np.mean(predictions == target) - np.mean(labels == target))


def guard_quality(clean: Scores, triggered: Scores) -> tuple[float, Rate]:
    """How well a guard tells triggered from clean inputs, whatever its threshold.

    Returns:
        ROC AUC of its scores, and the share of triggered inputs that pass at the threshold
        that rejects 1 % of the clean ones (FAR at 1 % FRR).
    """
    from sklearn.metrics import roc_auc_score  # it takes half a second, which few wait for

    truth = np.r_[np.zeros(len(clean)), np.ones(len(triggered))]
    auc = float(roc_auc_score(truth, np.r_[clean, triggered]))
    threshold = np.quantile(clean, 0.99, method="higher")
    return auc, Rate(int(np.sum(triggered <= threshold)), len(triggered))


@dataclass(frozen=True)
class Separation:
    """How well scores tell poisoned from clean models, whatever the threshold.

    Attributes:
        auc: ROC AUC, with `low` and `high` as its 95 % interval.
        precision: average precision, with its 95 % interval likewise.
    """

    auc: float
    low: float
    high: float
    precision: float
    precision_low: float
    precision_high: float


def separation(clean: Scores, poisoned: Scores, seed: int, resamples: int = 2000) -> Separation:
    """AUC and average precision of scores (N models, R repeats), averaged over the repeats.

    Row i of both belongs to the same pair of models. An interval is the wider of two: a
    bootstrap over pairs, which keeps the repeats of a model together, and one that does not
    vanish where models separate perfectly. That is Newcombe's score interval for N against N
    models for the AUC, and the binomial one for N models for the precision (Boyd, Eng and
    Page, ECML 2013), by Wilson's formula.
    """
    models = len(clean)
    higher = (poisoned[:, None] > clean[None]) + 0.5 * (poisoned[:, None] == clean[None])
    wins = higher.mean(2)  # (poisoned i, clean j), over repeats
    auc = float(wins.mean())
    draws = np.random.default_rng(seed).integers(models, size=(resamples, models))
    counts = (draws[:, :, None] == np.arange(models)).sum(1)
    sampled = np.einsum("bi,ij,bj->b", counts, wins, counts) / models**2
    low, high = np.quantile(sampled, [0.025, 0.975])
    score_low, score_high = auc_interval(auc, models, models)
    low, high = min(float(low), score_low), min(max(float(high), score_high), 1.0)
    precision = float(_average_precision(clean, poisoned, np.ones((1, models)))[0])
    sampled = _average_precision(clean, poisoned, counts)
    lows, highs = zip(np.quantile(sampled, [0.025, 0.975]), wilson(precision, models), strict=True)
    return Separation(auc, low, high, precision, float(min(lows)), float(max(highs)))


def _average_precision(clean: Scores, poisoned: Scores, counts: NDArray[Any]) -> NDArray[Any]:
    """Mean over poisoned models of the precision at the threshold that just finds them.

    Args:
        counts: (B, N), how often each pair of models is there.

    Returns:
        One mean over models and repeats for each row of `counts`.
    """
    models, repeats = poisoned.shape
    found = np.einsum("bj,jir->bir", counts, poisoned[:, None] >= poisoned[None], dtype=float)
    false = np.einsum("bj,jir->bir", counts, clean[:, None] >= poisoned[None], dtype=float)
    # A model that is not there may be found by none; its precision counts nothing.
    precision = found / np.maximum(found + false, 1)
    return np.asarray(np.einsum("bi,bir->b", counts, precision) / (models * repeats))


def auc_interval(
    auc: float, positives: int, negatives: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Score interval for a ROC AUC (Newcombe, Statistics in Medicine 2006, method 5).

    Solves |auc - t| = z * sd(t) with Hanley and McNeil's variance at t, with the mean of both
    sizes in place of each.
    """
    z = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    size = (positives + negatives) / 2 - 1

    def excess(t: float) -> float:
        spread = 1 + size * ((1 - t) / (2 - t) + t / (1 + t))
        return (auc - t) ** 2 - z**2 * t * (1 - t) * spread / (positives * negatives)

    # At 0 and 1 the estimate itself solves the equation too; the other solution is wanted.
    aside = 1e-9
    low = 0.0 if auc <= aside else float(scipy.optimize.brentq(excess, 0.0, auc - aside))
    high = 1.0 if auc >= 1 - aside else float(scipy.optimize.brentq(excess, auc + aside, 1.0))
    return low, high


@dataclass(frozen=True)
class Point:
    """One measurement on the trade-off curve, with the counts behind it.

    Attributes:
        held_out: right answers to the trusted images that the defender held out; of none where
            he trusts none.
        lost: how many of these the undefended victim answers rightly and this model wrongly.
        cda, asr: on test images, as they are and triggered.
    """

    stage: str
    step: int
    held_out: Rate
    lost: int
    cda: Rate
    asr: Rate
    asr_game: float


def _spent_on_test(base: Point, point: Point, budget: float) -> bool:
    """Whether accuracy on the test images fell by more than the budget."""
    # Compared in counts: 0.97 - 0.95 is more than 0.02 in floating point.
    return base.cda.hits - point.cda.hits > budget * base.cda.total + 1e-9


def _overspent(base: Point, point: Point, budget: float) -> bool:
    """Whether a defender sees, on his held-out images, more loss than the budget allows."""
    return base.held_out.hits - point.held_out.hits > budget * base.held_out.total + 1e-9


def clearly_spent(base: Point, point: Point, budget: float) -> bool:
    """The same beyond chance: the one-sided paired bound of the loss lies above the budget.

    Images are compared one by one: only those that exactly one of both models answers rightly
    tell the models apart, and their number is the variance of the difference.
    """
    change = base.held_out.hits - point.held_out.hits
    gained = point.lost - change
    error = CLEARLY * math.sqrt(point.lost + gained)
    return change - error > budget * base.held_out.total + 1e-9


def _until(
    points: Sequence[Point], budget: float, left: Callable[[Point, Point, float], bool]
) -> list[Point]:
    """Drop what comes, within its stage, after the budget was left; the next stage starts anew."""
    spent: set[str] = set()
    kept = []
    for point in points:
        if left(points[0], point, budget):
            spent.add(point.stage)
        if point.stage not in spent:
            kept.append(point)
    return kept


def lowest_asr(points: Sequence[Point], budget: float) -> Point:
    """The paper's reading: lowest ASR before accuracy on the test images leaves the budget.

    Without a trigger there is no ASR to lower; then it is the last point within the budget.
    """
    within = _until(points, budget, _spent_on_test)
    if not points[0].asr.total:
        return within[-1]
    return min(within, key=lambda point: point.asr.value)


def deployable(points: Sequence[Point], budget: float) -> Point:
    """What a defender can pick: the last point within the budget on his held-out images.

    A stage goes on until the loss is clearly above the budget; a point whose loss is above it
    by chance ends nothing, but is not picked either.
    """
    within = _until(points, budget, clearly_spent)
    return [point for point in within if not _overspent(points[0], point, budget)][-1]


def both_spent(points: Sequence[Point], budget: float) -> bool:
    """Whether the current stage can change neither reading any more."""
    return not any(
        _until(points, budget, left)[-1] is points[-1] for left in (_spent_on_test, clearly_spent)
    )


def held_out_count(trusted: int, share: float) -> int:
    """How many of a defender's trusted images judge: a share, but one for each side at least."""
    return min(max(1, round(share * trusted)), trusted - 1)


def mean_interval(rates: Sequence[Rate], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of the rates of repetitions with an interval: (mean, low, high).

    The interval is the wider of two: Wilson over the pooled counts, which knows about
    images, and Student's t over repetitions (from two on), which knows about seeds.
    """
    values = [rate.value for rate in rates]
    mean = float(np.mean(values))
    pooled = Rate(sum(r.hits for r in rates), sum(r.total for r in rates))
    low, high = pooled.interval(confidence)
    if len(values) > 1:
        t = float(scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1))
        half = t * float(scipy.stats.sem(values))
        low, high = min(low, mean - half), max(high, mean + half)
    return mean, max(low, 0.0), min(high, 1.0)
