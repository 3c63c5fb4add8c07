"""Victims that start from weights: known by a digest, trained only where that is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from typer.testing import CliRunner, Result

from benchmark import data
from benchmark.api import Architecture, Dataset
from benchmark.classifier import tensors_sha256
from benchmark.cli import app
from benchmark.games.all import read
from benchmark.games.experiment import Experiment
from benchmark.games.initial import initial
from benchmark.models import SmallResNet
from benchmark.protocol import Protocol, ProtocolError, Recipe, load
from benchmark.records.cell import Cell
from benchmark.registry import Registry
from benchmark.runs.context import Setup
from benchmark.runs.plan import plan
from benchmark.runs.tasks import Worker
from benchmark.verification import identity
from benchmark.verification.claims import Claims, claims_of

SHAPE = (1, 16, 16)
PLAIN = {"epochs": 1, "batch_size": 50, "learning_rate": 0.1, "precision": "float32"}
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def pretrained(path: Path, seed: int = 0, classes: int = 10, width: int = 16) -> dict[str, Tensor]:
    """A small network's tensors, as a run saves them, in a file."""
    torch.manual_seed(seed)
    model = SmallResNet(width=width).build(SHAPE, classes)
    model.normalise_by(torch.tensor([0.2]), torch.tensor([0.4]))
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.add_(torch.rand_like(tensor) / 10)
    save_file(model.state_dict(), path)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pretrained(tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def started(tiny_file: Path, file: Path, trains: str = "") -> Protocol:
    """The tiny protocol with a start, and no defenses."""
    text = tiny_file.read_text()
    text = re.sub(r"defenses = \[.*\]", "defenses = []", text)
    own = f'[recipes.standard]\ninit = "{file}"\ntrains = [{trains}]\nprecision = "float32"'
    path = file.with_suffix(".toml")
    path.write_text(text.replace("[recipes.standard]", own))
    return load(str(path))


def run(file: Path, *words: str) -> Result:
    own = ["run", str(file.with_suffix(".toml")), "--out", str(file.parent / "run")]
    return CliRunner().invoke(app, [*own, "--device", "cpu", *words], env={"COLUMNS": "600"})


def experiment(protocol: Protocol, registry: Registry) -> Experiment:
    source = data.load(registry.create(Dataset, protocol.splits.dataset))
    return Experiment(protocol, source, registry)


def test_recipes_without_a_start_are_written_as_ever() -> None:
    """So protocols and keys that were released stay the same."""
    assert Recipe(**PLAIN).model_dump().keys() == {
        *("epochs", "batch_size", "learning_rate", "momentum", "nesterov", "weight_decay"),
        *("schedule", "warmup", "precision"),
    }
    dumped = Recipe(**PLAIN, init="a.safetensors", trains=("head",)).model_dump(mode="json")
    assert (dumped["init"], dumped["trains"]) == ("a.safetensors", ["head"])


def test_a_new_model_is_the_file(tiny_file: Path, file: Path, registry: Registry) -> None:
    """Normalisation included, whatever the statistics of the protocol's own images."""
    own = pretrained(file)
    found = experiment(started(tiny_file, file), registry)
    model = found.new_model(found.rng("model")).state_dict()
    assert model.keys() == own.keys()
    assert all(torch.equal(model[name], own[name]) for name in own)
    assert not found.initial.note


def test_a_head_of_other_classes_is_drawn_and_said_once(
    tiny_file: Path, file: Path, registry: Registry
) -> None:
    own = pretrained(file, classes=7)
    found = experiment(started(tiny_file, file), registry)
    first, second = (found.new_model(found.rng("model", n)).state_dict() for n in (0, 1))
    assert first["head.weight"].shape[0] == 10
    assert not torch.equal(first["head.weight"], second["head.weight"])
    kept = [name for name in own if not name.startswith("head.")]
    assert all(torch.equal(first[name], own[name]) for name in kept)

    said = run(file, "--time-limit", "0s").output
    sentence = f"{file} has a head of 7 classes, which is replaced by a fresh one of 10"
    assert said.count(sentence) == 1


@pytest.mark.parametrize("trained", [("head",), ("layer3", "head"), ("stem",)])
def test_only_named_parts_are_trained(
    tiny_file: Path, file: Path, registry: Registry, trained: tuple[str, ...]
) -> None:
    """All else keeps its bytes: weights, and what batch norms have counted."""
    own = pretrained(file)
    names = ", ".join(f'"{name}"' for name in trained)
    found = experiment(started(tiny_file, file, names), registry)
    model = found.new_model(found.rng("model"))
    found.trainer().fit(model, found.splits.train, found.rng("train"))
    for name, tensor in model.state_dict().items():
        part = name.split(".")[1] if name.startswith("stages.") else name.split(".")[0]
        same = torch.equal(tensor, own[name])
        assert same != (part in trained), f"{name} {'stayed' if same else 'changed'}"
    # Defenders are not bound by how the victim was trained.
    assert all(p.requires_grad for p in found.rebuilt(model, "a plugin").parameters())
    again = found.rebuilt(model, "a plugin").train()
    assert all(part.training for part in again.modules())


def test_the_bytes_of_the_start_are_part_of_every_key(
    tiny_file: Path, file: Path, registry: Registry
) -> None:
    protocol = started(tiny_file, file)
    before = plan(protocol, registry)
    assert plan(protocol, registry) == before
    pretrained(file, seed=1)
    after = plan(protocol, registry)
    assert not {c.key for c in before} & {c.key for c in after}
    assert not {c.victim.key for c in before} & {c.victim.key for c in after}


def test_records_name_the_start_and_are_found_by_it(
    tiny_file: Path, file: Path, tmp_path: Path
) -> None:
    own = pretrained(file)
    protocol = started(tiny_file, file, '"head"')
    (tmp_path / "run").mkdir()
    worker = Worker(Setup(protocol, "standard", "cpu", (), None, tmp_path / "run"))
    cell = plan(protocol, worker.registry)[0]
    assert worker.train_victim(cell.victim) is None
    assert worker.play_cell(cell) is None
    (path,) = (tmp_path / "run" / "records").iterdir()
    record = read(path.read_bytes())
    assert record.protocol.init == tensors_sha256(own)
    assert Cell.of(record).key == record.key == cell.key
    assert [*identity.check(record, path.name, protocol)] == []

    unsaid = record.model_copy(
        update={"protocol": record.protocol.model_copy(update={"init": None})}
    )
    assert "protocol.init" in dict(identity.check(unsaid, path.name, protocol))
    other = record.model_copy(
        update={"protocol": record.protocol.model_copy(update={"init": "0" * 64})}
    )
    claims = Claims()
    for number, one in enumerate((record, other)):
        claims.add(claims_of(one, None), f"{number}.json")
    assert ("1.json", "protocol.init") in {found[:2] for found in claims.contradictions()}

    # A file that changes under a run is noticed before anything is trained from it.
    pretrained(file, seed=1)
    error = worker.train_victim(plan(protocol, worker.registry)[0].victim)
    assert error is not None
    assert re.search(r"init: .*has digest \w{12}…, this victim starts from \w{12}…", error.message)


def test_torchvisions_weights_bring_their_names_and_normalisation(
    monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()

    def fetch(self: Any, **_: Any) -> dict[str, Tensor]:
        return theirs.state_dict()

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fetch)
    recipe = Recipe(**PLAIN, init="ResNet18_Weights.IMAGENET1K_V1")
    architecture = registry.create(Architecture, "resnet18")
    found = initial(recipe, architecture, (3, 72, 72), 4)
    assert "a head of 1000 classes" in found.note
    model = architecture.build((3, 72, 72), 4).eval()
    model.load_state_dict(found.state, strict=False)
    images = torch.rand(2, 3, 72, 72)
    theirs.fc = nn.Identity()
    with torch.no_grad():
        expected = theirs((images - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))
        torch.testing.assert_close(model.features(images), expected, rtol=1e-4, atol=1e-5)

    with pytest.raises(
        ProtocolError, match=r"resnet18 for 3x32x32 .*stem\.0\.weight is \(64, 3, 7"
    ):
        initial(recipe, architecture, (3, 32, 32), 4)


def _damaged(file: Path) -> None:
    file.write_bytes(b"no weights")


def _without_statistics(file: Path) -> None:
    own = pretrained(file)
    save_file({name: own[name] for name in own if name not in ("mean", "std")}, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "there is no file .*start.safetensors; check the path"),
        (_damaged, "start.safetensors cannot be read .*; save or fetch it again"),
        (_without_statistics, "lacks mean and std; add, per channel, what the images"),
        (
            lambda file: pretrained(file, width=32),
            r"does not fit resnet-small for 1x16x16 images: stages\.stem\.0\.weight is "
            r"\(32, 1, 3, 3\), expected \(16, 1, 3, 3\), .* and \d+ more; give weights",
        ),
    ],
)
def test_bad_starts_are_said_in_one_sentence_before_anything_is_trained(
    tiny_file: Path, file: Path, damage: Callable[[Path], Any], message: str
) -> None:
    started(tiny_file, file)
    damage(file)
    done = run(file)
    assert not [*(file.parent / "run").rglob("*.safetensors")]
    assert done.exit_code == 2
    assert re.search(f"init: .*{message}", done.output)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trains": ("layer9",)}, "'layer9' is no part of resnet-small .* stem, layer1, layer2, "),
        ({"trains": ("neck",)}, "'neck' is no part of resnet-small that can be trained; .*, head$"),
        ({"init": "ResNet19_Weights.BEST"}, "'ResNet19_Weights.BEST' is neither a file"),
        ({"init": "weights.pt"}, "'weights.pt' is neither a file .safetensors nor weights"),
    ],
)
def test_parts_and_weights_that_do_not_exist_are_named(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProtocolError, match=message):
        initial(Recipe(**PLAIN, **settings), SmallResNet(), SHAPE, 10)
