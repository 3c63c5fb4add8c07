"""Rates, attack success and budgets against literal counting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import metrics
from benchmark.metrics import REJECTED, Point, Rate

Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


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


# The trade-off curve.

TEST, HELD_OUT = 150, 50


@st.composite
def curves(draw: st.DrawFn, stages: tuple[str, ...]) -> list[Point]:
    """A victim, then a few points of every stage; accuracies hover around a budget's edge."""
    base = 40
    points = [Point("victim", 0, Rate(base, HELD_OUT), 0, Rate(140, TEST), Rate(9, 9), 0.0)]
    for stage in stages:
        for step in range(draw(st.integers(1, 6))):
            lost = draw(st.integers(0, 12))
            gained = draw(st.integers(0, HELD_OUT - base))
            points.append(
                Point(
                    stage,
                    step,
                    held_out=Rate(base - lost + gained, HELD_OUT),
                    lost=lost,
                    cda=Rate(140 - draw(st.integers(-3, 15)), TEST),
                    asr=Rate(draw(st.integers(0, 9)), 9),
                    asr_game=0.0,
                )
            )
    return points


budgets = st.sampled_from(["0.01", "0.02", "0.04", "0.06", "0.1"])


def loss(first: Rate, now: Rate) -> Fraction:
    return Fraction(first.hits - now.hits, first.total)


def violates(first: Point, now: Point, budget: str) -> bool:
    """CDA < CDA_0 - Delta, in exact numbers."""
    return loss(first.cda, now.cda) > Fraction(budget)


def clearly_violates(first: Point, now: Point, budget: str) -> bool:
    """The loss minus 1.645 standard errors of the paired difference is above Delta."""
    change = loss(first.held_out, now.held_out)
    changed = 2 * now.lost - change * HELD_OUT
    return float(change) - 1.6448536 * math.sqrt(changed) / HELD_OUT > float(budget) + 1e-9


def kept_by_stages(
    points: Sequence[Point], left: Callable[[Point, Point, str], bool], budget: str
) -> list[Point]:
    """The first violation ends its own stage only."""
    kept: list[Point] = []
    for name in dict.fromkeys(point.stage for point in points):
        for point in [point for point in points if point.stage == name]:
            if left(points[0], point, budget):
                break
            kept.append(point)
    return kept


def check_readings(points: list[Point], budget: str) -> None:
    on_test = kept_by_stages(points, violates, budget)
    lowest = metrics.lowest_asr(points, float(budget))
    assert any(lowest is point for point in on_test)
    assert lowest.asr.hits == min(point.asr.hits for point in on_test)
    held_out = kept_by_stages(points, clearly_violates, budget)
    affordable = [p for p in held_out if loss(points[0].held_out, p.held_out) <= Fraction(budget)]
    assert metrics.deployable(points, float(budget)) is affordable[-1]
    over = [all(point is not points[-1] for point in kept) for kept in (on_test, held_out)]
    assert metrics.both_spent(points, float(budget)) == all(over)


@settings(max_examples=300, deadline=None)
@given(curves(("repair",)), budgets)
def test_one_stage_ends_at_its_first_violation(points: list[Point], budget: str) -> None:
    check_readings(points, budget)


@settings(max_examples=300, deadline=None)
@given(curves(("sanitize", "repair", "deploy")), budgets)
def test_a_violation_ends_only_its_stage(points: list[Point], budget: str) -> None:
    check_readings(points, budget)


@settings(deadline=None)
@given(curves(("repair",)), budgets)
def test_once_both_readings_are_spent_measuring_on_changes_nothing(
    points: list[Point], budget: str
) -> None:
    for stop in range(1, len(points)):
        if metrics.both_spent(points[:stop], float(budget)):
            for reading in (metrics.lowest_asr, metrics.deployable):
                assert reading(points[:stop], float(budget)) is reading(points, float(budget))


def point(step: int, held_out: Rate, lost: int, cda: Rate, asr: Rate) -> Point:
    return Point("repair" if step else "victim", step, held_out, lost, cda, asr, 0.0)


def test_a_loss_of_exactly_the_budget_is_affordable() -> None:
    """97 % to 95 % is, although 0.97 - 0.95 is above 0.02 in floating point."""
    assert 0.97 - 0.95 > 0.02
    for accuracies, last in (((97, 95), 1), ((97, 94), 0), ((97, 94, 97), 0)):
        points = [
            point(step, Rate(0, 0), 0, Rate(hits, 100), Rate(9 - step, 9))
            for step, hits in enumerate(accuracies)
        ]
        assert metrics.lowest_asr(points, 0.02).step == last


def test_a_loss_by_chance_is_not_picked_but_ends_nothing() -> None:
    """Of 100 held-out images 5 are lost and 2 won: 3 points, give or take 4.4."""
    base, later = Rate(90, 100), Rate(80, 80)
    noisy = point(50, Rate(87, 100), 5, later, Rate(5, 9))
    good = point(100, Rate(89, 100), 3, later, Rate(1, 9))
    clear = point(50, Rate(80, 100), 10, later, Rate(5, 9))
    start = point(0, base, 0, later, Rate(9, 9))
    assert metrics.deployable([start, noisy], 0.02) is start
    assert metrics.deployable([start, noisy, good], 0.02) is good
    assert metrics.deployable([start, clear, good], 0.02) is start


def test_without_held_out_images_a_defender_takes_what_comes_last() -> None:
    points = [point(step, Rate(0, 0), 0, Rate(9 - step, 9), Rate(9, 9)) for step in range(3)]
    assert metrics.deployable(points, 0.02) is points[-1]


def test_a_clean_model_pays_until_the_budget_is_spent() -> None:
    """Without a trigger there is no ASR; the paper's reading is the last point within budget."""
    right = [99, 98, 90]
    points = [
        point(step, Rate(0, 0), 0, Rate(hits, 100), Rate(0, 0)) for step, hits in enumerate(right)
    ]
    assert metrics.lowest_asr(points, 0.02) is points[1]


@pytest.mark.parametrize(
    ("hits", "labels", "near"),
    [
        (10, [0] * 50 + [1] * 50, True),
        (74, [0] * 50 + [1] * 50, False),
        (58, [0] * 50 + [1] * 50, True),
        (75, [0] * 70 + [1] * 30, True),
        (85, [0] * 70 + [1] * 30, False),
        (25, list(range(10)) * 10, False),
        (13, list(range(10)) * 10, True),
    ],
)
def test_near_chance_is_what_the_commonest_class_explains(
    hits: int, labels: list[int], near: bool
) -> None:
    """Half of two even classes is chance; 74 % is not, whatever a factor of 1.5 would say."""
    assert metrics.near_chance(Rate(hits, 100), np.array(labels)) == near


# Two-sided 95 % quantiles of Student's t from the usual table, by degrees of freedom.
STUDENT = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445}


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
