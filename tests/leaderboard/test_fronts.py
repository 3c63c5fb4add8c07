"""Fronts against literal counts, best responses, worst cases, and what moved."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.games.columns import attack_label
from benchmark.leaderboard import front_plots
from benchmark.leaderboard.defenders import defense_points
from benchmark.leaderboard.fronts import (
    attack_points,
    compare,
    front_table,
    hypervolume,
    hypervolumes,
    summary,
)

GRID = 20
Point = tuple[float, float]
coordinates = st.integers(0, GRID).map(lambda number: number / GRID)
point_lists = st.lists(st.tuples(coordinates, coordinates), max_size=9)


def repair(attack: str, defense: str, asr: float, **changes: Any) -> dict[str, Any]:
    common = {"threat": "poison-label", "m": 50, "boost": 1, "recipe": "standard", "seeds": 3}
    found = common | {
        "attack": attack,
        "defense": defense,
        "trusted_share": 0.1,
        "asr_before": 1.0,
        "asr_paper": asr,
        "asr_paper_low": max(0, asr - 0.1),
        "asr_paper_high": min(1, asr + 0.1),
        "asr_deployable": min(1, asr + 0.05),
        "asr_deployable_low": asr,
        "asr_deployable_high": min(1, asr + 0.2),
        "cda_loss_paper": 0.01,
        "untouched_paper": 0,
        "worked": True,
    }
    return found | changes


def detection(attack: str, detector: str, auc: float, **changes: Any) -> dict[str, Any]:
    common = {"threat": "poison-label", "m": 50, "boost": 1, "recipe": "standard", "models": 10}
    found = common | {
        "attack": attack,
        "detector": detector,
        "trusted_share": 0.1,
        "reading": "score",
        "worked": True,
        "auc": auc,
        "auc_low": max(0, auc - 0.1),
        "auc_high": min(1, auc + 0.1),
    }
    return found | changes


def table(points: dict[str, Point], **changes: Any) -> pd.DataFrame:
    """The front table of attacks with one responder each."""
    return front_table(
        attack_points(
            pd.DataFrame([repair(name, "r", asr, **changes) for name, (asr, _) in points.items()]),
            pd.DataFrame(
                [detection(name, "d", auc, **changes) for name, (_, auc) in points.items()]
            ),
        )
    )


def literal_area(points: list[Point]) -> float:
    """How many cells of the unit square lie in the rectangle of any point."""
    cells = itertools.product(range(GRID), range(GRID))
    inside = [
        any(x + 1 <= round(asr * GRID) and y >= round(auc * GRID) for asr, auc in points)
        for x, y in cells
    ]
    return sum(inside) / GRID**2


@settings(deadline=None, max_examples=150)
@given(point_lists)
def test_hypervolume_is_the_counted_area(points: list[Point]) -> None:
    asr, auc = [p[0] for p in points], [p[1] for p in points]
    assert hypervolume(asr, auc) == pytest.approx(literal_area(points), abs=1e-12)


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0),
        ([(1.0, 0.0)], 1),
        ([(0.7, 1.0)], 0),
        ([(0.0, 0.2)], 0),
        ([(0.3, 0.6)], 0.3 * 0.4),
        ([(0.8, 0.9), (0.5, 0.4)], 0.8 * 0.1 + 0.5 * 0.5),
        ([(0.8, 0.9), (0.5, 0.4), (0.4, 0.5), (0.8, 0.9)], 0.8 * 0.1 + 0.5 * 0.5),
        # A staircase of n steps: half of the square, and half a step each.
        ([(k / 10, k / 10) for k in range(11)], 0.5 - 0.05),
    ],
)
def test_hypervolume_in_closed_form(points: list[Point], area: float) -> None:
    asr, auc = [p[0] for p in points], [p[1] for p in points]
    assert hypervolume(asr, auc) == pytest.approx(area)


@settings(deadline=None, max_examples=100)
@given(point_lists)
def test_the_front_is_who_is_not_dominated_and_makes_all_of_the_area(points: list[Point]) -> None:
    named = {f"a{number}": point for number, point in enumerate(points)}
    if not named:
        return
    found = table(named)
    for row in found.to_dict("records"):
        own = named[row["attack"]]
        above = {
            name
            for name, (asr, auc) in named.items()
            if (asr, auc) != own and asr >= own[0] and auc <= own[1]
        }
        assert row["front"] == (not above)
        assert row["dominated_by"] == "; ".join(f"{name} (m=50)" for name in sorted(above))
        clearly = {
            name
            for name in above
            if max(0, named[name][0] - 0.1) > min(1, own[0] + 0.1)
            and min(1, named[name][1] + 0.1) < max(0, own[1] - 0.1)
        }
        assert row["clearly_dominated_by"] == "; ".join(f"{n} (m=50)" for n in sorted(clearly))
    pairs = {
        (row["attack"], other.split(" ")[0])
        for row in found.to_dict("records")
        for other in filter(None, row["dominates"].split("; "))
    }
    back = {
        (other.split(" ")[0], row["attack"])
        for row in found.to_dict("records")
        for other in filter(None, row["dominated_by"].split("; "))
    }
    assert pairs == back
    on_it = found[found.front.astype(bool)]
    assert hypervolumes(on_it) == pytest.approx(hypervolumes(found))


def test_the_best_response_is_chosen_per_attack_with_its_own_interval() -> None:
    repairs = pd.DataFrame(
        [
            repair("a", "x", 0.4),
            repair("a", "y", 0.2, trusted_share=0.05, asr_paper_high=0.9),
            repair("a", "y", 0.3),
            repair("b", "x", 0.6),
            repair("b", "y", 0.6, cda_loss_paper=0.001),
            repair("dud", "x", 0.0, worked=False),
            repair("dud", "w", 0.0, worked=False),
        ]
    )
    detectors = pd.DataFrame(
        [
            detection("a", "d", 0.7),
            detection("a", "e", 0.9, auc_low=0.2),
            detection("a", "e", 1.0, reading="another"),
            detection("b", "d", 0.8),
            detection("dud", "f", 0.1, worked=False),
        ]
    )
    found = attack_points(repairs, detectors).set_index("attack")
    assert list(found.index) == ["a", "b"]
    a, b = found.loc["a"], found.loc["b"]
    assert (a.defense, a.trusted_share, a.asr_paper, a.asr_paper_high) == (
        "y", 0.05, 0.2, 0.9,
    )  # fmt: skip
    assert a.asr_deployable == 0.25  # of the same responder
    assert (a.detector, a.auc, a.auc_low) == ("e", 0.9, 0.2)
    assert (a.defenses_met, a.defenses, a.detectors_met, a.detectors) == (3, 3, 2, 2)
    # The cheaper of two that leave the same.
    assert (b.defense, b.defenses_met, b.detectors_met) == ("y", 2, 1)


def test_kinds_have_fronts_of_their_own_and_gaps_have_none() -> None:
    repairs = pd.DataFrame(
        [
            repair("patch", "x", 0.9),
            repair("hidden", "x", 0.5, threat="clean-label"),
            repair("owner", "x", 0.1, threat="code"),
            repair("half", "x", 1.0),
        ]
    )
    detectors = pd.DataFrame(
        [
            detection("patch", "d", 0.6),
            detection("hidden", "d", 0.9, threat="clean-label"),
            detection("owner", "d", 1.0, threat="code"),
            detection("other", "d", 0.1, threat="code"),
        ]
    )
    found = front_table(attack_points(repairs, detectors)).set_index("attack")
    assert dict(found.front) == {
        "half": None, "hidden": False, "other": None, "owner": True, "patch": True,
    }  # fmt: skip
    assert found.kind["hidden"] == "data poisoning"
    assert found.kind["owner"] == found.kind["other"] == "code poisoning"
    assert found.dominated_by["hidden"] == "patch (m=50)"
    assert found.clearly_dominated_by["hidden"] == "patch (m=50)"
    assert found.dominates["half"] == found.dominates["other"] == ""
    assert pd.isna(found.auc["half"])
    assert pd.isna(found.asr_paper["other"])
    volumes = hypervolumes(found.reset_index())
    assert volumes == pytest.approx({"data poisoning": 0.9 * 0.4, "code poisoning": 0})


def test_who_met_fewer_defenders_than_others_of_its_kind_is_on_no_front() -> None:
    def met(attack: str, asr: float, defenses: str, detectors: str, **own: Any) -> tuple[Any, Any]:
        return [repair(attack, name, asr, **own) for name in defenses], [
            detection(attack, name, 0.5, **own) for name in detectors
        ]

    games = [
        met("whole", 0.5, "xyz", "de"),
        met("spared", 0.9, "xy", "de"),
        met("unseen", 0.8, "xyz", "d"),
        # No sanitizer z can meet who owns the training: on that front nobody did.
        met("owner", 0.3, "xy", "de", threat="code"),
        met("dud", 0.0, "xyzw", "def", worked=False),
    ]
    points = attack_points(
        *(pd.DataFrame([*itertools.chain(*one)]) for one in zip(*games, strict=True))
    )
    found = front_table(points).set_index("attack")
    assert dict(found.front) == {"owner": True, "spared": None, "unseen": None, "whole": True}
    assert set(found.dominated_by) == {""}
    assert (found.defenses["whole"], found.defenses["owner"]) == (3, 2)
    volumes = hypervolumes(found.reset_index())
    assert volumes == pytest.approx({"data poisoning": 0.25, "code poisoning": 0.15})
    assert "on no front: spared (m=50) and unseen (m=50)." in summary(found.reset_index())
    shown = {one["name"]: one for one in front_plots.points(found.reset_index())["points"]}
    assert shown["spared (m=50)"]["met"] == "2 of 3 defenses"
    assert shown["unseen (m=50)"]["met"] == "1 of 2 detectors"
    assert shown["whole (m=50)"]["met"] == ""
    drawn = front_plots.draw(found.reset_index())
    assert b"spared (m=50), met 2 of 3 defenses" in drawn


def test_one_game_or_none_is_no_error() -> None:
    empty = pd.DataFrame()
    assert front_table(attack_points(empty, empty)).empty
    assert defense_points(empty, empty).empty
    alone = front_table(attack_points(pd.DataFrame([repair("a", "x", 0.5)]), empty))
    assert list(alone.front) == [None]
    assert compare(alone, alone).empty


def test_labels_name_what_is_unusual() -> None:
    row = {"attack": "a", "m": 5, "boost": 1, "recipe": "standard"}
    assert attack_label(row) == "a (m=5)"
    assert attack_label(row | {"boost": 3, "recipe": "short"}) == "a (m=5, b=3, short)"


def test_the_worst_case_of_a_defender_and_who_can_be_compared() -> None:
    repairs = pd.DataFrame(
        [
            repair("a", "strong", 0.1, cda_loss_paper=0.02),
            repair("b", "strong", 0.3, cda_loss_paper=0.01, asr_paper_high=0.35),
            repair("a", "careful", 0.9, cda_loss_paper=0.0, untouched_paper=3),
            repair("b", "careful", 0.8, cda_loss_paper=0.0, untouched_paper=2),
            repair("a", "idle", 0.2, cda_loss_paper=0.0, untouched_paper=3),
            repair("b", "idle", 0.1, cda_loss_paper=0.0, untouched_paper=3),
            repair("a", "wasteful", 0.9, cda_loss_paper=0.02),
            repair("b", "wasteful", 0.9, cda_loss_paper=0.02),
            repair("a", "picky", 0.0, cda_loss_paper=0.0),
            repair("a", "lazy", 1.0, cda_loss_paper=0.0, untouched_paper=3),
            repair("b", "lazy", 0.7, cda_loss_paper=0.0, untouched_paper=3),
            repair("dud", "strong", 0.0, trusted_share=0.1, worked=False),
            repair("dud", "picky", 0.99, worked=False),
        ]
    )
    detectors = pd.DataFrame(
        [
            detection("a", "d", 0.9),
            detection("b", "d", 0.6, auc_low=0.45),
            detection("dud", "d", 0.3, worked=False),
            detection("a", "e", 1.0),
            detection("a", "e", 0.1, reading="another"),
            detection("a", "f", 0.55),
            detection("b", "f", 0.95),
        ]
    )
    found = defense_points(repairs, detectors).set_index("defender")
    strong, picky = found.loc["strong"], found.loc["picky"]
    assert (strong.worst_attack, strong.asr_paper, strong.asr_paper_high) == (
        "b (m=50)", 0.3, 0.35,
    )  # fmt: skip
    assert strong.cda_loss == pytest.approx(0.015)
    assert (strong.attacks, strong.of) == (2, 2)
    # The attack that never worked counts nowhere.
    assert (picky.attacks, picky.of, picky.asr_paper) == (1, 2, 0.0)
    assert dict(found.front) == {
        "strong": True, "careful": True, "wasteful": False, "picky": None, "d": True, "e": None,
        "f": False, "idle": None, "lazy": None,
    }  # fmt: skip
    # Who did nothing at all beats nobody either, however little was left there.
    assert dict(found.idle[found.idle]) == {"idle": True, "lazy": True}
    d = found.loc["d"]
    assert (d.game, d.worst_attack, d.auc, d.auc_low) == ("detectability", "b (m=50)", 0.6, 0.45)
    assert (found.attacks["e"], found.of["e"]) == (1, 2)


def test_shares_are_other_defenders_and_none_is_a_share_too() -> None:
    shares = (0.05, 0.1, None)
    rows = [
        repair("a", "x", asr, trusted_share=share)
        for asr, share in zip((0.5, 0.4, 0.3), shares, strict=True)
    ]
    found = defense_points(pd.DataFrame(rows), pd.DataFrame())
    assert list(found.asr_paper) == [0.5, 0.4, 0.3]
    assert list(found.of) == [1, 1, 1]
    assert attack_points(pd.DataFrame(rows), pd.DataFrame()).defenses_met.item() == 3


def test_what_one_defender_alone_met_compares_nobody() -> None:
    rows = [repair("a", who, asr) for who, asr in (("x", 0.5), ("y", 0.4))]
    rows += [repair("sweep", "x", 0.9)]
    found = defense_points(pd.DataFrame(rows), pd.DataFrame()).set_index("defender")
    assert dict(found.asr_paper) == {"x": 0.5, "y": 0.4}
    assert set(found.of) == {1}
    alone = defense_points(pd.DataFrame([repair("sweep", "x", 0.9)]), pd.DataFrame())
    assert alone.asr_paper.item() == 0.9


def test_what_became_of_the_points() -> None:
    old = table({"gone": (0.4, 0.5), "same": (0.6, 0.7), "moved": (0.1, 0.9)})
    new = table({"same": (0.6, 0.7), "moved": (0.5, 0.4), "new": (0.65, 0.65)})
    found = compare(old, new).set_index("attack")
    assert dict(found.change) == {"gone": "gone", "moved": "moved", "new": "new", "same": "same"}
    assert found.dominates["new"] == "moved (m=50); same (m=50)"
    assert found.dominates["moved"] == "gone (m=50)"  # not its own old self
    assert found.dominates["same"] == ""
    assert set(found.dominated_by) == {""}
    assert found.loc["moved", ["asr_paper_before", "asr_paper_after"]].tolist() == [
        0.1,
        0.5,
    ]
    assert found.front_before["same"]
    assert not found.front_after["same"]
    assert found.front_after["gone"] is None
    back = compare(new, old).set_index("attack")
    assert back.change["gone"] == "new"
    assert back.dominated_by["moved"] == "new (m=50); same (m=50)"


def test_kinds_are_compared_apart() -> None:
    old = table({"code": (0.1, 0.9)}, threat="code")
    found = compare(old, pd.concat([old, table({"data": (0.5, 0.5)})])).set_index("attack")
    assert dict(found.change) == {"code": "same", "data": "new"}
    assert found.dominates["data"] == ""


def test_pages_show_the_front_first_and_gaps_last() -> None:
    frame = table({"good": (0.9, 0.2), "bad": (0.1, 0.9), "close": (0.85, 0.25)})
    rows = front_plots.PARETO.order(frame.sort_values("asr_paper"))
    assert list(rows.attack) == ["good", "close", "bad"]
    assert list(rows.clearly_dominated_by) == ["", "", "close (m=50); good (m=50)"]
    assert summary(frame) == "Hypervolume: 0.720 for data poisoning."


def test_the_picture_is_the_same_bytes_and_holds_every_point() -> None:
    points = {"one": (0.9, 0.2), "two": (0.1, 0.9), "three": (0.85, 0.25)}
    frame = pd.concat([table(points), table({"four": (0.3, 0.8)}, threat="code")])
    drawn = front_plots.draw(frame)
    assert drawn == front_plots.draw(frame)
    for words in (*(f"{name} (m=50)" for name in (*points, "four")), *frame.kind):
        assert words.encode() in drawn
    assert b"before" not in drawn
    assert b"met fewer opponents" not in drawn
    few = front_table(
        frame[frame.columns[: list(frame.columns).index("front")]].assign(detectors=2)
    )
    assert few.front.isna().all()
    both = front_plots.draw(few, table({"two": (0.1, 0.9)}))
    assert b"data poisoning, before" in both
    assert b"code poisoning, before" not in both
    assert b"met fewer opponents" in both


def test_fronts_of_random_points_agree_with_sampling() -> None:
    own = np.random.default_rng(3)
    points = own.random((12, 2))
    where = own.random((200_000, 2))
    inside = (where[:, None, 0] <= points[None, :, 0]) & (where[:, None, 1] >= points[None, :, 1])
    found = hypervolume(points[:, 0].tolist(), points[:, 1].tolist())
    assert found == pytest.approx(inside.any(1).mean(), abs=0.005)
