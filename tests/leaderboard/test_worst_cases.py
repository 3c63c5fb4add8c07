"""A repetition that failed counts as the worst case for whoever would profit from its absence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import CLEAN, TRIGGERED, examined, frames_of, inverted, played, save

from benchmark.leaderboard.build import build
from benchmark.records.record import Record

ERROR = {"kind": "RuntimeError", "message": "CUDA out of memory", "where": "x.py:3"}
NOTHING: dict[str, Any] = {"status": "failed", "error": ERROR}


def failed(attack: str, defense: str | None, seed: int, **options: Any) -> Record:
    return played(attack, defense, seed, metrics=None, curve=[], **NOTHING, **options)


def lost(record: Record) -> Record:
    """The same cell, failed."""
    kept = record.model_dump(by_alias=True)
    empty: dict[str, Any] = {"scans": ()} if record.game == "detectability" else {}
    empty |= {"metrics": None, "curve": ()} if record.game == "robustness" else {}
    empty |= {"tried": (), "starts": (), "swept": ()} if record.game == "inversion" else {}
    return type(record).model_validate(kept | NOTHING | empty)


def test_a_repair_that_failed_has_left_the_victim_as_it_was() -> None:
    records = [played("badnets", None, seed) for seed in range(3)]
    records += [played("badnets", "repairer", seed, seed) for seed in range(2)]
    (row,) = frames_of([*records, failed("badnets", "repairer", 2)])["repairs"].to_dict("records")
    assert row["asr_paper"] == pytest.approx((0 + 1 / TRIGGERED + 1) / 3)
    assert (row["seeds"], row["failed"]) == (3, 1)
    assert (row["seeds_repaired_paper"], row["untouched_paper"]) == (2, 1)
    assert row["cda_loss_paper"] == pytest.approx((0.01 + 0.01 + 0) / 3)
    assert not row["repaired_paper"]


def test_the_cell_says_how_many_were_measured(tmp_path: Any) -> None:
    records = [played("badnets", None, seed) for seed in range(3)]
    records += [played("badnets", "repairer", seed, 0) for seed in range(2)]
    text = build(save(tmp_path, [*records, failed("badnets", "repairer", 2)]))
    assert "✓ 2/3 † 1/3 (2 of 3)" in text


def test_where_the_victim_failed_no_defense_is_blamed_and_the_attack_did_nothing() -> None:
    records = [played("badnets", None, seed) for seed in range(2)]
    records += [played("badnets", "repairer", seed, 0) for seed in range(2)]
    records += [failed("badnets", None, 2), failed("badnets", "repairer", 2)]
    frames = frames_of(records)
    (repaired,) = frames["repairs"].to_dict("records")
    assert (repaired["asr_paper"], repaired["seeds"], repaired["failed"]) == (0, 3, 1)
    assert repaired["asr_before"] == pytest.approx(2 / 3)
    (victim,) = frames["victims"].to_dict("records")
    assert victim["asr"] == pytest.approx(2 / 3)
    assert (victim["seeds"], victim["failed"]) == (3, 1)


def test_a_guard_that_failed_has_guessed() -> None:
    records = [played("badnets", None, seed) for seed in range(2)]
    records += [played("badnets", "guard", 0, 0, stage="deploy")]
    records += [failed("badnets", "guard", 1, stage="deploy")]
    (row,) = frames_of(records)["repairs"].to_dict("records")
    assert row["guard_auc"] == 0.5


def suspects(pairs: int) -> list[Record]:
    """Models that a detector tells apart perfectly, and their undefended cells."""
    found = []
    for seed in range(pairs):
        for attack, score in (("none", 0.1 * seed), ("badnets", 10 + seed)):
            scores = [0.0, 0.0, 0.0]
            scores[seed % 3] = score
            found.append(examined(attack, "finder", seed, [scores], flagged=[attack != "none"]))
            found.append(played(attack, None, seed))
    return found


@pytest.mark.parametrize("attack", ["none", "badnets"])
def test_a_detector_that_failed_was_wrong_about_the_model(attack: str, tmp_path: Any) -> None:
    records = suspects(4)
    number = next(
        n for n, one in enumerate(records)
        if one.game == "detectability" and one.attack.name == attack and one.seed == 2
    )  # fmt: skip
    records[number] = lost(records[number])
    frames = frames_of(records)
    row = frames["detectability"].query("reading == 'score'").iloc[0]
    assert (row.models, row.failed) == (4, 1)
    assert row.auc == row.oracle_auc == 0.75  # one of four loses against all
    assert row.false_alarms == (0.25 if attack == "none" else 0)
    assert row.target_found == (1 if attack == "none" else 0.75)
    costs = frames["costs"].query("game == 'detectability'").iloc[0]
    assert costs.false_alarms == row.false_alarms
    assert row.target_score == pytest.approx(11.5 if attack == "none" else (10 + 11 + 13) / 3)
    build(save(tmp_path, records))


def test_a_model_that_could_not_be_trained_is_held_against_no_detector() -> None:
    records = [lost(one) if one.attack.name != "none" and one.seed == 2 else one
               for one in suspects(4)]  # fmt: skip
    row = frames_of(records)["detectability"].query("reading == 'score'").iloc[0]
    assert (row.models, row.failed, row.auc, row.target_found) == (4, 1, 1, 1)


def test_an_attack_without_any_model_has_no_row(tmp_path: Any) -> None:
    records = [lost(one) if one.attack.name != "none" else one for one in suspects(4)]
    assert frames_of(records)["detectability"].empty
    build(save(tmp_path, records))


def test_an_inverter_that_failed_has_found_no_trigger() -> None:
    records = [played("badnets", None, seed) for seed in range(2)]
    found = [inverted("badnets", "smoothinv", seed, 30, b"") for seed in range(2)]
    whole = frames_of([*records, *found])["inversions"].iloc[0]
    row = frames_of([*records, found[0], lost(found[1])])["inversions"].iloc[0]
    assert (row.models, row.failed) == (2, 1)
    assert row.asr_selected == pytest.approx(whole.asr_selected / 2)
    assert row.asr_best == pytest.approx(whole.asr_best / 2)
    assert row.target_auc < whole.target_auc


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, TRIGGERED), min_size=2, max_size=5), st.data())
def test_no_defense_gains_by_losing_a_record(left: list[int], data: st.DataObject) -> None:
    seeds = range(len(left))
    undefended = [played("badnets", None, seed) for seed in seeds]
    cells = [
        played("badnets", "repairer", seed, hits, cda=(95, data.draw(st.integers(0, CLEAN)), 90))
        for seed, hits in enumerate(left)
    ]
    which = data.draw(st.sampled_from(seeds))
    honest = frames_of([*undefended, *cells])["repairs"].iloc[0]
    cells[which] = lost(cells[which])
    other = frames_of([*undefended, *cells])["repairs"].iloc[0]
    for name in ("asr_paper", "asr_paper_high", "asr_deployable"):
        assert other[name] >= honest[name]
    assert other.seeds_repaired_paper <= honest.seeds_repaired_paper
