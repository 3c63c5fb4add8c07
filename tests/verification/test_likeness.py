"""Copies of other repetitions, curves that were drawn, rows that chance does not make."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forgeries import REPAIRED, SCANNED, SMOOTHED, at, edit, edit_evidence, record_of, renamed
from hypothesis import given, settings
from hypothesis import strategies as st
from small_board import cut

from benchmark import protocol as protocols
from benchmark.games.all import GAMES, read
from benchmark.metrics import Rate
from benchmark.records.record import Record
from benchmark.verification.likeness import equality
from benchmark.verification.verify import verify, verify_records

Arrays = dict[str, Any]


def arrays_of(run: Path, name: str) -> Arrays:
    return dict(np.load(run / "evidence" / f"{record_of(run, name).stem}.npz"))


def rescored(run: Path, name: str, change: Callable[[Arrays], object]) -> None:
    """A forger who changes the evidence, and makes all numbers of it anew."""
    edit_evidence(run, name, change)
    path = record_of(run, name)
    record: Record = read(path.read_bytes())
    game = GAMES[record.game]
    protocol = protocols.load(record.protocol.name)
    found = arrays_of(run, name)
    numbers = game.score(found, game.extra(record), protocol)
    made = (
        type(record).model_copy(record, update=dict(numbers)).model_dump(by_alias=True, mode="json")
    )
    edit(
        path, lambda content: content.update({name: made[name] for name in numbers if name in made})
    )


def moved(answers: np.ndarray, old: int, new: int) -> np.ndarray:
    """Answers in which two classes change places: the target is another one."""
    changed = answers.copy()
    changed[answers == old], changed[answers == new] = new, old
    return changed


def copied(run: Path, flips: int = 0) -> None:
    """Seed 0's repaired checkpoints under seeds 1 and 2, whose victims stay what they are."""
    source = arrays_of(run, REPAIRED)
    for seed in (1, 2):

        def change(arrays: Arrays, seed: int = seed) -> None:
            test, triggered = source["test"].copy(), moved(source["triggered"], 0, seed)
            test[1:, seed * 10 : seed * 10 + flips] += 1
            test[1:] %= 10
            for part, answers in (("test", test), ("triggered", triggered)):
                answers[0] = arrays[part][0]
                arrays[part] = answers
            arrays["held_out"] = np.concatenate([arrays["held_out"][:1], source["held_out"][1:]])

        name = REPAIRED.replace("-s0", f"-s{seed}")
        rescored(run, name, change)
        path = record_of(run, name)
        unrepaired = json.loads(path.read_text())["metrics"]["deployable"]["stage"] == "victim"
        edit(path, at("model_sha256", victim_of(path) if unrepaired else str(seed) * 64))


def victim_of(path: Path) -> str:
    return str(json.loads(path.read_text())["victim_sha256"])


def lines(run: Path) -> list[str]:
    return [str(finding) for finding in verify(run).findings]


def test_a_repetition_is_no_copy_of_another(played: Path) -> None:
    copied(played)
    found = lines(played)
    assert len(found) == 2
    assert all("evidence: says the same as that of records/" in line for line in found)


def test_nor_is_it_nearly_one(played: Path) -> None:
    copied(played, flips=2)
    assert any("evidence: says nearly the same" in line for line in lines(played))


def test_one_repair_of_a_victim_is_no_copy_of_another(
    small_run: Path, small_released: None, tmp_path: Path
) -> None:
    names = (REPAIRED, "robustness-badnets-m40-none-s0", "robustness-none-m0-none-s0")
    run = cut(small_run, (f"*/{name}-*" for name in names), tmp_path / "run")
    path = record_of(run, REPAIRED)
    shutil.copyfile(run / "evidence" / f"{path.stem}.npz", run / "evidence" / "copy.npz")
    shutil.copyfile(path, run / "records" / "copy-0.json")
    other = read(record_of(small_run, "robustness-none-m0-weight-decay-r0.1-s0").read_bytes())

    def claimed(record: dict[str, Any]) -> None:
        record["defense"] = other.defense.model_dump(mode="json")
        record["evidence"]["file"] = "copy.npz"

    edit(run / "records" / "copy-0.json", claimed)
    renamed(run, "copy")
    (found,) = (line for line in lines(run) if "evidence" in line)
    assert "says the same as that of records/robustness-badnets-m40-" in found
    assert found.endswith("which is of another repair")


