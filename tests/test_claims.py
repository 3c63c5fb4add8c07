"""What the released protocol `digits-v3` is there to show, with its own settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from backdoor_attacks.compensatory import target_confidence
from backdoor_attacks.tsb import TSB
from benchmark import data
from benchmark import protocol as protocols
from benchmark.api import Attack, Dataset
from benchmark.games.evaluation import ask, predictor
from benchmark.games.experiment import Experiment
from benchmark.images import to_bytes
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.runs.context import Setup
from benchmark.runs.plan import plan
from benchmark.runs.tasks import Worker

SEEDS = 1


pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    """All three attacks, and the repair that one of them is claimed to fall to."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("digits")
    protocol = protocols.load("digits-v3")
    worker = Worker(Setup(protocol, protocol.recipe, "cpu", (), None, out))
    attacks = ["badnets", "tsb", "lsp"]
    for cell in plan(protocol, registry, attacks=attacks, defenses=["fine-pruning"], seeds=SEEDS):
        if cell.defense.name == "none" or cell.victim.attack.name == "badnets":
            for victim in cell.needs():
                assert worker.train_victim(victim) is None
            assert worker.play_cell(cell) is None
    return out


@pytest.fixture(scope="module")
def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((run / "records").glob("*.json"))]


def played(records: list[dict[str, Any]], attack: str, defense: str) -> list[dict[str, Any]]:
    found = [
        record["metrics"]
        for record in records
        if (record["attack"]["name"], record["defense"]["name"]) == (attack, defense)
    ]
    assert len(found) == SEEDS
    return found


def test_badnets_works_and_fine_pruning_takes_most_of_it(records: list[dict[str, Any]]) -> None:
    (undefended,) = played(records, "badnets", "none")
    assert undefended["before"]["asr"]["value"] >= 0.95
    assert undefended["before"]["cda"]["value"] >= 0.95
    assert undefended["asr_clean_model"]["value"] <= 0.05
    (repaired,) = played(records, "badnets", "fine-pruning")
    assert repaired["paper"]["stage"] == "repair"
    assert repaired["paper"]["asr"]["value"] <= 0.15
    spent = repaired["before"]["cda"]["value"] - repaired["paper"]["cda"]["value"]
    assert spent <= 0.02 + 1e-9


def test_lsp_reaches_the_confidence_it_asks_for(records: list[dict[str, Any]]) -> None:
    rate = next(r for r in records if r["attack"]["name"] == "lsp")["attack"]["params"]["rate"]
    (undefended,) = played(records, "lsp", "none")
    assert undefended["target_confidence"] == pytest.approx(target_confidence(rate, 10), abs=0.15)


def test_all_scattered_triggers_beat_one(run: Path, records: list[dict[str, Any]]) -> None:
    protocol, registry = protocols.load("digits-v3"), Registry()
    source = data.load(registry.create(Dataset, "digits"))
    experiment = Experiment(protocol, source, registry)
    reference = next(r for r in records if r["attack"]["name"] == "tsb")["attack"]
    attack = registry.create(Attack, reference["label"])
    assert isinstance(attack, TSB)
    store, one, every = Store(run), [], []
    for folder in sorted((run / "artifacts" / "victims").iterdir()):
        if not json.loads((folder / "victim.json").read_text())["facts"]["victim"].startswith(
            "train tsb"
        ):
            continue
        model = experiment.new_model(torch.Generator())
        model.load_state_dict(store.victims.tensors(folder.name, "model"))
        state = store.victims.tensors(folder.name, "state")
        attack.setup(experiment.attacker_view(0), torch.Generator(), state)
        others = experiment.splits.test.labels != experiment.target(0)
        images = experiment.splits.test.subset(others).images
        for counts, number in ((one, 1), (every, len(state["patches"]))):
            rng = torch.Generator().manual_seed(5)
            triggered = to_bytes(attack.stamp_some(images, rng, number))
            answers = ask(predictor(model, "float32"), triggered)
            counts.append((answers == experiment.target(0)).mean())
    assert len(one) == SEEDS
    assert every[0] > one[0]
