"""Pure functions from predictions to rates, and from curves to budgeted results.

Predictions are integer arrays; `REJECTED` marks an input that the deployed model refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import scipy  # whose parts are loaded when they are first used
from numpy.typing import NDArray
from pydantic_core import core_schema

if TYPE_CHECKING:
    from torch import Tensor

Labels = NDArray[np.integer]
#: Labels or masks, as one array or the other.
Array = TypeVar("Array", NDArray[Any], "Tensor")
Scores = NDArray[np.floating]

REJECTED = -1
#: A backdoor counts as repaired at or below this ASR (Pick your Poison, Sec. V).
REPAIRED = 0.05


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

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """In a record: `hits`, `total`, and `value`, which is null where nothing was counted."""
        count = core_schema.typed_dict_field(core_schema.int_schema(ge=0))
        share = core_schema.nullable_schema(core_schema.float_schema(allow_inf_nan=False))
        written = core_schema.no_info_after_validator_function(
            cls._agreeing,
            core_schema.typed_dict_schema(
                {
                    "hits": count,
                    "total": count,
                    "value": core_schema.typed_dict_field(share),
                },
                extra_behavior="forbid",
            ),
        )
        return core_schema.json_or_python_schema(
            json_schema=written,
            python_schema=core_schema.union_schema(
                [core_schema.is_instance_schema(cls), written], mode="left_to_right"
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(cls._written),
        )

    @classmethod
    def _agreeing(cls, counts: dict[str, Any]) -> Rate:
        hits, total, value = counts["hits"], counts["total"], counts["value"]
        if hits > total or value != (hits / total if total else None):
            raise ValueError(f"{value} is not {hits} of {total}")
        return cls(hits, total)

    def _written(self) -> dict[str, Any]:
        return {"hits": self.hits, "total": self.total, "value": self.value if self.total else None}


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
    """Whether a model's accuracy cannot be told from always answering the commonest class.

    Who makes no mistake has not guessed, unless that happens to a guess in 2.5 % of all cases.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if right.hits == right.total and np.prod((counts / len(labels)) ** counts) <= 0.025:
        return False
    return right.interval()[0] <= float(counts.max()) / len(labels)


def held_out_count(images: int, share: float) -> int:
    """How many of so many images are held out: a share, but one on each side at least."""
    return min(max(1, round(share * images)), images - 1)


def target_class(seed: int, classes: int) -> int:
    """The class that repetition `seed` attacks: targets take turns."""
    return seed % classes


def source_class(offset: int | None, target: int, classes: int) -> int | None:
    """The class (target + offset) mod K of a source-specific attack; None for None."""
    return None if offset is None else (target + offset) % classes


def attacked(labels: Array, target: int, source: int | None = None) -> Array:
    """Which images the ASR counts, bool (N,): all but the target's, or a source class's alone."""
    counted: Array = labels != target if source is None else labels == source
    return counted


def changeable(labels: Array, target: int, source: int | None, clean_label: bool) -> Array:
    """Which training images an attack may change, bool (N,): the target's own or those attacked."""
    own: Array = labels == target
    return own if clean_label else attacked(labels, target, source)


def attack_success(
    predictions: Labels, labels: Labels, target: int, source: int | None = None
) -> Rate:
    """ASR: share of target predictions among triggered images of all other classes (C1).

    Of an attack from a source class, among triggered images of that class.
    """
    counted = attacked(labels, target, source)
    return Rate(int(np.sum(predictions[counted] == target)), int(np.sum(counted)))


def attack_success_in_game(
    predictions: Labels, labels: Labels, target: int, source: int | None = None
) -> float:
    """ASR as Alg. 1 of Pick your Poison prints it, at most one minus the target's share.

    Accuracy of `predictions` on triggered images against the target, minus the same
    accuracy of the true labels; NaN without images. An attack from a source class plays it with
    images of that class.
    """
    if source is not None:
        predictions, labels = predictions[labels == source], labels[labels == source]
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
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    size = (positives + negatives) / 2 - 1

    def excess(t: float) -> float:
        spread = 1 + size * ((1 - t) / (2 - t) + t / (1 + t))
        return (auc - t) ** 2 - z**2 * t * (1 - t) * spread / (positives * negatives)

    # At 0 and 1 the estimate itself solves the equation too; the other solution is wanted.
    aside = 1e-9
    low = 0.0 if auc <= aside else float(scipy.optimize.brentq(excess, 0.0, auc - aside))
    high = 1.0 if auc >= 1 - aside else float(scipy.optimize.brentq(excess, auc + aside, 1.0))
    return low, high


def mean_interval(rates: Sequence[Rate]) -> tuple[float, float, float]:
    """Mean of the rates of repetitions with a 95 % interval: (mean, low, high).

    The interval is the wider of two: Wilson over the pooled counts, which knows about
    images, and Student's t over repetitions (from two on), which knows about seeds.
    """
    values = [rate.value for rate in rates]
    mean = float(np.mean(values))
    pooled = Rate(sum(r.hits for r in rates), sum(r.total for r in rates))
    low, high = pooled.interval()
    if len(values) > 1:
        half = half_width(values)
        low, high = min(low, mean - half), max(high, mean + half)
    return mean, max(low, 0.0), min(high, 1.0)


def half_width(values: Sequence[float] | Scores, confidence: float = 0.95) -> float:
    """Half of Student's interval for the mean of at least two values."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return t_critical(len(values), confidence) * error


def t_critical(count: int, confidence: float = 0.95) -> float:
    """How many standard errors Student's interval reaches to each side, from `count` values."""
    # Without scipy.stats, whose import takes longer than a small board.
    return float(scipy.special.stdtrit(count - 1, (1 + confidence) / 2))