def test_one_victim_may_be_trained_twice_and_answer_alike(played: Path, tmp_path: Path) -> None:
    """Other hardware ends with other weights, and a model may nevertheless say the same."""
    elsewhere = shutil.copytree(played, tmp_path / "elsewhere")
    for path in (elsewhere / "records").glob("*-s0-*.json"):
        other = ("a" if "none-m0" in path.name else "b") * 64
        path.write_text(path.read_text().replace(victim_of(path), other))
    own, board = verify_records(elsewhere), verify_records(played)
    assert own.findings == []
    assert list(own.likeness.findings(board.likeness)) == []


def test_scores_of_two_models_differ(examined: Path) -> None:
    """Those of this detector are few; others are put in their place."""
    other = SCANNED.replace("-s0", "-s1")

    def scored(name: str, seed: int, noise: float = 0.0) -> None:
        def change(arrays: Arrays) -> None:
            shape = arrays["class_scores"].shape
            made = np.random.default_rng(seed).random(shape) + noise * np.eye(*shape)
            arrays["class_scores"] = made.astype(np.float32)
            arrays["scores"] = arrays["class_scores"].max(1)

        rescored(examined, name, change)

    assert lines(examined) == []
    scored(SCANNED, 0)
    scored(other, 1)
    assert lines(examined) == []
    scored(other, 0)
    assert any("evidence: says the same" in line for line in lines(examined))
    scored(other, 0, noise=0.02)
    assert any("evidence: says nearly the same" in line for line in lines(examined))


def test_scores_of_clean_models_are_no_poisoned_ones(examined: Path) -> None:
    """They would hide any attack: a detector cannot tell two equal populations apart."""
    clean = SCANNED.replace("badnets-m40", "none-m0")

    def drawn(arrays: Arrays) -> None:
        made = np.random.default_rng(0).random(arrays["class_scores"].shape)
        arrays["class_scores"] = made.astype(np.float32)
        arrays["scores"] = arrays["class_scores"].max(1)

    rescored(examined, clean, drawn)
    assert lines(examined) == []
    kept = arrays_of(examined, clean)

    def change(arrays: Arrays) -> None:
        arrays.update({name: kept[name] for name in ("class_scores", "scores")})

    rescored(examined, SCANNED.replace("-s0", "-s1"), change)
    assert any("evidence: says the same as that of records/" in line for line in lines(examined))


def test_inverted_images_of_two_models_differ(inverted: Path) -> None:
    """Triggers of so few steps are coarse; finer ones are put in their place."""
    other = SMOOTHED.replace("-s0", "-s1")

    def drawn(arrays: Arrays) -> None:
        made = np.random.default_rng(0).integers(256, size=arrays["inverted"].shape)
        arrays["inverted"] = made.astype(np.uint8)

    assert lines(inverted) == []
    rescored(inverted, SMOOTHED, drawn)
    source = arrays_of(inverted, SMOOTHED)

    def change(arrays: Arrays) -> None:
        arrays.update({name: source[name] for name in ("starts", "inverted", "triggered")})

    rescored(inverted, other, change)
    assert any("evidence: says the same" in line for line in lines(inverted))


def test_weights_that_change_change_an_answer(played: Path) -> None:
    def change(arrays: Arrays) -> None:
        for part in ("held_out", "test", "triggered"):
            arrays[part][1:] = arrays[part][1]

    rescored(played, REPAIRED, change)
    assert any("curve: has 4 checkpoints that give the very same" in one for one in lines(played))


def slow_equality(hits: list[int], whole: int) -> float:
    """All outcomes of binomial draws of a fourth as many images, one by one."""
    share, reach, total = sum(hits) / len(hits) / whole, max(hits) - min(hits), whole // 4
    chance = [math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(total + 1)]
    return sum(
        math.prod(chance[k] for k in drawn)
        for drawn in itertools.product(range(total + 1), repeat=len(hits))
        if max(drawn) - min(drawn) <= reach
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(2, 38), min_size=2, max_size=4))
def test_the_chance_of_equal_counts_is_that_of_all_outcomes(hits: list[int]) -> None:
    found = equality([Rate(count, 40) for count in hits])
    assert found == pytest.approx(slow_equality(hits, 40), rel=1e-9)


@pytest.mark.parametrize(
    ("hits", "refused"),
    [
        ([4500] * 5, True),
        ([4500] * 3, False),  # it happens once in thousands of rows
        ([4400, 4450, 4500, 4520, 4610], False),
        ([9000] * 5, False),  # what is next to certain is equal everywhere
        ([0] * 5, False),
    ],
)
def test_a_row_is_refused_where_chance_would_not_make_it(hits: list[int], refused: bool) -> None:
    assert (equality([Rate(count, 9000) for count in hits]) < 1e-6) == refused
