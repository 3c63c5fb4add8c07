"""What the committed inversion board shows, beside Sun and Kolter's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

BOARD = Path(__file__).parent.parent.parent / "leaderboards" / "fashion-mnist-inversion-v1"

#: Tab. 2 of the paper, Blind-P on ImageNet, ASR in percent.
PUBLISHED = {
    "smoothinv": 99.50,
    "smoothinv-diffusion": 92.05,
    "plainadv": 84.08,
    "pixelinv": 30.75,
    "neural-cleanse-image": 0.0,
    "topoprior": 0.0,
}


@pytest.fixture(scope="module")
def pattern() -> dict[str, dict[str, Any]]:
    """Rows of Blind-P, by inverter."""
    frame = pd.read_csv(BOARD / "inversions.csv")
    own = frame[frame.attack == "blind-p"]
    return {str(row["inverter"]): dict(row) for row in own.to_dict("records")}


def smoothed(attack: str, inverter: str) -> pd.DataFrame:
    frame = pd.read_csv(BOARD / "smoothed.csv")
    return frame[(frame.attack == attack) & (frame.inverter == inverter)].set_index("sigma")


def test_the_backdoor_works() -> None:
    frame = pd.read_csv(BOARD / "victims.csv").set_index("attack")
    assert (frame.drop("none").asr >= 0.9).all()


def test_smoothinv_recovers_it_from_one_image(pattern: dict[str, dict[str, Any]]) -> None:
    assert set(pattern) == set(PUBLISHED)
    own = pattern["smoothinv"]
    assert own["starts"] == 10
    assert own["configurations"] == own["runs"] == 8
    for reading in ("asr_best", "asr_selected"):
        assert own[reading] >= 0.8


def test_its_lead_is_beyond_the_intervals(pattern: dict[str, dict[str, Any]]) -> None:
    """Also where the baselines get as many runs, and by either reading."""
    own = pattern["smoothinv"]
    for inverter in set(PUBLISHED) - {"smoothinv", "smoothinv-diffusion"}:
        for reading in ("asr_best", "asr_selected", "asr_best_restarts", "asr_selected_restarts"):
            assert own[f"{reading}_low"] > pattern[inverter][f"{reading}_high"], (inverter, reading)


def test_the_order_is_the_papers_but_for_diffusion(pattern: dict[str, dict[str, Any]]) -> None:
    """At this size the denoiser takes most of the pattern for noise; see the board."""
    order = [name for name in PUBLISHED if name != "smoothinv-diffusion"][:2]
    found = sorted(order, key=lambda name: -pattern[name]["asr_best"])
    assert found == order
    best_of_the_rest = max(
        pattern[name]["asr_best"] for name in ("pixelinv", "neural-cleanse-image", "topoprior")
    )
    assert pattern["smoothinv-diffusion"]["asr_best"] > best_of_the_rest
    assert pattern["smoothinv-diffusion"]["asr_best"] < pattern["plainadv"]["asr_best"]


def test_the_target_is_identified(pattern: dict[str, dict[str, Any]]) -> None:
    assert pattern["smoothinv"]["target_found"] >= 0.9
    assert pattern["smoothinv"]["target_auc"] >= 0.95


def test_the_reversed_trigger_is_no_universal_perturbation(
    pattern: dict[str, dict[str, Any]],
) -> None:
    own = pattern["smoothinv"]
    assert own["asr_clean_model_high"] < 0.3 < own["asr_best_low"]


def test_smoothing_has_the_shape_of_the_papers_check() -> None:
    """Tab. 5: denoising raises accuracy, and without it the backdoor survives sigma 0.12."""
    plain, denoised = (smoothed("blind-p", name) for name in ("smoothinv", "smoothinv-diffusion"))
    assert plain.asr[0.12] >= 0.9
    assert plain.untriggered[0.12] <= 0.1
    for sigma in (0.12, 0.25, 0.5, 1.0):
        assert denoised.clean[sigma] > plain.clean[sigma] + 0.2
    assert list(plain.clean) == sorted(plain.clean, reverse=True)
    assert plain.clean[0] == pytest.approx(denoised.clean[0], abs=0.01)


def test_target_identification_detects_the_backdoor() -> None:
    frame = pd.read_csv(BOARD / "detectability.csv")
    own = frame[(frame.attack == "blind-p") & (frame.reading == "score")].set_index("detector")
    assert own.auc["target-identification"] >= 0.9
    assert own.target_found["target-identification"] >= 0.9
