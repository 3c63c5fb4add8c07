"""A ranking that does not depend on who else enters: attacks against defenders as one game."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linprog

from benchmark.leaderboard.fronts import (
    attack_labels,
    defender_label,
    scored,
    that_worked,
)

Vector = NDArray[np.float64]
#: Payoffs closer than this are the same.
DIGITS = 9


@dataclass(frozen=True)
class Side:
    """One player's strategies.

    Attributes:
        weights: how often an equilibrium plays each; they are at least 0 and sum to 1.
        scores: payoff of each against the opponent's equilibria.
    """

    weights: Vector
    scores: Vector


@dataclass(frozen=True)
class Equilibrium:
    """Of a zero-sum game: what the row player gets, and both sides."""

    value: float
    rows: Side
    columns: Side


def nash(payoff: NDArray[np.floating[Any]]) -> Equilibrium:
    """Equilibrium of a zero-sum game, by linear programs (Balduzzi et al. 2018).

    A game may have many equilibria, and a solver's choice would be arbitrary. A strategy's
    score is its payoff in that equilibrium of the opponent that suits it least: what it is sure
    of, whichever the opponent plays. Scores are therefore unique. A strategy scores the value
    of the game if and only if some equilibrium plays it (Goldman and Tucker 1956); others score
    worse. To clone a strategy of either side, or to add one that is nowhere better than a mix
    of those there, changes no score of the others: the opponent is held to nothing new, and
    own side can do nothing new that would be worse for anybody.

    Weights are those of the most even equilibrium: the smallest weight is as large as possible,
    then the next one, and so on. Strategies with the same payoffs share theirs equally.

    Args:
        payoff: (N, M), finite, of row i against column j; rows maximise it, columns minimise it.
    """
    low, spread = float(payoff.min()), float(np.ptp(payoff)) or 1.0
    # In [0, 1], as absolute tolerances of the solver want it, and every strategy once.
    once, row, rows = np.unique(
        (payoff - low) / spread, axis=0, return_inverse=True, return_counts=True
    )
    once, column, columns = np.unique(once, axis=1, return_inverse=True, return_counts=True)
    value = _value(once)
    return Equilibrium(
        low + spread * value,
        Side((_weights(once, value) / rows)[row], low + spread * _scores(once, value)[row]),
        Side(
            (_weights(-once.T, -value) / columns)[column],
            low - spread * _scores(-once.T, -value)[column],
        ),
    )


def _value(payoff: Vector) -> float:
    """Largest payoff that a mix of rows is sure of."""
    rows, columns = payoff.shape
    found = _minimum(
        np.r_[np.zeros(rows), -1.0], np.c_[-payoff.T, np.ones(columns)], np.zeros(columns), rows
    )
    return -float(found.fun)


def _scores(payoff: Vector, value: float) -> Vector:
    """Lowest payoff of each row over the mixes of columns that hold all rows to the value."""
    rows, columns = payoff.shape
    limit = np.full(rows, value)
    found = np.array([_minimum(own, payoff, limit, columns).fun for own in payoff])
    # A solver's rounding must not leave the range, nor leave a zero with a sign.
    clipped: Vector = np.clip(found, payoff.min(axis=1), payoff.max(axis=1)) + 0.0
    return clipped


def _weights(payoff: Vector, value: float) -> Vector:
    """The most even mix of rows that is sure of the value."""
    rows, columns = payoff.shape
    floor, free = np.zeros(rows), np.ones(rows, bool)
    while free.any():
        # Weights of free rows are at least t, which is maximised.
        found = _minimum(
            np.r_[np.zeros(rows), -1.0],
            np.r_[np.c_[-payoff.T, np.zeros(columns)], np.c_[-np.eye(rows), free]],
            np.r_[np.full(columns, -value), -floor],
            rows,
        )
        # Who has a price has exactly t in every solution; prices sum to 1, so somebody has.
        price = np.where(free, -found.ineqlin.marginals[columns:], 0)
        fixed = price >= price.max() / 2
        floor[fixed] = max(0.0, found.x[-1])
        free &= ~fixed
    weights: Vector = floor / floor.sum()
    return weights


def _minimum(cost: Vector, matrix: Vector, limit: Vector, weights: int) -> Any:
    """Minimise over a mix of so many weights, and over a free variable where there is one more."""
    others = len(cost) - weights
    found = linprog(
        cost,
        matrix,
        limit,
        np.array([[1.0] * weights + [0.0] * others]),
        np.ones(1),
        [(0, None)] * weights + [(None, None)] * others,
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.status:
        raise ArithmeticError(f"the solver found no equilibrium: {found.message}")
    return found


def complete(matrix: pd.DataFrame) -> pd.DataFrame:
    """The part of a matrix without gaps that keeps many cells.

    Greedy: the k columns with fewest gaps and the rows that are whole in them, or the other way
    round, for the k that keeps most.
    """
    there = matrix.notna()
    best = matrix.iloc[:0]
    for axis in (0, 1):
        own = there if axis == 0 else there.T
        columns = own.sum().sort_index().sort_values(ascending=False, kind="stable").index
        for count in range(1, len(columns) + 1):
            kept = own[columns[:count]]
            kept = kept[kept.all(axis=1)]
            if kept.size > best.size:
                names = (kept.index, kept.columns)
                rows, found = names if axis == 0 else names[::-1]
                best = matrix.loc[matrix.index.isin(rows), matrix.columns.isin(found)]
    return best


def ranking(repairs: pd.DataFrame, detectability: pd.DataFrame) -> pd.DataFrame:
    """Both games of a board as zero-sum games between attackers and defenders.

    The payoff is the remaining ASR (the paper's reading) in the robustness game, 1 - AUC in the
    detectability game. Attacks that never worked are left out, see `fronts.that_worked`.

    Args:
        repairs, detectability: as for `fronts.defense_points`.

    Returns:
        One row per game and player, best first: `side` ("attacker" or "defender"), `player`,
        equilibrium `weight`, `score` (a payoff: attackers want it high, defenders low), `rank`,
        plain `mean` of the payoffs and `plain_rank`. Players who did not meet everyone may be
        left out of the matrix: they come last, without numbers.
    """
    parts = [
        _players("robustness", _matrix(that_worked(repairs), "defense")),
        _players("detectability", _matrix(that_worked(scored(detectability)), "detector")),
    ]
    columns = ["game", "side", "player", "weight", "score", "rank", "mean", "plain_rank"]
    rows = pd.DataFrame([row for part in parts for row in part], columns=columns)
    return rows.astype({"rank": "Int64", "plain_rank": "Int64"})


def _matrix(frame: pd.DataFrame, defender: str) -> pd.DataFrame:
    """Payoffs, attacks down, defenders across; NaN where nothing was played."""
    if frame.empty:
        return pd.DataFrame()
    players = map(defender_label, frame[defender], frame.trusted_share)
    payoff = frame.asr_paper if defender == "defense" else 1 - frame.auc
    return pd.DataFrame(
        {"attack": attack_labels(frame), "defender": [*players], "payoff": payoff.to_numpy()}
    ).pivot(index="attack", columns="defender", values="payoff")


def _players(game: str, matrix: pd.DataFrame) -> list[dict[str, Any]]:
    kept = complete(matrix)
    if kept.empty:
        return []
    found = nash(kept.to_numpy())
    rows = []
    for side, names, everyone, own, means, better in (
        ("attacker", kept.index, matrix.index, found.rows, kept.mean(axis=1), -1),
        ("defender", kept.columns, matrix.columns, found.columns, kept.mean(axis=0), 1),
    ):
        frame = pd.DataFrame({"player": names, "weight": own.weights, "score": own.scores})
        frame["mean"] = means.to_numpy()
        for rank, column in (("rank", "score"), ("plain_rank", "mean")):
            frame[rank] = (better * frame[column]).round(DIGITS).rank(method="min").astype(int)
        frame = frame.sort_values(["rank", "plain_rank", "player"])
        left_out = [{"player": name} for name in everyone if name not in names]
        common = {"game": game, "side": side}
        rows += [common | row for row in [*frame.to_dict("records"), *left_out]]
    return rows
