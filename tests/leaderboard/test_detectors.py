"""Targets, thresholds and scores of classes, against counts by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_records import examined, frames_of, save
from pydantic import ValidationError

from benchmark.games.detectability.frames import SCORE
from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.leaderboard.build import build
from benchmark.metrics import Rate, mean_interval
from benchmark.records.record import Record

MODELS, CLASSES, REPEATS = 5, 4, 2
RNG = np.random.default_rng(4)
CLEAN = RNG.normal(size=(MODELS, REPEATS, CLASSES)).astype(np.float32)
POISONED = RNG.normal(size=(MODELS, REPEATS, CLASSES)).astype(np.float32)
TARGETS = [0, 2, 0, 1, 2]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    found = []
    for seed, target in enumerate(TARGETS):
        common: dict[str, Any] = {"target": target}
        for attack, scores in (("none", CLEAN[seed]), ("badnets", POISONED[seed])):
            flagged = [bool(own.max() > 1) for own in scores]
            m = 50 if attack == "badnets" else 0
            found.append(
                examined(attack, "finder", seed, scores.tolist(), flagged=flagged, m=m, **common)
            )
    return found


@pytest.fixture(scope="module")
def row(records: list[Record]) -> pd.Series:
    frame = frames_of(records)["detectability"]
    return frame[frame.reading == SCORE].iloc[0]


def test_the_oracle_compares_scores_of_the_true_target(row: pd.Series) -> None:
    wins = [
        (a > b) + 0.5 * (a == b)
        for (i, t), (j, u) in itertools.product(enumerate(TARGETS), repeat=2)
        for r in range(REPEATS)
        for a, b in [(POISONED[i, r, t], CLEAN[j, r, u])]
    ]
    assert row.oracle_auc == pytest.approx(np.mean(wins))
    assert row.oracle_auc_low <= row.oracle_auc <= row.oracle_auc_high
    assert row.oracle_auc != row.auc


def test_a_target_that_another_class_hides_shows_to_the_oracle() -> None:
    """What decided an AUC: class 1 looks suspicious on every model, attacked or not."""
    found = []
    for seed in range(6):
        found.append(examined("none", "finder", seed, [[0.0, 1 + 0.1 * seed]], m=0, target=0))
        found.append(examined("badnets", "finder", seed, [[0.5, 1 + 0.1 * seed]], target=0))
    frame = frames_of(found)["detectability"]
    own = frame[frame.reading == SCORE].iloc[0]
    assert own.auc == 0.5
    assert own.oracle_auc == 1
    assert own.target_found == 0


def test_the_best_threshold_is_the_best_of_all(row: pd.Series) -> None:
    clean, poisoned = CLEAN.max(2).ravel(), POISONED.max(2).ravel()
    total = len(clean) + len(poisoned)
    every = [
        ((clean < t).sum() + (poisoned >= t).sum()) / total for t in np.linspace(-9, 9, 20_001)
    ]
    assert row.best_accuracy == pytest.approx(max(every))
    native = ((clean <= 1).sum() + (poisoned > 1).sum()) / total
    assert row.native_accuracy == pytest.approx(native)
    assert row.native_accuracy <= row.best_accuracy
    alarms = [Rate(int((own.max(1) > 1).sum()), REPEATS) for own in CLEAN]
    found = [row[f"false_alarms{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx(mean_interval(alarms))


def test_only_readings_that_all_models_have_get_a_row(records: list[Record]) -> None:
    """A detector that leaves one out for some models takes no board with it."""
    first = records[0]
    assert isinstance(first, DetectabilityRecord)
    scans = [scan.model_copy(update={"also": {"other": 1.0}}) for scan in first.scans]
    mixed = [first.model_copy(update={"scans": tuple(scans)}), *records[1:]]
    for order in (mixed, mixed[::-1]):
        frame = frames_of(order)["detectability"]
        assert list(frame.reading) == [SCORE]
    assert list(frames_of(records)["detectability"].reading) == [SCORE, "printed"]


def test_nothing_to_tell_apart_is_right_half_of_the_time() -> None:
    found = [
        examined(attack, "finder", seed, [[0.5]], m=m, target=0)
        for attack, m in (("none", 0), ("badnets", 50))
        for seed in range(3)
    ]
    frame = frames_of(found)["detectability"]
    assert (frame.best_accuracy == 0.5).all()
    assert frame.native_accuracy.isna().all()  # no decisions
    assert frame.false_alarms.isna().all()


def test_scores_of_classes_are_means_over_models_with_and_without_the_target(
    records: list[Record],
) -> None:
    frame = frames_of(records)["classscores"]
    assert list(frame["class"]) == list(range(CLASSES))
    assert list(frame.targets) == [2, 1, 2, 0]
    assert (frame.models == MODELS).all()
    for row in frame.to_dict("records"):
        label = row["class"]
        own = [i for i, target in enumerate(TARGETS) if target == label]
        others = [i for i in range(MODELS) if i not in own]
        assert row["score_clean"] == pytest.approx(CLEAN[:, :, label].mean(), abs=1e-6)
        assert row["score_other"] == pytest.approx(POISONED[others, :, label].mean(), abs=1e-6)
        if own:
            assert row["score_target"] == pytest.approx(POISONED[own, :, label].mean(), abs=1e-6)
        else:
            assert pd.isna(row["score_target"])


def test_the_picture_has_a_panel_per_population_and_the_same_bytes(
    records: list[Record], tmp_path: Path
) -> None:
    build(save(tmp_path, records))
    drawn = (tmp_path / "classscores.svg").read_bytes()
    build(tmp_path)
    assert (tmp_path / "classscores.svg").read_bytes() == drawn
    for words in ("badnets (m=50)", "finder", "poisoned, the target", "clean models"):
        assert words.encode() in drawn


def test_a_record_that_is_ok_has_scans() -> None:
    with pytest.raises(ValidationError, match="a record that is ok needs scans"):
        examined("badnets", "finder", 0, [[1.0, 2.0]], scans=[])
