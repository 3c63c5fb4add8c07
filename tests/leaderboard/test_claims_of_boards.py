"""What the committed Fashion-MNIST board of both games shows, and the papers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

BOARD = Path(__file__).parent.parent.parent / "leaderboards" / "fashion-mnist-v2"
BADNETS, SMOOTHED = "badnets", "lsp:base.side=0.15"
FIXED = "neural-cleanse-fixed"


@pytest.fixture(scope="module")
def detectors() -> pd.DataFrame:
    frame = pd.read_csv(BOARD / "detectability.csv")
    return frame[frame.reading == "score"]


def row(frame: pd.DataFrame, attack: str, m: int, detector: str) -> dict[str, Any]:
    chosen = frame[(frame.attack == attack) & (frame.m == m)]
    (found,) = chosen[chosen.detector == detector].to_dict("records")
    return dict(found)


def test_a_population_has_ten_models_of_each_kind_and_three_repetitions(
    detectors: pd.DataFrame,
) -> None:
    assert (detectors.models == 10).all()
    assert (detectors.repeats == 3).all()


def test_badnets_that_works_is_found_with_its_target(detectors: pd.DataFrame) -> None:
    found = row(detectors, BADNETS, 100, "neural-cleanse")
    assert found["auc"] >= 0.95
    assert found["target_found"] >= 0.9
    assert row(detectors, BADNETS, 100, "calibrated-trigger-inversion")["auc"] >= 0.9


def test_badnets_that_does_not_work_is_not_found(detectors: pd.DataFrame) -> None:
    found = row(detectors, BADNETS, 5, "neural-cleanse")
    assert found["auc_low"] <= 0.5 <= found["auc_high"]
    assert abs(found["auc"] - 0.5) < 0.15


def test_soft_labels_hide_from_a_fixed_cost(detectors: pd.DataFrame) -> None:
    """The target's mask moves most of the way back to that of clean models."""
    victims = pd.read_csv(BOARD / "victims.csv")
    soft = victims[(victims.attack == SMOOTHED) & (victims.m == 2000)]
    assert soft.asr.item() >= 0.95
    hard = row(detectors, BADNETS, 2000, FIXED)["auc"]
    assert row(detectors, SMOOTHED, 2000, FIXED)["auc"] < hard
    norms = pd.read_csv(BOARD / "norms.csv")
    norms = norms[norms.detector == FIXED]

    def target(attack: str, m: int) -> float:
        return float(norms[(norms.attack == attack) & (norms.m == m)].class_0.item())

    clean, backdoored, smoothed = target("none", 0), target(BADNETS, 2000), target(SMOOTHED, 2000)
    assert smoothed - backdoored > 0.4 * (clean - backdoored)


def test_abs_scores_badnets_far_above_clean_models(detectors: pd.DataFrame) -> None:
    found = row(detectors, BADNETS, 100, "abs")
    assert found["auc"] >= 0.9
