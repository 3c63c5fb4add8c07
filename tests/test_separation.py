"""How well scores separate models: against scikit-learn, loops and Newcombe's own equation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmark.metrics import auc_interval, separation

Table = NDArray[np.floating[Any]]
FEW = 60  # resamples, where the bootstrap is not the point


@st.composite
def populations(draw: st.DrawFn, least: int = 1) -> tuple[Table, Table]:
    """Scores (N, R) of clean and of poisoned models, with many ties."""
    shape = (draw(st.integers(least, 12)), draw(st.integers(1, 4)))
    own = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels, shift = draw(st.sampled_from([2, 5, 1000])), draw(st.integers(-2, 2))
    clean = own.integers(0, levels, shape).astype(float)
    return clean, own.integers(0, levels, shape) + float(shift)


def truth_of(models: int) -> list[int]:
    return [0] * models + [1] * models


@settings(deadline=None, max_examples=150)
@given(populations())
def test_auc_and_precision_are_scikit_learns_averaged_over_repeats(
    scores: tuple[Table, Table],
) -> None:
    clean, poisoned = scores
    found = separation(clean, poisoned, 0, FEW)
    aucs, precisions = [], []
    for repeat in range(clean.shape[1]):
        both = np.r_[clean[:, repeat], poisoned[:, repeat]]
        aucs.append(roc_auc_score(truth_of(len(clean)), both))
        precisions.append(average_precision_score(truth_of(len(clean)), both))
    assert found.auc == pytest.approx(np.mean(aucs), abs=1e-9)
    assert found.precision == pytest.approx(np.mean(precisions), abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(populations())
def test_auc_counts_the_pairs_that_are_in_order(scores: tuple[Table, Table]) -> None:
    """The probability that a poisoned model scores above a clean one, ties counting half."""
    clean, poisoned = scores
    wins = pairs = 0.0
    for repeat in range(clean.shape[1]):
        for low in clean[:, repeat]:
            for high in poisoned[:, repeat]:
                wins += 1.0 if high > low else 0.5 if high == low else 0.0
                pairs += 1
    assert separation(clean, poisoned, 0, FEW).auc == pytest.approx(wins / pairs, abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(populations(), st.integers(0, 2**31))
def test_the_interval_holds_the_auc(scores: tuple[Table, Table], seed: int) -> None:
    found = separation(*scores, seed, FEW)
    assert 0 <= found.low <= found.auc <= found.high <= 1
    assert found.low < found.high
    assert 0 <= found.precision_low <= found.precision <= found.precision_high <= 1
    assert found.precision_low < found.precision_high


@settings(deadline=None, max_examples=60)
@given(populations())
def test_only_the_order_of_scores_matters(scores: tuple[Table, Table]) -> None:
    clean, poisoned = scores
    found = separation(clean, poisoned, 3, FEW)
    for grow in (lambda x: x / 7 - 3, np.arctan, lambda x: x**3):
        assert separation(grow(clean), grow(poisoned), 3, FEW) == found
    negative = separation(-clean, -poisoned, 3, FEW)
    assert negative.auc == pytest.approx(1 - found.auc, abs=1e-12)
    assert negative.low == pytest.approx(1 - found.high, abs=1e-9)
    assert negative.high == pytest.approx(1 - found.low, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(populations(), st.randoms(use_true_random=False))
def test_neither_names_nor_pairing_of_models_matter_to_auc_and_precision(
    scores: tuple[Table, Table], shuffler: Any
) -> None:
    clean, poisoned = scores
    found = separation(clean, poisoned, 0, FEW)
    order, other = list(range(len(clean))), list(range(len(clean)))
    shuffler.shuffle(order), shuffler.shuffle(other)
    for again in (
        separation(clean[order], poisoned[order], 0, FEW),
        separation(clean[order], poisoned[other], 0, FEW),
    ):
        assert again.auc == pytest.approx(found.auc, abs=1e-12)
        assert again.precision == pytest.approx(found.precision, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(populations(), st.integers(0, 2**31))
def test_the_interval_follows_its_seed(scores: tuple[Table, Table], seed: int) -> None:
    assert separation(*scores, seed, FEW) == separation(*scores, seed, FEW)


# The bootstrap.


@settings(deadline=None, max_examples=12)
@given(populations(least=2), st.integers(0, 2**31))
def test_the_bootstrap_draws_pairs_of_models_with_all_their_repeats(
    scores: tuple[Table, Table], seed: int
) -> None:
    """Every resample by scikit-learn on the rows drawn; the score interval may be wider."""
    clean, poisoned = scores
    models, repeats = clean.shape
    own = np.random.default_rng(seed)
    aucs, precisions = [], []
    for rows in own.integers(models, size=(20, models)):
        drawn = [np.r_[clean[rows, r], poisoned[rows, r]] for r in range(repeats)]
        truth = truth_of(models)
        aucs.append(np.mean([roc_auc_score(truth, both) for both in drawn]))
        precisions.append(np.mean([average_precision_score(truth, both) for both in drawn]))
    low, high = np.quantile(aucs, [0.025, 0.975])
    found = separation(clean, poisoned, seed, 20)
    score_low, score_high = auc_interval(found.auc, models, models)
    assert found.low == pytest.approx(min(low, score_low), abs=1e-9)
    assert found.high == pytest.approx(max(high, score_high), abs=1e-9)
    low, high = np.quantile(precisions, [0.025, 0.975])
    # Wilson's bounds are where |precision - t| = z sqrt(t (1 - t) / models).
    square = stats.norm.ppf(0.975) ** 2 / models
    equation = [1 + square, -2 * found.precision - square, found.precision**2]
    score_low, score_high = sorted(np.roots(equation).real)
    assert found.precision_low == pytest.approx(min(low, score_low), abs=1e-6)
    assert found.precision_high == pytest.approx(max(high, score_high), abs=1e-6)


def test_the_bootstrap_is_the_wider_one_where_repeats_or_few_models_decide() -> None:
    """Half of the models are found always, the others never: the score interval is narrower."""
    clean = np.zeros((40, 1))
    poisoned = np.r_[np.full((20, 1), 1.0), np.full((20, 1), -1.0)]
    found = separation(clean, poisoned, 0)
    low, high = auc_interval(found.auc, 40, 40)
    assert found.auc == 0.5
    # The mean of 40 fair coins: deviation 0.5 / sqrt(40), against Hanley and McNeil's 0.065.
    assert found.low == pytest.approx(0.5 - 1.96 * 0.5 / math.sqrt(40), abs=0.02)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.5 / math.sqrt(40), abs=0.02)
    assert found.low < low < high < found.high


@settings(deadline=None, max_examples=40)
@given(populations(least=2), st.integers(0, 2**31))
def test_twins_that_score_alike_are_resampled_together(
    scores: tuple[Table, Table], seed: int
) -> None:
    """If every poisoned model scores as its clean twin does, any resample of pairs has AUC 1/2.

    Drawn apart, the two sides would differ, and the bootstrap would be wider than that.
    """
    twins, _ = scores
    found = separation(twins, twins, seed, FEW)
    assert found.auc == pytest.approx(0.5, abs=1e-12)
    low, high = auc_interval(0.5, len(twins), len(twins))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("models", [1, 3, 10, 20])
def test_perfect_separation_is_still_uncertain(models: int) -> None:
    """Every resample has an AUC of one; what is left to doubt is how few models there are."""
    clean, poisoned = np.zeros((models, 3)), np.ones((models, 3))
    found = separation(clean, poisoned, 0)
    assert (found.auc, found.high, found.precision) == (1.0, 1.0, 1.0)
    assert 0 < found.low < 1
    missed = separation(poisoned, clean, 0)
    assert (missed.auc, missed.low) == (0.0, 0.0)
    assert missed.high == pytest.approx(1 - found.low, abs=1e-9)


# Newcombe's score interval.

aucs = st.floats(0, 1).map(lambda value: round(value, 6))
sizes = st.integers(1, 60)


def deviation(t: float, positives: int, negatives: int) -> float:
    """Hanley and McNeil 1982, with (m + n) / 2 for m - 1 and n - 1's m and n (method 5)."""
    half = (positives + negatives) / 2
    q1, q2 = t / (2 - t), 2 * t * t / (1 + t)
    variance = t * (1 - t) + (half - 1) * (q1 - t * t) + (half - 1) * (q2 - t * t)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


