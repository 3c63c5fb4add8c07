"""The equilibrium against exact enumeration, and what must not change a score."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmark.leaderboard.ranking import Equilibrium, complete, nash, ranking

CLOSE = {"abs": 1e-9, "rel": 1e-9}
Matrix = NDArray[np.float64]


@st.composite
def payoffs(draw: st.DrawFn, most: int = 4) -> Matrix:
    """Small matrices, most of them with many ties and so with many equilibria."""
    shape = (draw(st.integers(1, most)), draw(st.integers(1, most)))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))
    numbers = st.lists(
        st.integers(0, levels), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]
    )
    return np.array(draw(numbers), float).reshape(shape) / levels


def solved(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction] | None:
    """Gauss and Jordan; None for a singular system."""
    size = len(matrix)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = next((i for i in range(column, size) if rows[i][column]), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for i in range(size):
            if i != column:
                factor = rows[i][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[column], strict=True)]
    return [row[-1] for row in rows]


def corners(payoff: Matrix) -> tuple[Fraction, list[list[Fraction]]]:
    """The value, and all corners of the set of optimal mixes of columns.

    Literal and exact: whatever square part of the matrix equalises, if no row gets more.
    """
    exact = [[Fraction(value) for value in row] for row in payoff.tolist()]
    rows, columns = payoff.shape
    found: list[tuple[Fraction, list[Fraction]]] = []
    for size in range(1, min(rows, columns) + 1):
        for chosen in combinations(range(rows), size):
            for played in combinations(range(columns), size):
                system = [[exact[i][j] for j in played] + [Fraction(-1)] for i in chosen]
                system.append([Fraction(1)] * size + [Fraction(0)])
                answer = solved(system, [Fraction(0)] * size + [Fraction(1)])
                if answer is None or min(answer[:-1]) < 0:
                    continue
                mix = [Fraction(0)] * columns
                for j, weight in zip(played, answer, strict=False):
                    mix[j] = weight
                worst = max(sum(a * q for a, q in zip(row, mix, strict=True)) for row in exact)
                found.append((worst, mix))
    value = min(worst for worst, _ in found)
    return value, [mix for worst, mix in found if worst == value]


def scores_of_rows(payoff: Matrix) -> tuple[float, list[float]]:
    value, mixes = corners(payoff)
    exact = [[Fraction(entry) for entry in row] for row in payoff.tolist()]
    return float(value), [
        float(min(sum(a * q for a, q in zip(row, mix, strict=True)) for mix in mixes))
        for row in exact
    ]


@settings(deadline=None, max_examples=40)
@given(payoffs())
def test_value_and_scores_are_those_of_exact_enumeration(payoff: Matrix) -> None:
    found = nash(payoff)
    value, rows = scores_of_rows(payoff)
    minus, columns = scores_of_rows(-payoff.T)
    assert value == -minus  # the literal solver agrees with itself: max-min is min-max
    assert found.value == pytest.approx(value, **CLOSE)
    assert found.rows.scores == pytest.approx(rows, **CLOSE)
    assert found.columns.scores == pytest.approx([-score for score in columns], **CLOSE)


@settings(deadline=None, max_examples=40)
@given(payoffs(most=7))
def test_nobody_gains_by_deviating(payoff: Matrix) -> None:
    found = nash(payoff)
    p, q = found.rows.weights, found.columns.weights
    for weights in (p, q):
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)
    assert p @ payoff @ q == pytest.approx(found.value, **CLOSE)
    assert (payoff @ q).max() == pytest.approx(found.value, **CLOSE)
    assert (p @ payoff).min() == pytest.approx(found.value, **CLOSE)
    # Whoever is played scores the value, and nobody scores better.
    assert found.rows.scores[p > 1e-6] == pytest.approx(found.value, **CLOSE)
    assert found.columns.scores[q > 1e-6] == pytest.approx(found.value, **CLOSE)
    assert found.rows.scores.max() <= found.value + 1e-9
    assert found.columns.scores.min() >= found.value - 1e-9


@settings(deadline=None, max_examples=40)
@given(payoffs(most=6))
def test_who_scores_the_value_is_who_some_equilibrium_plays(payoff: Matrix) -> None:
    """Goldman and Tucker; the most even equilibrium plays all of them."""
    found = nash(payoff)
    for side in (found.rows, found.columns):
        assert ((side.weights > 1e-9) == (abs(side.scores - found.value) < 1e-9)).all()


def assert_same(one: Equilibrium, other: Equilibrium, rows: object, columns: object) -> None:
    """Scores of `one` are those of the chosen players of `other`."""
    assert other.value == pytest.approx(one.value, **CLOSE)
    assert other.rows.scores[rows] == pytest.approx(one.rows.scores, **CLOSE)  # type: ignore[index]
    assert other.columns.scores[columns] == pytest.approx(one.columns.scores, **CLOSE)  # type: ignore[index]


@settings(deadline=None, max_examples=40)
@given(payoffs(most=5), st.data())
def test_clones_change_no_score_and_share_a_weight(payoff: Matrix, data: st.DataObject) -> None:
    rows = np.repeat(np.arange(len(payoff)), [data.draw(st.integers(1, 4)) for _ in payoff])
    columns = np.repeat(
        np.arange(payoff.shape[1]), [data.draw(st.integers(1, 4)) for _ in payoff.T]
    )
    one, many = nash(payoff), nash(payoff[np.ix_(rows, columns)])
    assert_same(
        one, many, [list(rows).index(i) for i in range(len(payoff))],
        [list(columns).index(j) for j in range(payoff.shape[1])],
    )  # fmt: skip
    for side, clones, before in ((many.rows, rows, one.rows), (many.columns, columns, one.columns)):
        for clone in set(clones):
            assert side.scores[clones == clone] == pytest.approx(side.scores[clones == clone][0])
            own = side.weights[clones == clone]
            assert own == pytest.approx(own[0])
            table = payoff if side is many.rows else payoff.T
            same = (table == table[[clone]]).all(1)
            # Together they weigh what those of the same payoffs did.
            together = side.weights[np.isin(clones, np.flatnonzero(same))].sum()
            assert together == pytest.approx(before.weights[same].sum(), abs=1e-7)


@settings(deadline=None, max_examples=40)
@given(payoffs(most=5), st.integers(0, 2**32 - 1))
def test_who_is_no_better_than_a_mix_changes_no_score(payoff: Matrix, seed: int) -> None:
    own = np.random.default_rng(seed)
    one = nash(payoff)
    # Weights in quarters and losses in halves, so that many are on the very edge.
    row = own.multinomial(4, np.full(len(payoff), 1 / len(payoff))) / 4 @ payoff
    row = row - own.integers(0, 2, payoff.shape[1]) / 2
    assert_same(one, nash(np.vstack([payoff, row])), slice(-1), slice(None))
    column = payoff @ own.multinomial(4, np.full(payoff.shape[1], 1 / payoff.shape[1])) / 4
    column = column + own.integers(0, 2, len(payoff)) / 2
    assert_same(one, nash(np.c_[payoff, column]), slice(None), slice(-1))


@settings(deadline=None, max_examples=40)
@given(payoffs(most=5), st.integers(0, 2**32 - 1), st.floats(0.01, 1000), st.floats(-10, 10))
def test_order_unit_and_sides_do_not_matter(
    payoff: Matrix, seed: int, scale: float, shift: float
) -> None:
    own = np.random.default_rng(seed)
    one = nash(payoff)
    rows, columns = own.permutation(len(payoff)), own.permutation(payoff.shape[1])
    other = nash(payoff[np.ix_(rows, columns)])
    assert other.rows.weights == pytest.approx(one.rows.weights[rows], abs=1e-7)
    assert other.columns.weights == pytest.approx(one.columns.weights[columns], abs=1e-7)
    assert_same(one, other, np.argsort(rows), np.argsort(columns))
    scaled = nash(scale * payoff + shift)
    tolerance = 1e-9 * max(1, scale, abs(shift))
    assert scaled.value == pytest.approx(scale * one.value + shift, abs=tolerance)
    assert scaled.rows.scores == pytest.approx(scale * one.rows.scores + shift, abs=tolerance)
    turned = nash(-payoff.T)
    assert turned.value == pytest.approx(-one.value, **CLOSE)
    assert turned.rows.scores == pytest.approx(-one.columns.scores, **CLOSE)


def test_known_games() -> None:
    rock = nash(np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], float))
    assert rock.value == pytest.approx(0, abs=1e-12)
    for side in (rock.rows, rock.columns):
        assert side.weights == pytest.approx([1 / 3] * 3)
        assert side.scores == pytest.approx([0] * 3, abs=1e-12)
    pennies = nash(np.array([[1, -1], [-1, 1.0]]))
    assert (pennies.value, *pennies.rows.weights) == pytest.approx((0, 0.5, 0.5))
    # [[3, 0], [1, 2]]: p = (1/4, 3/4), q = (1/2, 1/2), value 3/2; a third row is dominated.
    found = nash(np.array([[3, 0], [1, 2], [0.5, 1]]))
    assert found.value == pytest.approx(1.5)
    assert found.rows.weights == pytest.approx([0.25, 0.75, 0])
    assert found.columns.weights == pytest.approx([0.5, 0.5])
    assert found.rows.scores == pytest.approx([1.5, 1.5, 0.75])


def test_a_mean_can_be_bought_with_clones_and_the_equilibrium_cannot() -> None:
    """Two attacks; defender 0 stops only the first, defender 1 only half of the second."""
    payoff = np.array([[0.0, 0.8], [0.9, 0.5]])
    flooded = np.vstack([np.repeat(payoff[:1], 20, axis=0), payoff[1:]])
    assert payoff.mean(0).argmin() == 0
    assert (payoff.mean(0)[0] - flooded.mean(0)[0]) > 0.3
    before, after = nash(payoff), nash(flooded)
    assert after.columns.scores == pytest.approx(before.columns.scores)
    assert after.columns.weights == pytest.approx(before.columns.weights)


def test_a_large_game_of_many_clones_is_solved() -> None:
    own = np.random.default_rng(0)
    payoff = own.integers(0, 5, (60, 40)) / 4
    found = nash(payoff)
    assert (payoff @ found.columns.weights).max() == pytest.approx(found.value, abs=1e-9)
    assert (found.rows.weights @ payoff).min() == pytest.approx(found.value, abs=1e-9)


def frame_of(rows: list[str]) -> pd.DataFrame:
    """A dot is a gap."""
    values = [[np.nan if cell == "." else float(cell) for cell in row] for row in rows]
    columns = [str(number) for number in range(len(rows[0]))]
    return pd.DataFrame(values, index=list("abcdefgh")[: len(rows)], columns=columns)


@pytest.mark.parametrize(
    ("rows", "kept", "shape"),
    [
        (["12", "34"], "ab", (2, 2)),
        (["1.", "34"], "ab", (2, 1)),
        (["1..", "2..", "3..", "412"], "abcd", (4, 1)),
        (["1234", "5..."], "a", (1, 4)),
        (["123.", "456.", "789.", ".1.2"], "abc", (3, 3)),
        (["1.1.", "1111", ".111"], "bc", (2, 3)),
        ([".", "."], "", (0, 1)),
    ],
)
def test_gaps_cost_few_cells(rows: list[str], kept: str, shape: tuple[int, int]) -> None:
    found = complete(frame_of(rows))
    assert found.notna().all(axis=None)
    assert (list(found.index), found.shape) == (list(kept), shape)


@settings(deadline=None, max_examples=40)
@given(payoffs(most=6), st.integers(0, 2**32 - 1))
def test_the_kept_part_is_whole_and_is_the_same_in_any_order(payoff: Matrix, seed: int) -> None:
    own = np.random.default_rng(seed)
    frame = pd.DataFrame(np.where(own.random(payoff.shape) < 0.3, np.nan, payoff))
    found = complete(frame)
    assert found.notna().all(axis=None)
    assert found.equals(frame.loc[found.index, found.columns])
    shuffled = frame.iloc[own.permutation(len(frame)), own.permutation(frame.shape[1])]
    other = complete(shuffled)
    assert {*other.index} == {*found.index}
    assert {*other.columns} == {*found.columns} or found.empty
    # At least as much as the best single row or column.
    assert found.size >= max(frame.notna().sum().max(), frame.notna().sum(axis=1).max())


def repairs(values: dict[tuple[str, str], float]) -> pd.DataFrame:
    common = {"threat": "code", "m": 1, "boost": 1, "recipe": "standard", "trusted_share": 0.1}
    return pd.DataFrame(
        [
            {"attack": attack, "defense": defense, "asr_paper": value, "worked": attack != "weak"}
            | common
            for (attack, defense), value in values.items()
        ]
    )


def test_the_frame_ranks_both_sides_and_lists_who_was_left_out() -> None:
    played = {("a", "x"): 0.0, ("a", "y"): 1.0, ("b", "x"): 1.0, ("b", "y"): 0.0}
    played |= {("c", "x"): 0.1, ("c", "y"): 0.1, ("weak", "x"): 0.0, ("weak", "y"): 0.0}
    frame = repairs(played | {("d", "x"): 0.9})
    found = ranking(frame, pd.DataFrame()).set_index("player")
    assert set(found.game) == {"robustness"}
    assert "weak (m=1)" not in found.index
    assert list(found.index[:4]) == ["a (m=1)", "b (m=1)", "c (m=1)", "d (m=1)"]
    assert list(found["rank"][:3]) == [1, 1, 3]
    assert list(found.weight[:3]) == pytest.approx([0.5, 0.5, 0])
    assert list(found.score[:3]) == pytest.approx([0.5, 0.5, 0.1])
    assert found.loc["d (m=1)", ["weight", "score", "rank", "mean"]].isna().all()
    defenders = found[found.side == "defender"]
    assert list(defenders.index) == ["x r=10%", "y r=10%"]
    assert list(defenders.score) == pytest.approx([0.5, 0.5])
    assert list(defenders["mean"]) == pytest.approx([1.1 / 3] * 2)


def test_the_detectability_game_pays_one_minus_auc() -> None:
    common = {"threat": "code", "m": 1, "boost": 1, "recipe": "standard", "trusted_share": 0.1}
    aucs = {("a", "x"): 0.9, ("a", "y"): 0.6, ("b", "x"): 0.8, ("b", "y"): 0.7}
    frame = pd.DataFrame(
        [
            {"attack": a, "detector": d, "auc": auc, "reading": reading, "worked": True} | common
            for (a, d), auc in aucs.items()
            for reading in ("score", "another")
        ]
    )
    found = ranking(pd.DataFrame(), frame).set_index("player")
    assert set(found.game) == {"detectability"}
    # x is better against both; against it b hides better.
    assert list(found.index) == ["b (m=1)", "a (m=1)", "x r=10%", "y r=10%"]
    assert list(found.score) == pytest.approx([0.2, 0.1, 0.2, 0.3])
    assert list(found["mean"]) == pytest.approx([0.25, 0.25, 0.15, 0.35])


def test_nothing_played_is_no_ranking() -> None:
    assert ranking(pd.DataFrame(), pd.DataFrame()).empty
