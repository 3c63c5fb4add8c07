"""The trade-off curve and what both readings take of it, against loops over its points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import metrics
from benchmark.games.robustness import curve as curves
from benchmark.games.robustness.curve import Point
from benchmark.metrics import Rate


def at(
    stage: Any, step: int, held_out: Rate, lost: int, cda: Rate, asr: Rate, asr_game: float = 0.0
) -> Point:
    return Point(
        stage=stage, step=step, held_out=held_out, lost=lost, cda=cda, asr=asr, asr_game=asr_game
    )


TEST, HELD_OUT = 150, 50


@st.composite
def any_curve(draw: st.DrawFn, stages: tuple[str, ...]) -> list[Point]:
    """A victim, then a few points of every stage; accuracies hover around a budget's edge."""
    base = 40
    points = [at("victim", 0, Rate(base, HELD_OUT), 0, Rate(140, TEST), Rate(9, 9))]
    for stage in stages:
        for step in range(draw(st.integers(1, 6))):
            lost = draw(st.integers(0, 12))
            gained = draw(st.integers(0, HELD_OUT - base))
            points.append(
                at(
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
    lowest = curves.lowest_asr(points, float(budget))
    assert any(lowest is point for point in on_test)
    assert lowest.asr.hits == min(point.asr.hits for point in on_test)
    held_out = kept_by_stages(points, clearly_violates, budget)
    affordable = [p for p in held_out if loss(points[0].held_out, p.held_out) <= Fraction(budget)]
    assert curves.deployable(points, float(budget)) is affordable[-1]
    over = [all(point is not points[-1] for point in kept) for kept in (on_test, held_out)]
    assert curves.both_spent(points, float(budget)) == all(over)


@settings(max_examples=300, deadline=None)
@given(any_curve(("repair",)), budgets)
def test_one_stage_ends_at_its_first_violation(points: list[Point], budget: str) -> None:
    check_readings(points, budget)


@settings(max_examples=300, deadline=None)
@given(any_curve(("sanitize", "repair", "deploy")), budgets)
def test_a_violation_ends_only_its_stage(points: list[Point], budget: str) -> None:
    check_readings(points, budget)


@settings(deadline=None)
@given(any_curve(("repair",)), budgets)
def test_once_both_readings_are_spent_measuring_on_changes_nothing(
    points: list[Point], budget: str
) -> None:
    for stop in range(1, len(points)):
        if curves.both_spent(points[:stop], float(budget)):
            for reading in (curves.lowest_asr, curves.deployable):
                assert reading(points[:stop], float(budget)) is reading(points, float(budget))


def point(step: int, held_out: Rate, lost: int, cda: Rate, asr: Rate) -> Point:
    return at("repair" if step else "victim", step, held_out, lost, cda, asr)


def test_a_loss_of_exactly_the_budget_is_affordable() -> None:
    """97 % to 95 % is, although 0.97 - 0.95 is above 0.02 in floating point."""
    assert 0.97 - 0.95 > 0.02
    for accuracies, last in (((97, 95), 1), ((97, 94), 0), ((97, 94, 97), 0)):
        points = [
            point(step, Rate(0, 0), 0, Rate(hits, 100), Rate(9 - step, 9))
            for step, hits in enumerate(accuracies)
        ]
        assert curves.lowest_asr(points, 0.02).step == last


def test_a_loss_by_chance_is_not_picked_but_ends_nothing() -> None:
    """Of 100 held-out images 5 are lost and 2 won: 3 points, give or take 4.4."""
    base, later = Rate(90, 100), Rate(80, 80)
    noisy = point(50, Rate(87, 100), 5, later, Rate(5, 9))
    good = point(100, Rate(89, 100), 3, later, Rate(1, 9))
    clear = point(50, Rate(80, 100), 10, later, Rate(5, 9))
    start = point(0, base, 0, later, Rate(9, 9))
    assert curves.deployable([start, noisy], 0.02) is start
    assert curves.deployable([start, noisy, good], 0.02) is good
    assert curves.deployable([start, clear, good], 0.02) is start


def test_without_held_out_images_a_defender_takes_what_comes_last() -> None:
    points = [point(step, Rate(0, 0), 0, Rate(9 - step, 9), Rate(9, 9)) for step in range(3)]
    assert curves.deployable(points, 0.02) is points[-1]


def test_a_clean_model_pays_until_the_budget_is_spent() -> None:
    """Without a trigger there is no ASR; the paper's reading is the last point within budget."""
    right = [99, 98, 90]
    points = [
        point(step, Rate(0, 0), 0, Rate(hits, 100), Rate(0, 0)) for step, hits in enumerate(right)
    ]
    assert curves.lowest_asr(points, 0.02) is points[1]


@pytest.mark.parametrize(
    ("hits", "labels", "near"),
    [
        (100, [0] * 98 + [1] * 2, False),
        (99, [0] * 98 + [1] * 2, True),
        (100, [0] * 100, True),
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
