"""The normal-fit test of norms against simulation, published critical values and a planted norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Generator

from backdoor_defenses.neural_cleanse_additive import (
    AdditiveNeuralCleanse,
    NormalNeuralCleanse,
    smallest_p,
)
from benchmark.conformance import tiny


@pytest.mark.parametrize(
    ("count", "critical"), [(5, 1.672), (8, 2.032), (10, 2.176), (20, 2.557), (30, 2.745)]
)
def test_the_level_is_that_of_published_tables(count: int, critical: float) -> None:
    """One-sided critical values at 5 % (Grubbs and Beck 1972, Table I)."""
    norms = np.sort(np.random.default_rng(count).normal(size=count - 1))
    # Move the smallest away until it is as many deviations out as the table says.
    low, high = norms[0] - 100, norms[0]
    for _ in range(200):
        smallest = (low + high) / 2
        values = np.append(norms, smallest)
        lead = (values.mean() - smallest) / values.std(ddof=1)
        low, high = (smallest, high) if lead > critical else (low, smallest)
    assert smallest_p(torch.tensor(values)) == pytest.approx(0.05, abs=2e-3)


def test_norms_of_one_normal_are_flagged_as_often_as_the_level_says() -> None:
    draws = 50 + 9 * np.random.default_rng(0).normal(size=(4000, 10))
    rate = np.mean([smallest_p(torch.tensor(row)) < 0.05 for row in draws])
    assert rate == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 4000) ** 0.5)


def test_scale_and_place_do_not_matter_and_large_norms_are_no_backdoor() -> None:
    norms = torch.tensor([41.0, 62, 38, 62, 48, 45, 38, 68, 26, 72])  # LSP, Tab. L4, benign
    p = smallest_p(norms)
    assert smallest_p(3 * norms + 7) == pytest.approx(p)
    assert p > 0.05
    assert smallest_p(torch.tensor([10.0, 11, 12, 10.5, 11.5, 90])) > 0.5


def test_a_few_or_equal_norms_decide_nothing() -> None:
    assert smallest_p(torch.tensor([1.0, 9.0])) == 1
    assert smallest_p(torch.full((6,), 3.3)) == 1
    assert smallest_p(torch.tensor([0.5, 3.0, 3.0, 3.0])) == 0


def test_triggers_and_score_stay_those_of_the_additive_search() -> None:
    trusted = tiny.experiment().trusted(tiny.SHARE, 0)
    plain, tested = (
        kind(steps=4).detect(tiny.suspect(), trusted, Generator().manual_seed(1))
        for kind in (AdditiveNeuralCleanse, NormalNeuralCleanse)
    )
    assert plain.score == tested.score
    assert torch.equal(plain.class_scores, tested.class_scores)
    p = smallest_p(-plain.class_scores)
    assert (tested.flagged, tested.also) == (p < 0.05, {"outlier": 1 - p})