@settings(deadline=None, max_examples=200)
@given(aucs, sizes, sizes, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_ends_solve_newcombes_equation(
    auc: float, positives: int, negatives: int, confidence: float
) -> None:
    """|auc - t| = z * sd(t) at both ends, less of a distance inside, more outside."""
    low, high = auc_interval(auc, positives, negatives, confidence)
    z = stats.norm.isf((1 - confidence) / 2)
    assert 0 <= low <= auc <= high <= 1
    assert low < high
    for end in (low, high):
        assert abs(auc - end) == pytest.approx(z * deviation(end, positives, negatives), abs=1e-6)
    for share in (0.05, 0.5, 0.95):
        inside = low + share * (high - low)
        assert abs(auc - inside) < z * deviation(inside, positives, negatives)
        for outside in (share * low, high + share * (1 - high)):
            if low < outside < high or min(abs(outside - low), abs(outside - high)) < 1e-6:
                continue
            assert abs(auc - outside) > z * deviation(outside, positives, negatives)


@settings(deadline=None, max_examples=100)
@given(aucs, sizes, sizes)
def test_the_interval_treats_both_ends_and_both_sizes_alike(
    auc: float, positives: int, negatives: int
) -> None:
    low, high = auc_interval(auc, positives, negatives)
    assert auc_interval(auc, negatives, positives) == pytest.approx((low, high), abs=1e-9)
    assert auc_interval(1 - auc, positives, negatives) == pytest.approx(
        (1 - high, 1 - low), abs=1e-6
    )


@settings(deadline=None, max_examples=100)
@given(aucs, st.integers(1, 60), st.integers(1, 40))
def test_more_models_and_less_confidence_narrow_the_interval(
    auc: float, models: int, more: int
) -> None:
    low, high = auc_interval(auc, models, models)
    for inner_low, inner_high in (
        auc_interval(auc, models + more, models + more),
        auc_interval(auc, models, models, 0.8),
    ):
        assert low <= inner_low
        assert inner_high <= high
        assert inner_high - inner_low < high - low


@pytest.mark.parametrize("models", [1, 2, 10, 20, 1000])
def test_at_the_very_ends_the_interval_does_not_vanish(models: int) -> None:
    """At an AUC of one: (1 - t) = z^2 t (1 + (N - 1)((1 - t)/(2 - t) + t/(1 + t))) / N^2."""
    low, high = auc_interval(1.0, models, models)
    assert high == 1
    assert 0 < low < 1
    z = stats.norm.isf(0.025)
    spread = 1 + (models - 1) * ((1 - low) / (2 - low) + low / (1 + low))
    assert 1 - low == pytest.approx(z**2 * low * spread / models**2, rel=1e-6)
    assert auc_interval(0.0, models, models) == pytest.approx((0, 1 - low), abs=1e-9)


def test_one_pair_of_models_has_wilsons_interval() -> None:
    """For one model against one, the variance is that of a single coin."""
    found = stats.binomtest(1, 1).proportion_ci(0.95, method="wilson")
    assert auc_interval(1.0, 1, 1) == pytest.approx((found.low, found.high), abs=1e-9)
