"""The sentences that a board begins with, from tables that say something else each time."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from benchmark.leaderboard.chapters import sentences

WHO = {"m": 50, "boost": 1, "recipe": "standard", "threat": "poison-label"}


def victims(**worked: bool | None) -> pd.DataFrame:
    rows = [{"attack": "none", **WHO, "threat": "none", "worked": None}]
    rows += [{"attack": name, **WHO, "worked": value} for name, value in worked.items()]
    return pd.DataFrame(rows).astype({"worked": object})


def repair(attack: str, defense: str, left: float, repaired: bool, worked: bool = True) -> Any:
    row = {"attack": attack, **WHO, "defense": defense, "trusted_share": 0.05, "worked": worked}
    row |= {"asr_paper": left, "asr_paper_low": left / 2, "asr_paper_high": 1.0}
    return row | {"repaired_paper": repaired}


def detector(attack: str, name: str, auc: float, reading: str = "score") -> Any:
    row = {"attack": attack, **WHO, "detector": name, "trusted_share": 0.05, "worked": True}
    return row | {"reading": reading, "auc": auc, "auc_low": auc - 0.2, "auc_high": 1.0}


def point(attack: str, front: bool | None, left: float, auc: float) -> Any:
    row = {"attack": attack, **WHO, "front": front, "asr_paper": left, "asr_paper_high": 1.0}
    row |= {"asr_paper_low": max(left - 0.1, 0), "auc": auc, "auc_low": auc - 0.2, "auc_high": 1.0}
    return row


def test_who_failed_is_named_and_clean_models_are_no_attack() -> None:
    assert sentences({"victims": victims(one=True, two=True)}) == [
        "2 of 2 attacks worked undefended."
    ]
    (said,) = sentences({"victims": victims(one=True, two=False)})
    assert said == "1 of 2 attacks worked undefended; two (m=50) did not."
    assert sentences({"victims": victims(one=None)}) == []
    assert sentences({"victims": pd.DataFrame(columns=["attack", "worked"])}) == []


def test_who_repairs_most_and_of_equals_who_leaves_least() -> None:
    frame = pd.DataFrame(
        [
            repair("one", "strong", 0.01, True),
            repair("two", "strong", 0.40, False),
            repair("one", "weak", 0.02, True),
            repair("two", "weak", 0.60, False),
            # What does nothing undefended is repaired by everybody.
            repair("dead", "weak", 0.0, True, worked=False),
        ]
    )
    _, best, standing = sentences({"victims": victims(one=True), "repairs": frame})
    assert best == (
        "strong r=5% repairs most: 1 of 2 attacks; at worst it leaves 40.0 [20.0, 100.0] % ASR, "
        "of two (m=50)."
    )
    assert standing == "Repaired by no defense that met it: two (m=50)."


def test_that_nobody_repairs_anything_is_said() -> None:
    frame = pd.DataFrame([repair("one", "a", 0.9, False), repair("one", "b", 0.3, False)])
    _, only = sentences({"victims": victims(one=True), "repairs": frame})
    assert only == (
        "No defense repairs any attack; b r=5% comes closest: at worst it leaves "
        "30.0 [15.0, 100.0] % ASR, of one (m=50)."
    )


def test_orders_are_counted_where_enough_attacks_tell_them() -> None:
    frames = {
        "victims": victims(one=True),
        "repairs": pd.DataFrame([repair("one", "a", 0.3, False)]),
    }
    lows, holds = [-0.4, -0.6, math.nan], [True, False, False]
    frames["comparisons"] = pd.DataFrame({"difference_low": lows, "holds": holds})
    *_, said = sentences(frames)
    assert said == "Of 2 pairs of defenses 1 can be told apart by the ASR they leave."
    for frame in (pd.DataFrame(), frames["comparisons"].tail(1)):
        *_, other = sentences(frames | {"comparisons": frame})
        assert "told apart" not in other


def test_the_best_detector_is_judged_in_its_worst_case_by_its_own_score() -> None:
    frame = pd.DataFrame(
        [
            detector("one", "steady", 0.8),
            detector("two", "steady", 0.75),
            detector("one", "moody", 1.0),
            detector("two", "moody", 0.5),
            detector("one", "new", 1.0),  # met one attack alone
            detector("one", "moody", 1.0, "another reading"),
        ]
    )
    *_, said = sentences({"victims": victims(one=True), "detectability": frame})
    assert said == (
        "steady r=5% detects best: its lowest AUC is 0.75 [0.55, 1.00], against two (m=50)."
    )


def verdict_on(*rows: dict[str, Any]) -> str:
    *_, said = sentences({"victims": victims(one=True), "detectability": pd.DataFrame(rows)})
    return said


@pytest.mark.parametrize(
    ("a", "b", "who"),
    [
        (0.801, 0.799, "a r=5% and b r=5% detect"),
        (0.805, 0.81, "a r=5% and b r=5% detect"),  # 0.805 is printed as 0.81
        (0.805, 0.80, "a r=5% detects"),
        (0.80, 0.81, "b r=5% detects"),
    ],
)
def test_detectors_that_are_equal_in_what_is_shown_are_all_named(
    a: float, b: float, who: str
) -> None:
    # Each has its lowest AUC against another attack.
    rows = [detector("one", "a", a), detector("two", "a", 0.9)]
    rows += [detector("one", "b", 0.95), detector("two", "b", b)]
    assert verdict_on(*rows).startswith(f"{who} best: ")


def test_of_equal_detectors_no_one_attack_is_named() -> None:
    rows = [detector("one", "a", 0.8), detector("two", "a", 0.9)]
    rows += [detector("one", "b", 0.95), detector("two", "b", 0.8)]
    assert verdict_on(*rows) == "a r=5% and b r=5% detect best: the lowest AUC of each is 0.80."


def test_nobody_finds_every_attack_where_all_may_be_guessing() -> None:
    # The interval of `detector` reaches 0.2 below its AUC.
    assert verdict_on(detector("one", "a", 0.69)) == (
        "No detector is sure to find every attack; a r=5% comes closest: its lowest AUC is "
        "0.69 [0.49, 1.00], against one (m=50)."
    )
    sure = detector("one", "b", 0.68) | {"auc_low": 0.6}
    assert verdict_on(detector("one", "a", 0.69), sure).startswith("a r=5% detects best: ")


@pytest.mark.parametrize(
    ("left", "auc", "stays"),
    [
        (0.9, 0.6, True),
        (0.12, 0.6, False),  # hardly above the bound of a repaired one
        (0.9, 0.71, False),  # the interval does not reach guessing
    ],
)
def test_robust_and_hidden_needs_both_with_their_intervals(
    left: float, auc: float, stays: bool
) -> None:
    frame = pd.DataFrame([point("one", True, left, auc), point("two", None, 1.0, 0.5)])
    said, _ = sentences({"victims": victims(one=True), "pareto": frame})
    if stays:
        assert said == (
            "Robust and hidden: one (m=50), with 90.0 [80.0, 100.0] % ASR left and an AUC of "
            "0.60 [0.40, 1.00]."
        )
    else:
        assert said.startswith("No attack stays both robust and hidden; closest is one (m=50), ")


def test_of_those_that_are_found_for_certain_the_most_robust_comes_closest() -> None:
    frame = pd.DataFrame([point("one", True, 0.0, 1.0), point("two", True, 0.9, 1.0)])
    said, _ = sentences({"victims": victims(one=True, two=True), "pareto": frame})
    assert said.startswith("No attack stays both robust and hidden; closest is two (m=50), with 90")


def test_few_models_make_nobody_hidden() -> None:
    """An interval that reaches 0.5 around an AUC of 1 says that nobody knows."""
    frame = pd.DataFrame([point("one", True, 0.9, 1.0) | {"auc_low": 0.2}])
    said, _ = sentences({"victims": victims(one=True), "pareto": frame})
    assert said.startswith("No attack stays")


def test_the_inverter_whose_triggers_work_best_on_average() -> None:
    rows = [
        {"attack": attack, **WHO, "inverter": inverter, "asr_selected": asr}
        | {"asr_selected_low": asr / 2, "asr_selected_high": 1.0, "worked": attack != "dead"}
        for inverter, hits in {"a": (0.9, 0.5), "b": (0.6, 0.7, 1.0), "c": (1.0,)}.items()
        for attack, asr in zip(("one", "two", "dead"), hits, strict=False)
    ]
    _, said = sentences({"victims": victims(one=True), "inversions": pd.DataFrame(rows)})
    assert said == (
        "a reverses triggers best: 70.0 % ASR on average over 2 attacks, 50.0 [25.0, 100.0] % at "
        "the least, against two (m=50)."
    )
