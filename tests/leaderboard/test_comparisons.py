"""Defenses pair by pair, against what is left of each victim, written out once more."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from made_records import TRIGGERED, frames_of, played
from scipy import stats

from benchmark.games.robustness.compared import FRAME, summary
from benchmark.records.record import Record

#: Hits that are left of three attacks in two seeds each.
LEFT = {
    "good": {"badnets": (0, 9), "tsb": (3, 3), "lsp": (10, 0)},
    "poor": {"badnets": (45, 54), "tsb": (60, 48), "lsp": (30, 60)},
    "odd": {"badnets": (90, 0), "tsb": (3, 3)},
}


def records(**others: dict[str, tuple[int, ...]]) -> list[Record]:
    attacks = ("badnets", "tsb", "lsp")
    found = [played(attack, None, seed) for attack in attacks for seed in range(2)]
    for defense, left in (LEFT | others).items():
        for attack, hits in left.items():
            found += [played(attack, defense, seed, own) for seed, own in enumerate(hits)]
    return found


def row(defense: str, against: str, **others: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    frame = frames_of(records(**others))["comparisons"]
    (found,) = frame[(frame.defense == defense) & (frame.against == against)].to_dict("records")
    return {str(key): value for key, value in found.items()}


def test_each_attack_counts_once_however_many_victims_it_has() -> None:
    found = row("good", "poor")
    means = [
        statistics.mean((a - b) / TRIGGERED for a, b in zip(*pair, strict=True))
        for pair in zip(LEFT["good"].values(), LEFT["poor"].values(), strict=True)
    ]
    assert found["difference"] == pytest.approx(statistics.mean(means))
    half = stats.t.ppf(0.975, 2) * statistics.stdev(means) / math.sqrt(3)
    assert found["difference_low"] == pytest.approx(max(-1, statistics.mean(means) - half))
    assert found["difference_high"] == pytest.approx(statistics.mean(means) + half)
    assert found["differ"]
    assert (found["attacks"], found["victims"], found["less"], found["more"]) == (3, 6, 6, 0)


def test_only_victims_that_met_both_are_compared() -> None:
    found = row("good", "odd")
    assert (found["attacks"], found["victims"]) == (2, 4)
    assert (found["less"], found["more"]) == (1, 1)
    assert found["difference"] == pytest.approx((-90 / TRIGGERED + 9 / TRIGGERED) / 4)
    assert not found["differ"]


def test_an_attack_that_did_not_work_tells_nothing() -> None:
    dead = [played("refool", None, seed, before=1) for seed in range(2)]
    dead += [played("refool", name, 0, hits, before=1) for name, hits in (("good", 0), ("poor", 1))]
    frame = frames_of([*records(), *dead])["comparisons"]
    assert set(frame.attacks) == {2, 3}


def test_one_attack_alone_tells_no_order() -> None:
    found = row("better", "worse", better={"badnets": (1, 1)}, worse={"badnets": (80, 80)})
    assert math.isnan(found["difference_low"])
    assert not found["differ"]


def test_defenders_with_other_images_are_not_compared() -> None:
    more = [played(a, "rich", s, 0, trusted_share=0.1) for a in ("badnets", "tsb") for s in (0, 1)]
    frame = frames_of([*records(), *more])["comparisons"]
    assert not {"rich"} & {*frame.defense, *frame.against}


def test_the_summary_counts_orders() -> None:
    frame = frames_of(records())["comparisons"]
    assert len(frame) == 3
    assert summary(frame) == f"{sum(frame.differ)} of 3 orders hold."
    assert {*frame.columns} == {
        *(column.key for column in FRAME.columns),
        *("difference_low", "difference_high"),
    }
