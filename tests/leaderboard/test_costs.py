"""What defenders cost and may expect, against sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_records import DIGITS, examined, frames_of, played, save, search
from scipy import stats

from benchmark.leaderboard.board import load_results
from benchmark.leaderboard.build import build
from benchmark.metrics import Rate, mean_interval
from benchmark.records.record import ProtocolRef, Record


def made(records: list[Record]) -> pd.DataFrame:
    return frames_of(records, [search([40, 10, 25])])["costs"].set_index("defender")


def test_accuracy_lost_on_clean_models_in_both_readings() -> None:
    cdas = [(95, 94, 95), (96, 92, 95), (97, 96, 96)]
    records = [played("none", "repairer", s, 0, 0, m=0, cda=cda) for s, cda in enumerate(cdas)]
    records += [played("badnets", "repairer", s, 1, 1, cda=(95, 75, 75)) for s in range(3)]
    row = made(records).loc["repairer"]
    assert row.clean_models == 3
    for reading, losses in (("paper", [0.01, 0.04, 0.01]), ("deployable", [0.0, 0.01, 0.01])):
        low, high = stats.t.interval(0.95, 2, sum(losses) / 3, stats.sem(losses))
        found = [row[f"clean_loss_{reading}{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([sum(losses) / 3, low, high])
    assert row.cda_loss_paper == pytest.approx(0.2)


def test_a_clean_model_on_which_the_repair_failed_has_cost_the_whole_budget(tmp_path: Path) -> None:
    losses = [0.0, 0.01]
    cdas = [(95, round(95 - 100 * loss), 95) for loss in losses]
    records = [played("none", "repairer", s, 0, 0, m=0, cda=cda) for s, cda in enumerate(cdas)]
    nothing: dict[str, Any] = {"status": "failed", "metrics": None, "curve": []}
    nothing["error"] = {"kind": "RuntimeError", "message": "no memory", "where": "x.py:3"}
    records += [played("none", "repairer", 2, 0, 0, m=0, **nothing)]
    records += [played("badnets", "repairer", s, 1, 1) for s in range(3)]
    known = [one.model_copy(update={"protocol": ProtocolRef(**DIGITS)}) for one in records]
    costs = load_results(save(tmp_path, known))["costs"]
    (row,) = costs[costs.defender.str.startswith("repairer")].itertuples()
    assert row.clean_models == 3
    assert row.clean_loss_paper == pytest.approx((0.0 + 0.01 + 0.02) / 3)


def test_what_a_failure_cost_is_unknown_of_a_protocol_that_was_not_released() -> None:
    nothing: dict[str, Any] = {"status": "failed", "metrics": None, "curve": []}
    nothing["error"] = {"kind": "RuntimeError", "message": "no memory", "where": "x.py:3"}
    records = [played("none", "repairer", s, 0, 0, m=0, cda=(95, 94 - s, 94)) for s in range(2)]
    records += [played("none", "repairer", 2, 0, 0, m=0, **nothing)]
    row = made([*records, *(played("badnets", "repairer", s, 1, 1) for s in range(3))])
    assert row.clean_models["repairer"] == 2
    assert row.clean_loss_paper["repairer"] == pytest.approx(0.015)


def test_a_victim_whose_asr_cannot_be_measured_does_not_hide_what_others_leave() -> None:
    records = [played("badnets", None, 0), played("badnets", "repairer", 0, 9)]
    known = made(records).success_paper["repairer"]
    records += [played("badnets", None, 1, triggered=0)]
    records += [played("badnets", "repairer", 1, 0, triggered=0)]
    assert made(records).success_paper["repairer"] == known == pytest.approx(0.94 - 0.1)


def test_expected_success_is_the_mean_of_accuracy_minus_asr() -> None:
    hits = {"a": (10, 20, 30), "b": (40, 60, 50), "dud": (0, 0, 0)}
    records = []
    for attack, left in hits.items():
        before = 2 if attack == "dud" else 90
        for seed, asr in enumerate(left):
            records.append(played(attack, None, seed, before=before))
            records.append(played(attack, "repairer", seed, asr, asr + 9, before=before))
    row = made(records).loc["repairer"]
    assert (row.attacks, row.cells) == (2, 6)
    own = [[0.94 - asr / 90 for asr in hits[attack]] for attack in "ab"]
    seeds = [(a + b) / 2 for a, b in zip(*own, strict=True)]
    low, high = stats.t.interval(0.95, 2, sum(seeds) / 3, stats.sem(seeds))
    found = [row[f"success_paper{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([sum(seeds) / 3, low, high])
    assert row.success_deployable == pytest.approx(sum(seeds) / 3 - 0.01 - 0.1)
    # Where the attacks have other seeds there is a mean, but no seed to take it over.
    row = made(records[:-7]).loc["repairer"]
    left = [*own[0], *own[1][:2]]
    assert row.success_paper == pytest.approx(sum(left) / 5)
    assert pd.isna(row.success_paper_low)


def test_time_is_that_of_the_defense_over_the_victims_training() -> None:
    def cost(defense: float | None, victim: float) -> dict[str, object]:
        return {"seconds": 99.0, "defense_seconds": defense, "victim_seconds": victim,
                "peak_memory_mb": 1.0, "device": "cpu"}  # fmt: skip

    records = [
        played("badnets", "repairer", 0, 1, cost=cost(6.0, 2.0)),
        played("none", "repairer", 0, 1, m=0, cost=cost(5.0, 10.0)),
        played("badnets", "unknown", 0, 1, cost=cost(None, 2.0)),
        examined("none", "finder", 0, [[0.0], [0.0]], m=0, cost=cost(None, 4.0)),
    ]
    frame = made(records)
    assert frame.overhead["repairer"] == (3 + 0.5) / 2
    assert pd.isna(frame.overhead["unknown"])
    assert frame.overhead["finder"] == 0.25


def test_false_alarms_are_of_clean_models_alone() -> None:
    flags = [(True, False), (False, False), (False, False)]
    records = [
        examined("none", "finder", seed, [[0.1, 0, 0], [0.2, 0, 0]], flagged=own, m=0)
        for seed, own in enumerate(flags)
    ]
    records += [
        examined("badnets", "finder", seed, [[0.1, 0, 0], [0.2, 0, 0]], flagged=(True, True))
        for seed in range(3)
    ]
    row = made(records).loc["finder"]
    wanted = mean_interval([Rate(1, 2), Rate(0, 2), Rate(0, 2)])
    assert [row[f"false_alarms{end}"] for end in ("", "_low", "_high")] == pytest.approx(wanted)
    assert row.clean_models == 3


def test_stability_is_that_of_the_search_for_the_settings() -> None:
    records = [played("badnets", d, 0, 1) for d in ("weight-decay", "repairer")]
    records.append(played("badnets", "weight-decay", 1, 1, trusted_share=0.1))
    frame = made(records).reset_index().set_index(["defender", "trusted_share"])
    # Of 80, 20 and 50 percent any two differ by 60, 30 and 30.
    assert frame.instability["weight-decay", 0.05] == pytest.approx(0.4)
    assert pd.isna(frame.instability["weight-decay", 0.1])
    assert pd.isna(frame.instability["repairer", 0.05])


def test_clean_models_are_no_rows_of_repairs(tmp_path: Path) -> None:
    records = [played(a, "repairer", 0, 1, m=m) for a, m in (("none", 0), ("badnets", 50))]
    build(save(tmp_path, records))
    assert list(pd.read_csv(tmp_path / "repairs.csv").attack) == ["badnets"]
