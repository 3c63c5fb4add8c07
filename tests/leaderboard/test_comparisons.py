"""Defenses pair by pair, against what is left of each victim, written out once more."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from made_records import TRIGGERED, frames_of, played
from scipy import stats

from benchmark.games.robustness.compared import FEWEST, FRAME, summary
from benchmark.records.record import Record

ATTACKS = ("badnets", "tsb", "lsp", "wanet", "a-blend")
#: Hits that are left of each attack in two seeds.
LEFT: dict[str, tuple[tuple[int, ...], ...]] = {
    "good": ((0, 9), (3, 3), (10, 0), (4, 8), (1, 1)),
    "poor": ((45, 54), (60, 48), (30, 60), (70, 20), (44, 50)),
    "odd": ((90, 0), (3, 3)),
}


def records(**others: tuple[tuple[int, ...], ...]) -> list[Record]:
    found = [played(attack, None, seed) for attack in ATTACKS for seed in range(2)]
    for defense, left in (LEFT | others).items():
        for attack, hits in zip(ATTACKS, left, strict=False):
            found += [played(attack, defense, seed, own) for seed, own in enumerate(hits)]
    return found


def row(found: list[Record], defense: str, against: str) -> dict[str, Any]:
    frame = frames_of(found)["comparisons"]
    (own,) = frame[(frame.defense == defense) & (frame.against == against)].to_dict("records")
    return {str(key): value for key, value in own.items()}


def mean_change(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    return statistics.mean((a - b) / TRIGGERED for a, b in zip(one, other, strict=True))


CHANGES = [mean_change(*pair) for pair in zip(LEFT["good"], LEFT["poor"], strict=True)]


def test_each_attack_counts_once_and_all_intervals_hold_together() -> None:
    found = row(records(), "good", "poor")
    middle = statistics.mean(CHANGES)
    # Three pairs: each bound may fail with a probability of a sixth of 5 %.
    half = stats.t.ppf(1 - 0.05 / 6, 4) * statistics.stdev(CHANGES) / math.sqrt(5)
    assert found["difference"] == pytest.approx(middle)
    assert found["difference_low"] == pytest.approx(middle - half)
    assert found["difference_high"] == pytest.approx(middle + half)
    assert found["holds"]
    assert (found["attacks"], found["victims"], found["less"], found["more"]) == (5, 10, 10, 0)


def test_only_victims_that_met_both_are_compared() -> None:
    found = row(records(), "good", "odd")
    assert (found["attacks"], found["victims"]) == (2, 4)
    assert (found["less"], found["more"]) == (1, 1)
    assert found["difference"] == pytest.approx((-90 / TRIGGERED + 9 / TRIGGERED) / 4)


def test_few_attacks_tell_no_order_however_clear_they_are() -> None:
    clear = {"all": ((90, 90),) * (FEWEST - 1), "nothing": ((0, 0),) * (FEWEST - 1)}
    found = row(records(**clear), "nothing", "all")
    assert found["difference"] == -1
    assert math.isnan(found["difference_low"])
    assert not found["holds"]


def test_settings_of_one_attack_are_one_attack() -> None:
    more = [played("badnets:side=0.5", None, seed) for seed in range(2)]
    for name, hits in (("good", 0), ("poor", 90)):
        more += [played("badnets:side=0.5", name, seed, hits) for seed in range(2)]
    found = row([*records(), *more], "good", "poor")
    assert (found["attacks"], found["victims"]) == (5, 12)
    badnets = (CHANGES[0] - 1) / 2
    assert found["difference"] == pytest.approx(statistics.mean([badnets, *CHANGES[1:]]))


def test_an_attack_that_did_not_work_tells_nothing() -> None:
    dead = [played("refool", None, seed, before=1) for seed in range(2)]
    dead += [played("refool", name, 0, hits, before=1) for name, hits in (("good", 0), ("poor", 1))]
    frame = frames_of([*records(), *dead])["comparisons"]
    assert set(frame.attacks) == {2, 5}


def test_victims_whose_asr_cannot_be_measured_tell_nothing() -> None:
    """Such as of an attack for a class without test images."""
    nobody = [played("htba", None, 0), played("htba", None, 1, triggered=0)]
    nobody += [played("htba", name, 1, 0, triggered=0) for name in ("good", "poor")]
    frame = frames_of(records())["comparisons"]
    assert frames_of([*records(), *nobody])["comparisons"].equals(frame)


def test_equal_differences_tell_no_order() -> None:
    same = {"all": ((90, 90),) * FEWEST, "nothing": ((0, 0),) * FEWEST}
    found = row(records(**same), "nothing", "all")
    assert found["difference"] == -1
    assert math.isnan(found["difference_high"])
    assert not found["holds"]


def test_defenders_with_other_images_are_not_compared() -> None:
    more = [played(a, "rich", s, 0, trusted_share=0.1) for a in ("badnets", "tsb") for s in (0, 1)]
    frame = frames_of([*records(), *more])["comparisons"]
    assert not {"rich"} & {*frame.defense, *frame.against}


def test_the_clearest_comes_first_and_the_summary_counts() -> None:
    frame = frames_of(records())["comparisons"]
    assert len(frame) == 3
    assert frame.difference.is_monotonic_increasing
    assert summary(frame) == f"{sum(frame.holds)} of 3 orders hold."
    assert {*frame.columns} == {
        *(column.key for column in FRAME.columns),
        *("difference_low", "difference_high"),
    }
