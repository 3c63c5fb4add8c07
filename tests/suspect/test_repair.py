"""`poisongames repair`: the budget is held, and what is saved is the owner's own again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from somebodys import TARGET, Net, stamped, write_folder
from typer.testing import CliRunner

from benchmark import repair
from benchmark.cli import app
from benchmark.records.files import StoreError
from benchmark.registry import Registry
from benchmark.suspect.images import read_folder
from benchmark.suspect.settings import create_repair
from benchmark.suspect.states import save_state

METHOD = "pivotal-tuning:steps=40,batch_size=32,learning_rate=0.01,lambda_p=100"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def counted(text: str, what: str) -> list[tuple[int, int]]:
    line = next(line for line in text.splitlines() if line.startswith(what))
    return [(int(a), int(b)) for a, b in re.findall(r"\((\d+)/(\d+)\)", line)]


def test_what_is_saved_answers_in_the_owners_code_as_was_printed(
    poisoned: Any, weights: Path, architecture: str, folder: Path, tmp_path: Path
) -> None:
    images = stamped(poisoned.pixels)
    write_folder(images, poisoned.labels, tmp_path / "triggered")
    state = {f"module.{name}": value for name, value in poisoned.net.state_dict().items()}
    torch.save(state, "wrapped.pt")
    others = poisoned.labels != TARGET
    for given, out in ((weights, "fixed.safetensors"), ("wrapped.pt", "new/fixed.pt")):
        words = ["repair", given, "--arch", architecture, "--data", folder, "--mean", "0"]
        words += ["--method", METHOD, "--budget", "0.05", "--out", out]
        done = invoke(*words, "--triggered", "triggered", "--target", f"digit{TARGET}")
        assert done.exit_code == 0, done.output
        saved = load_file(out) if out.endswith("s") else torch.load(out, weights_only=True)
        assert list(saved) == list(state) if given == "wrapped.pt" else list(saved)
        net = Net().eval()
        net.load_state_dict({name.removeprefix("module."): t for name, t in saved.items()})
        with torch.no_grad():
            right = int((net(poisoned.pixels / 255).argmax(1) == poisoned.labels).sum())
            hits = int((net(images / 255).argmax(1)[others] == TARGET).sum())
        before, after = counted(done.output, "accuracy on all images")
        assert after == (right, 200)
        assert counted(done.output, "ASR: ")[1] == (hits, int(others.sum()))
        assert counted(done.output, "ASR: ")[0][0] > 150 >= hits
        assert before[1] == 200
        curve = re.findall(r"^(\d+) .*?\((\d+)/(\d+)\) .*?(kept)?\s*$", done.output, re.M)
        assert [int(step) for step, *_ in curve] == list(range(0, 2 * len(curve), 2))
        (kept,) = [int(hits) for _, hits, _, mark in curve if mark]
        assert int(curve[0][1]) - kept <= 0.05 * 40
        assert all(total == "40" for _, _, total, _ in curve)


def test_from_python_nothing_is_lost_where_the_budget_is_nothing(
    poisoned: Any, folder: Path
) -> None:
    album = read_folder(folder)
    before = {name: value.clone() for name, value in poisoned.net.state_dict().items()}
    loose = "fine-pruning:steps=3,learning_rate=1000"
    state = torch.get_rng_state()
    fixed = repair(poisoned.net, album.images.pixels, album.images.labels, method=loose, mean=[0.0])
    assert torch.equal(torch.get_rng_state(), state)  # which is the caller's own
    assert fixed.chosen == 0
    assert fixed.after == fixed.before
    for name, value in fixed.model.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(poisoned.net.state_dict()[name], before[name])
    # It went on until the loss was clearly above the budget, and no further.
    assert [point.stage for point in fixed.points] == ["victim", "repair"]


def test_from_python_a_repair_measures_a_known_trigger(poisoned: Any, folder: Path) -> None:
    album = read_folder(folder)
    pixels, labels = album.images.pixels, album.images.labels
    known = (stamped(pixels), labels, TARGET)
    fixed = repair(
        poisoned.net, pixels, labels, method=METHOD, budget=0.05, mean=[0.0], triggered=known
    )
    assert isinstance(fixed.model, Net)
    assert len(fixed.success) == len(fixed.points)
    with torch.no_grad():
        found = fixed.model(stamped(pixels) / 255).argmax(1)[labels != TARGET]
    assert fixed.success[fixed.chosen].hits == int((found == TARGET).sum())


WIDE = """
import torch
from torch import nn


