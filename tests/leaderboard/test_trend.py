"""Whether more poisoned images are found more easily: rows of sweeps, of whole repetitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import examined, frames_of
from scipy import stats

from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.games.detectability.trend import rank_correlations, trend
from benchmark.records.record import Record

SCORES = {
    # m: the score of the poisoned model of each repetition
    5: [0.1, 0.2, 0.9],
    50: [0.5, 0.1, 0.5],
    4500: [0.8, 0.6, 0.1],
}


def sweep(scores: dict[int, list[float]], attack: str = "badnets") -> list[Record]:
    return [
        examined(attack, "finder", seed, [[score, -1.0]], m=m, target=0)
        for m, row in scores.items()
        for seed, score in enumerate(row)
    ]


CLEAN = [examined("none", "finder", seed, [[0.0, 0.0]], m=0, target=0) for seed in range(3)]


def test_each_repetition_has_its_own_order() -> None:
    frame = frames_of([*CLEAN, *sweep(SCORES)])["trend"]
    score, printed = (frame[frame.reading == reading].iloc[0] for reading in ("score", "printed"))
    assert (score.attack, score.images, score.repetitions) == ("badnets", "5, 50, 4500", 3)
    # By hand: 1, 1 - 6 * 2 / (3 * 8) = 0.5, -1.
    assert score.rank_correlation == pytest.approx((1 + 0.5 - 1) / 3)
    assert score.rank_correlation_low == pytest.approx(-1)
    # "printed" is the score with its sign turned.
    assert printed.rank_correlation == pytest.approx(-score.rank_correlation)
    # Products of centred ranks are 2, 1, 1, -1, -1 or -2, each as likely; these sum to 2 + 1 - 2.
    sums = [sum(row) for row in itertools.product((2, 1, 1, -1, -1, -2), repeat=3)]
    assert score.p_value == pytest.approx(np.mean([one >= 1 for one in sums]))
    assert printed.p_value == pytest.approx(np.mean([one >= -1 for one in sums]))


def test_a_repetition_that_lacks_a_number_is_left_out() -> None:
    fewer = {**SCORES, 50: SCORES[50][:2]}
    row = frames_of([*CLEAN, *sweep(fewer)])["trend"].iloc[0]
    assert row.repetitions == 2
    assert row.rank_correlation == pytest.approx(0.75)


def test_a_reading_that_some_models_lack_has_no_row() -> None:
    for place in (0, -1):
        found = sweep(SCORES)
        one = found[place]
        assert isinstance(one, DetectabilityRecord)
        scans = tuple(scan.model_copy(update={"also": {}}) for scan in one.scans)
        found[place] = one.model_copy(update={"scans": scans})
        assert list(frames_of([*CLEAN, *found])["trend"].reading) == ["score"]


def test_one_number_is_no_sweep() -> None:
    records = [*CLEAN, *sweep({50: SCORES[50]}), *sweep({5: SCORES[5]}, "blend")]
    assert frames_of(records)["trend"].empty


def test_attacks_of_another_boost_are_another_sweep() -> None:
    # What 4,500 images do without boosting says nothing about fewer ones with it.
    few, many = sweep({5: SCORES[5], 50: SCORES[50]}), sweep({4500: SCORES[4500]})
    boosted = [
        one.model_copy(update={"attack": one.attack.model_copy(update={"boost": 12})})
        for one in few
    ]
    frame = frames_of([*CLEAN, *boosted, *many])["trend"]
    assert set(zip(frame.boost, frame.images, strict=True)) == {(12, "5, 50")}


SWEEPS = st.tuples(st.integers(1, 6), st.integers(2, 6)).flatmap(
    lambda shape: st.tuples(
        st.lists(st.integers(0, 9), min_size=shape[1], max_size=shape[1]),
        st.lists(
            st.lists(st.integers(-3, 3), min_size=shape[1], max_size=shape[1]),
            min_size=shape[0],
            max_size=shape[0],
        ),
    )
)


@given(sweep=SWEEPS)
@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_trend_is_spearmans_correlation_in_each_repetition(
    sweep: tuple[list[int], list[list[int]]],
) -> None:
    numbers, scores = sweep
    found = rank_correlations(np.array(numbers), np.array(scores))
    expected = [stats.spearmanr(numbers, row).statistic for row in scores]
    assert found == pytest.approx(np.nan_to_num(expected))


@pytest.mark.parametrize(("repetitions", "settings"), [(3, 3), (10, 4), (2, 5)])
def test_the_p_value_of_a_trend_is_that_of_pages_test(repetitions: int, settings: int) -> None:
    rng = np.random.default_rng(repetitions)
    # Without ties, of which scipy's test knows none.
    scores = rng.permuted(np.tile(np.arange(settings), (repetitions, 1)), axis=1)
    page = stats.page_trend_test(scores, ranked=False, method="exact")
    assert trend(np.arange(settings), scores).p_value == pytest.approx(page.pvalue)


def test_many_settings_are_judged_by_the_normal_approximation() -> None:
    rng = np.random.default_rng(1)
    scores = rng.permuted(np.tile(np.arange(12), (10, 1)), axis=1)
    page = stats.page_trend_test(scores, ranked=False, method="asymptotic")
    assert trend(np.arange(12), scores).p_value == pytest.approx(page.pvalue)
    assert trend(np.arange(12), np.ones((10, 12))).p_value == 1


@given(rises=st.integers(0, 10))
def test_the_p_value_between_two_numbers_is_that_of_coins(rises: int) -> None:
    scores = np.array([[0.0, 1.0]] * rises + [[1.0, 0.0]] * (10 - rises))
    expected = stats.binom.sf(rises - 1, 10, 0.5)
    assert trend(np.array([5, 50]), scores).p_value == pytest.approx(expected)


def test_an_examination_that_failed_has_a_rank_and_equal_scores_say_nothing() -> None:
    numbers, scores = np.array([5, 50, 4500]), np.array([[-np.inf, 0.1, 0.2], [1.0] * 3])
    assert rank_correlations(numbers, scores).tolist() == [1, 0]
    # One of the six orders, whatever the second row.
    assert trend(numbers, scores).p_value == pytest.approx(1 / 6)


def test_the_interval_of_a_trend_is_the_wider_of_students_and_wilsons() -> None:
    numbers = np.array([1, 2])
    same = trend(numbers, np.tile([0.0, 1.0], (10, 1)))
    # All ten in order: the interval is that of a coin that fell on one side ten times.
    assert (same.correlation, same.high) == (1, 1)
    low = stats.binomtest(10, 10).proportion_ci(method="wilson").low
    assert same.low == pytest.approx(2 * low - 1)
    mixed = trend(numbers, np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
    half = float(stats.t.ppf(0.975, 2) * stats.sem([1, 1, -1]))
    assert mixed.low == pytest.approx(max(-1, 1 / 3 - half))
    assert mixed.high == 1
    alone = trend(numbers, np.array([[0.0, 1.0]]))
    low = stats.binomtest(1, 1).proportion_ci(method="wilson").low
    assert (alone.low, alone.high) == (pytest.approx(2 * low - 1), 1)
