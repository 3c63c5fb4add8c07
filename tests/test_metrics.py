"""Rates, attack success and budgets against literal counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import metrics
from benchmark.metrics import REJECTED, Rate

Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
# Two-sided 95 % quantiles of Student's t from the usual table, by degrees of freedom.
STUDENT = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445}


def wilson(hits: int, total: int, z: float = Z) -> tuple[float, float]:
    """Wilson 1927, the closed form."""
    share = hits / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (centre - half) / scale, (centre + half) / scale


@settings(deadline=None)
@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_wilsons(counts: tuple[int, int]) -> None:
    assert Rate(*counts).interval() == pytest.approx(wilson(*counts), abs=1e-9)


def test_interval_at_another_confidence() -> None:
    assert Rate(37, 120).interval(0.99) == pytest.approx(wilson(37, 120, 2.5758293035489))


def test_a_rate_of_nothing_says_nothing() -> None:
    assert math.isnan(Rate(0, 0).value)
    assert Rate(0, 0).interval() == (0.0, 1.0)


CLASSES = 5
pairs = st.lists(
    st.tuples(st.integers(REJECTED, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1
)
targets = st.integers(0, CLASSES - 1)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = zip(*pairs, strict=True)
    return np.array(predictions, np.int16), np.array(labels, np.int16)


@settings(deadline=None)
@given(pairs)
def test_accuracy_counts_rejections_as_wrong(pairs: list[tuple[int, int]]) -> None:
    right = 0
    for prediction, label in pairs:
        if prediction == label:
            right += 1
    assert metrics.accuracy(*arrays(pairs)) == (right, len(pairs))


@settings(deadline=None)
@given(pairs, targets)
def test_attack_success_leaves_out_images_of_the_target(
    pairs: list[tuple[int, int]], target: int
) -> None:
    hits = total = 0
    for prediction, label in pairs:
        if label == target:
            continue
        total += 1
        if prediction == target:
            hits += 1
    assert metrics.attack_success(*arrays(pairs), target) == (hits, total)


@given(pairs, targets, st.integers(1, 4))
def test_an_attack_from_one_class_is_counted_on_its_images(
    pairs: list[tuple[int, int]], target: int, offset: int
) -> None:
    source = metrics.source_class(offset, target, 5)
    assert source in (target + offset, target + offset - 5)
    own = [prediction for prediction, label in pairs if label == source]
    wanted = (own.count(target), len(own))
    assert metrics.attack_success(*arrays(pairs), target, source) == wanted
    in_game = metrics.attack_success_in_game(*arrays(pairs), target, source)
    assert np.isnan(in_game) if not own else in_game == wanted[0] / wanted[1]


@settings(deadline=None)
@given(pairs, targets)
def test_attack_success_in_game_is_the_listing(pairs: list[tuple[int, int]], target: int) -> None:
    """Acc(B(D), y_t; model) - Acc(B(D), y_t; O), and METHODS 1.1's (1-pi)a - pi(1-c)."""
    found = metrics.attack_success_in_game(*arrays(pairs), target)

    by_model = by_oracle = 0
    for prediction, label in pairs:
        by_model += prediction == target
        by_oracle += label == target
    assert found == pytest.approx((by_model - by_oracle) / len(pairs), abs=1e-12)

    of_target = [prediction for prediction, label in pairs if label == target]
    others = [prediction for prediction, label in pairs if label != target]
    pi = len(of_target) / len(pairs)
    a = others.count(target) / len(others) if others else 0.0
    c = of_target.count(target) / len(of_target) if of_target else 0.0
    assert found == pytest.approx((1 - pi) * a - pi * (1 - c), abs=1e-12)
    assert found <= 1 - pi + 1e-12


def test_a_perfect_attack_scores_one_and_ninety_percent_in_the_game() -> None:
    """C1: the table prints 1.00 where the listing's value on ten even classes is 0.9."""
    labels = np.repeat(np.arange(10), 7)
    predictions = np.zeros(70, int)
    assert metrics.attack_success(predictions, labels, 0).value == 1.0
    assert metrics.attack_success_in_game(predictions, labels, 0) == pytest.approx(0.9)


def test_repaired_is_five_percent() -> None:
    assert metrics.REPAIRED == 0.05


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_mean_interval_is_the_wider_of_wilson_and_student(hits: list[int]) -> None:
    rates = [Rate(count, 40) for count in hits]
    values = [count / 40 for count in hits]
    mean = sum(values) / len(values)
    low, high = wilson(sum(hits), 40 * len(hits))
    if len(hits) > 1:
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        half = STUDENT[len(hits) - 1] * math.sqrt(variance / len(values))
        low, high = min(low, mean - half), max(high, mean + half)
    expected = (mean, max(low, 0.0), min(high, 1.0))
    assert metrics.mean_interval(rates) == pytest.approx(expected, abs=1e-6)


def test_mean_interval_weighs_repetitions_alike() -> None:
    """The mean runs over repetitions, not over their pooled images."""
    assert metrics.mean_interval([Rate(0, 10), Rate(90, 90)])[0] == pytest.approx(0.5)