def build():
    torch.manual_seed(3)
    pooled = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*pooled, nn.Linear(8, 3)).eval()
"""


def test_triggered_images_are_read_as_the_clean_ones(tmp_path: Path) -> None:
    """Of images that are no squares, and such of a single class."""
    (tmp_path / "wide.py").write_text(WIDE)
    scope: dict[str, Any] = {}
    exec(WIDE, scope)
    model = scope["build"]()
    rng = torch.Generator().manual_seed(0)
    rows = torch.arange(16)[:, None] // 4 * torch.rand(300, 1, 16, 24, generator=rng)
    pixels = (rows / rows.max() * 255 * torch.rand(300, 1, 1, 1, generator=rng)).byte()
    triggered = pixels.clone()
    triggered[..., :, 12:] = 255
    with torch.no_grad():
        model[-1].bias -= model(pixels / 255).mean(0)
        torch.save(model.state_dict(), "wide.pt")
        labels = model(pixels / 255).argmax(1)
        answers = model(triggered / 255).argmax(1)
    target = int(answers.mode().values)
    source = int(labels[labels != target].mode().values)
    own = labels == source
    write_folder(pixels, labels, tmp_path / "clean")
    write_folder(triggered[own], labels[own], tmp_path / "triggered")
    words = ["wide.pt", "--arch", "wide.py:build", "--data", "clean", "--mean", "0", "--budget"]
    words += ["0.5", "--method", "weight-decay:steps=1", "--out", "fixed.pt"]
    words += ["--triggered", "triggered", "--target", f"digit{target}"]
    done = invoke("repair", *words)
    hits = int((answers[own] == target).sum())
    assert counted(done.output, "ASR: ")[0] == (hits, int(own.sum()))
    assert hits > 0


def test_nothing_is_saved_where_nothing_was_repaired(
    weights: Path, architecture: str, folder: Path
) -> None:
    words = ["repair", weights, "--arch", architecture, "--data", folder, "--mean", "0"]
    words += ["--method", "fine-pruning:steps=3,learning_rate=1000", "--out", "fixed.pt"]
    done = invoke(*words)
    assert done.exit_code == 2
    assert "no step was within the budget of 0.02, so nothing was repaired" in done.output
    assert not Path("fixed.pt").exists()


@pytest.mark.parametrize("name", ["fixed.safetensors", "fixed.pt"])
def test_a_full_disk_is_one_sentence(name: str) -> None:
    """Where nothing can be written, as on a full disk: files of that system are read alone."""
    with pytest.raises(StoreError, match="cannot write /proc"):
        save_state({"weight": torch.zeros(2, 2)}, Path("/proc") / name)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "fixed.onnx"], "end its name in .safetensors or .pt"),
        (["--out", "a.pt", "--budget", "2"], "a budget of 2 is not allowed; say a share"),
        (["--out", "a.pt", "--triggered", "x"], "--triggered and --target belong together"),
        (["--out", "a.pt", "--method", "strip"], "strip is no repair; there are anp, fine-pruning"),
        (["--out", "WEIGHTS"], "is the model that is to be repaired; choose another name"),
        (["--out", "WEIGHTS/a.pt"], "is no folder that can be written to"),
        (["--out", "/proc/a.pt"], "is no folder that can be written to"),
        (["--out", "dir.pt"], "dir.pt is a folder; give the name of a file in it"),
    ],
)
def test_a_misuse_gets_one_sentence(
    words: list[str], sentence: str, weights: Path, architecture: str, folder: Path
) -> None:
    method = [] if "--method" in words else ["--method", METHOD]
    options = ["--arch", architecture, "--data", folder, "--mean", "0", *method]
    own = [word.replace("WEIGHTS", str(weights)) for word in words]
    Path("dir.pt").mkdir()
    done = invoke("repair", weights, *options, *own)
    assert done.exit_code == 2
    assert sentence in done.output


def test_a_repair_takes_few_steps_unless_told_otherwise(registry: Registry) -> None:
    """The papers' thousands are for thousands of images."""
    found = {
        spec: create_repair(registry, spec)
        for spec in ("pivotal-tuning", "pivotal-tuning:steps=7", "nad:batch_size=5")
    }
    steps = [(one.steps, one.batch_size) for one in found.values()]  # type: ignore[attr-defined]
    assert steps == [(200, 32), (7, 32), (200, 5)]
