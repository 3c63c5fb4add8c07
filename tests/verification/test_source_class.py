"""Attacks from a single class: what they may change, and whose images count, in every game."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_board
from forgeries import edit, edit_evidence, record_of

from benchmark.api import Attack, PoisoningAttack
from benchmark.conformance import tiny
from benchmark.games import victims
from benchmark.games.all import read as read_record
from benchmark.games.shapes import known_source
from benchmark.protocol import ProtocolError
from benchmark.registry import Registry
from benchmark.runs.context import Setup
from benchmark.runs.plan import plan
from benchmark.runs.tasks import Worker
from benchmark.verification.verify import verify

OFFSET, SEED = 3, 1
GUARDED = "robustness-polygon-m20-strip-r0.1-s1"
INVERTED = "inversion-polygon-m20-plainadv-s1"
EXAMINED = "detectability-polygon-m20-neural-cleanse-r0.1-s1"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    """One seed of a polygon against all games. It is the second one, whose target is 1."""
    root = tmp_path_factory.mktemp("source")
    cells = plan(
        small_board.parsed(),
        registry,
        attacks=[f"polygon:m=20,source={OFFSET},smallest=0.25"],
        defenses=["strip:overlays=4", "plainadv", "neural-cleanse:steps=6,batch_size=4"],
    )
    worker = Worker(Setup(small_board.parsed(), "standard", "cpu", (), None, root))
    for cell in cells:
        if cell.victim.seed == SEED and cell.trusted_share != 0.05:
            for victim in cell.needs():
                assert worker.train_victim(victim) is None
            assert worker.play_cell(cell) is None
    return root


def read(root: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    record = json.loads(record_of(root, name).read_text())
    with np.load(root / "evidence" / record["evidence"]["file"]) as arrays:
        return record, dict(arrays)


def test_only_images_of_the_source_class_count(played: Path) -> None:
    record, arrays = read(played, GUARDED)
    source = SEED + OFFSET
    own = arrays["labels_test"] == source
    assert record["target"] == SEED
    assert int(arrays["source"]) == source
    for point, answers in zip(record["curve"], arrays["triggered"], strict=True):
        assert point["asr"]["hits"] == (answers[own] == SEED).sum()
        assert point["asr"]["total"] == own.sum() == len(arrays["confidence"])
        assert point["asr_game"] == (answers[own] == SEED).mean()
    assert record["metrics"]["asr_clean_model"]["total"] == own.sum()
    clean, dirty = arrays["suspicion_test"], arrays["suspicion_triggered"][own]
    wins = (dirty[:, None] > clean).mean() + (dirty[:, None] == clean).mean() / 2
    assert record["metrics"]["guard"]["auc"] == pytest.approx(wins)


def test_an_inversion_begins_and_is_judged_there(played: Path) -> None:
    record, arrays = read(played, INVERTED)
    source = SEED + OFFSET
    assert (arrays["labels_starts"] == source).all()
    own = arrays["labels_evaluation"] == source
    bits = np.unpackbits(arrays["evaluation"], axis=-1, count=len(own)).astype(bool)
    assert record["evaluation"] == own.sum()
    assert record["tried"][0]["evaluation"] == [int(hits[own].sum()) for hits in bits[0]]
    of_target, of_another = (record["swept"][0]["classes"][0][label] for label in (SEED, 0))
    assert of_target["total"] == own.sum()
    assert of_another["total"] == (arrays["labels_evaluation"] != 0).sum()


def test_a_reversed_trigger_is_judged_there(played: Path) -> None:
    record, arrays = read(played, EXAMINED)
    assert int(arrays["source"]) == SEED + OFFSET
    own = arrays["labels_test"] == SEED + OFFSET
    for scan, answers in zip(record["scans"], arrays["reversed_answers"], strict=True):
        assert scan["success"]["total"] == own.sum() < len(own)
        assert scan["success"]["hits"] == (answers[0][own] == SEED).sum()


def test_what_was_played_verifies(played: Path, small_released: None) -> None:
    assert verify(played).findings == []


@pytest.mark.parametrize("name", [GUARDED, INVERTED, EXAMINED])
@pytest.mark.parametrize("lie", ["another class", "none", "parameter"])
def test_another_source_is_found(
    played: Path, small_released: None, tmp_path: Path, name: str, lie: str
) -> None:
    run = small_board.cut(played, ["*/*-s1-*"], tmp_path / "run")
    if lie == "another class":
        edit_evidence(run, name, lambda arrays: arrays.update(source=np.array(5, np.int16)))
    elif lie == "none":
        edit_evidence(run, name, lambda arrays: arrays.pop("source"))
    else:
        edit(record_of(run, name), lambda content: content["attack"]["params"].update(source=4))
    assert any(word in str(verify(run).findings) for word in ("source", "key"))


def test_no_attack_comes_from_its_target(played: Path) -> None:
    """The target's own images would count as hits."""
    record = read_record(record_of(played, GUARDED).read_bytes())
    params = record.attack.params | {"source": 10}
    attack = record.attack.model_copy(update={"params": params})
    arrays = {"source": np.array(SEED, np.int16)}
    found = [*known_source(arrays, record.model_copy(update={"attack": attack}), 10)]
    assert found == [("attack.params.source", "is class 1, which is the target")]


def test_poisons_are_of_the_source_class_or_of_the_target(registry: Registry) -> None:
    experiment = tiny.experiment()
    labels, target = experiment.splits.train.labels, experiment.target(0)
    for name, allowed in (("polygon:source=4", target + 4), ("htba:source=4", target)):
        attack = registry.create(Attack, name)
        assert isinstance(attack, PoisoningAttack)
        rows = victims.may_change(experiment, attack, target)
        assert rows.tolist() == (labels == allowed).nonzero().flatten().tolist()


@pytest.mark.parametrize("wrapped", ["polygon:source={}", "lsp:base=polygon,base.source={}"])
def test_a_wrapped_attack_keeps_its_source(registry: Registry, wrapped: str) -> None:
    """The record tells it from the parameters, as the attack does."""
    experiment, attack = tiny.experiment(), registry.create(Attack, wrapped.format(4))
    assert attack.source == 4
    cells = plan(small_board.parsed(), registry, attacks=[f"{wrapped.format(4)},m=9"])
    sources = {cell.victim.attack.source_class(8, 10) for cell in cells}
    assert sources == {None, 2}  # of the clean model, and 12 counted in a circle
    with pytest.raises(ProtocolError, match=r"m=5000 .* images that are of source class 4"):
        victims.check_enough(experiment, attack, 5000, 0)
    itself = registry.create(Attack, wrapped.format(10))
    with pytest.raises(ProtocolError, match=r"source=10 asked for; .*, so that 1 to 9 are"):
        victims.check_enough(experiment, itself, 1, 0)
