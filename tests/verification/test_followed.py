"""A victim that is followed: what it answered after each epoch, which nobody may change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_board
from forgeries import at, edit, edit_evidence, rate, record_of

from benchmark import protocol as protocols
from benchmark.experiments.declared import PaperExperiment
from benchmark.games.robustness.shown import epochs
from benchmark.leaderboard.board import read_board
from benchmark.protocol import Protocol
from benchmark.registry import Registry
from benchmark.runs.context import Setup
from benchmark.runs.plan import plan
from benchmark.runs.tasks import Worker
from benchmark.verification.verify import verify

CELL = "robustness-badnets-m40-none-s0"


def followed(count: int, **training: Any) -> Protocol:
    """A small protocol that follows so many epochs; rates stay what they are from the first on."""
    text = small_board.TOML.replace("epochs = 3", f"epochs = {count}\nschedule = 'constant'")
    protocol = small_board.parsed(text)
    recipe = protocol.recipes["standard"].model_copy(update=training)
    return protocol.model_copy(update={"recipes": {"standard": recipe}})


def play(protocol: Protocol, root: Path, registry: Registry) -> Path:
    worker = Worker(Setup(protocol, "standard", "cpu", (), None, root))
    cells = plan(protocol, registry, attacks=["badnets:m=40"], defenses=["pivotal-tuning"], seeds=1)
    for cell in cells:
        if cell.trusted_share != 0.1:
            for victim in cell.needs():
                assert worker.train_victim(victim) is None
            assert worker.play_cell(cell) is None
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    return play(followed(3, followed=True), tmp_path_factory.mktemp("followed"), registry)


def read(root: Path, name: str = CELL) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    record = json.loads(record_of(root, name).read_text())
    with np.load(root / "evidence" / record["evidence"]["file"]) as arrays:
        return record, dict(arrays)


def test_each_epoch_is_what_a_training_of_so_many_epochs_ends_with(
    whole: Path, tmp_path: Path, registry: Registry
) -> None:
    """The rate does not change, so that a shorter training is the beginning of a longer one."""
    record, arrays = read(whole)
    assert [(point["stage"], point["step"]) for point in record["epochs"]] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
    ]
    short, shorter = read(play(followed(2), tmp_path, registry))
    assert "epochs" not in short
    assert not any(name.startswith("epochs") for name in shorter)
    for own, last in ((arrays, 2), (shorter, 1)):
        for part in ("test", "triggered"):
            assert (arrays[f"epochs_{part}"][last] == own[part][0]).all()
    assert record["epochs"][1]["asr"] == short["curve"][0]["asr"]
    assert record["epochs"][2]["cda"] == record["curve"][0]["cda"]
    assert record["epochs"][0]["cda"] != record["epochs"][2]["cda"]


def test_repairs_say_nothing_of_epochs(whole: Path) -> None:
    record, arrays = read(whole, "robustness-badnets-m40-pivotal-tuning-r0.05-s0")
    assert "epochs" not in record
    assert not any(name.startswith("epochs") for name in arrays)


def test_the_table_holds_every_epoch_of_every_attack(whole: Path) -> None:
    table = epochs(read_board(whole).sources)
    assert [(row.attack, row.epoch) for row in table.itertuples()] == [
        (name, epoch) for name in ("badnets", "none") for epoch in (1, 2, 3)
    ]
    record, _ = read(whole)
    assert table.asr[2] == record["curve"][0]["asr"]["hits"] / record["curve"][0]["asr"]["total"]
    assert table.asr[3:].isna().all()


def test_an_experiment_lays_settings_over_the_recipe() -> None:
    part = {"attacks": ["badnets"], "defenses": []}
    shown = {"frame": "epochs", "columns": ["attack", "epoch", "asr"]}
    texts = dict.fromkeys(["paper", "shows", "question", "published"], "so")
    own: dict[str, Any] = {"name": "own", "protocol": small_board.NAME, "cells": [part]}
    plain = small_board.parsed()
    longer = PaperExperiment(**own, **texts, show=[shown], training={"epochs": 9, "followed": True})
    assert PaperExperiment(**own, **texts, show=[shown]).on(plain) is plain
    changed = longer.on(plain)
    assert changed.name == "small-v1-own"
    assert (changed.recipes["standard"].epochs, changed.recipes["standard"].followed) == (9, True)
    assert changed.splits == plain.splits


@pytest.fixture
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, of a protocol that is released for the time of a test."""
    protocol = followed(3, followed=True)
    text = small_board.TOML.replace(
        "epochs = 3", "epochs = 3\nschedule = 'constant'\nfollowed = true"
    )
    folder = small_board.release(tmp_path)
    (folder / "small-v1.toml").write_text(text)
    (folder / "released.lock").write_text(f"{protocol.sha256}  small-v1\n")
    monkeypatch.setattr(protocols, "_FOLDER", folder)
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_what_was_played_holds(copy: Path) -> None:
    assert verify(copy).findings == []


def test_a_forged_epoch_is_found(copy: Path) -> None:
    total = read(copy)[0]["epochs"][1]["asr"]["total"]
    edit(record_of(copy, CELL), at("epochs.1.asr", rate(3, total)))
    assert [finding.field for finding in verify(copy).findings] == ["epochs.1.asr"]


def test_epochs_of_too_few_answers_are_refused(copy: Path) -> None:
    edit_evidence(copy, CELL, at("epochs_test", np.zeros((3, 7), np.int16)))
    assert any("epochs_test" in str(finding) for finding in verify(copy).findings)


def test_epochs_that_do_not_end_with_the_victim_are_found(copy: Path) -> None:
    """However well the numbers were made anew."""
    _, arrays = read(copy)
    other = arrays["epochs_test"].copy()
    other[2] = other[0]
    edit_evidence(copy, CELL, at("epochs_test", other))
    assert [finding.field for finding in verify(copy).findings] == ["epochs.2"]


def test_epochs_of_who_was_not_followed_are_refused(copy: Path) -> None:
    repair = "robustness-badnets-m40-pivotal-tuning-r0.05-s0"
    edit_evidence(copy, repair, at("epochs_test", np.zeros((3, 200), np.int16)))
    assert any("was not followed" in str(finding) for finding in verify(copy).findings)
