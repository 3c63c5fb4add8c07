"""The commands of README and docs do what they say, on a small stand-in of what they name.

`digits-v3` is a protocol of that name that is played in seconds, in this process; the weights are
those of a ResNet-18 that learnt a dozen tiny photos by heart. Everything happens in one folder,
in the order in which somebody would do it.
"""

from __future__ import annotations

import re
import shlex
from collections import OrderedDict
from fnmatch import fnmatch
from pathlib import Path

import pytest
import small_board
import torch
import torchvision
from documented import ROOT, commands
from in_process import Here
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from benchmark import protocol as protocols
from benchmark.cli import app
from benchmark.runs import local

#: What is not run here, and why; `test_docs.py` reads the words of these too.
ONLY_READ = {
    "poisongames run cifar10-v3 *": "needs a GPU and its data",
    "poisongames experiment * cifar10-v3": "needs a GPU and its data",
    "poisongames tune cifar10-v3 *": "takes hours, and its data",
    "poisongames denoiser train *": "takes ten minutes, and its data",
    "poisongames run * --ray *": "needs a cluster; tests/runs/test_ray.py has one of processes",
    "poisongames * --attack my-attack": "needs that package, as test_contributing.py has it",
    "poisongames check my-attack": "likewise",
}
#: What a stand-in has less of; tests/verification plays again what is submitted.
FEWER = {
    r"^poisongames submit": "poisongames submit --no-replay",
    r"\+strip": "+strip:overlays=2",
    r"^poisongames scan": "poisongames scan --detector neural-cleanse:steps=4,batch_size=2",
    r"--method neural-cleanse-repair": (
        "--method neural-cleanse-repair:steps=4,batch_size=8,inversion.steps=4"
    ),
}
#: Packages first, then what is played, then what needs it; nothing is on the board before.
ORDER = ("new", "run", "submit")

TOML = """
name = "digits-v3"
summary = "stand-in for the commands of the documentation"
architecture = "resnet-small:width=16"
recipe = "standard"

[splits]
dataset = "digits"
train = 150
trusted = 40
auxiliary = 40
validation = 20
test = 60

[augmentation]
pad = 1

[recipes.standard]
epochs = 1
batch_size = 50
learning_rate = 0.1

[robustness]
budget = 0.5
shares = [0.1]
interval = 2
seeds = 1
defenses = ["pivotal-tuning:steps=4,batch_size=16,lambda_p=10"]

[robustness.default_m]
poison-label = 40
clean-label = 20
code = 0

[[robustness.attacks]]
attack = "badnets:side=0.25"
m = 40

[detectability]
models = 2
repeats = 1
share = 0.1
detectors = ["neural-cleanse:steps=4,batch_size=4"]

[[detectability.attacks]]
attack = "badnets:side=0.25"
m = [40]

[inversion]
models = 1
start_images = 2
curve_starts = 1
radii = [0.5, 1, 2, 4]
runs = 1
selection = 20
evaluation = 20
sigmas = [0.0]
inverters = ["smoothinv:steps=2,samples=2"]

[[inversion.attacks]]
attack = "badnets:side=0.25"
m = 40

[inversion.configurations.smoothinv]
epsilon = [1]
"""


def release(folder: Path) -> None:
    """All released protocols, with the stand-in among them."""
    for path in protocols._FOLDER.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    own = small_board.parsed(TOML)
    (folder / f"{own.name}.toml").write_text(TOML)
    lock = folder / "released.lock"
    lock.write_text(re.sub(rf"\w+  {own.name}\n", f"{own.sha256}  {own.name}\n", lock.read_text()))


def write_model() -> None:
    """Photos of three classes, and weights that know them."""
    torch.manual_seed(0)
    pixels, labels = torch.rand(12, 3, 8, 8), torch.arange(12) % 3
    net = torchvision.models.resnet18(num_classes=3)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # statistics of the last batch, which is all there is
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(pixels), labels).backward()
        optimizer.step()
    net(pixels)
    torch.save(net.state_dict(), "weights.pt")
    save_file(OrderedDict(net.state_dict()), "model.safetensors")
    for number, label in enumerate(labels.tolist()):
        place = Path("photos", "abc"[label])
        place.mkdir(parents=True, exist_ok=True)
        image = (pixels[number] * 255).byte().permute(1, 2, 0)
        Image.fromarray(image.numpy()).save(place / f"{number}.png")


def test_what_is_documented_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "LocalExecutor", Here)
    (tmp_path / "released").mkdir()
    release(tmp_path / "released")
    monkeypatch.setattr(protocols, "_FOLDER", tmp_path / "released")
    (tmp_path / "leaderboards").mkdir()
    write_model()
    lines = commands([ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    idle = [pattern for pattern in ONLY_READ if not any(fnmatch(line, pattern) for line in lines)]
    assert not idle
    run = [line for line in lines if not any(fnmatch(line, pattern) for pattern in ONLY_READ)]
    words_first = {word: place for place, word in enumerate(ORDER)}
    run.sort(key=lambda line: words_first.get(line.split()[1], len(ORDER)))
    for line in run:
        smaller = line
        for pattern, fewer in FEWER.items():
            smaller = re.sub(pattern, fewer, smaller)
        words = shlex.split(smaller)[1:]
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        # A scan ends with its answer, which is 2 where nothing can be told.
        undecided = (2,) if "Undecided:" in done.output else ()
        allowed = (0, 1, *undecided) if words[0] == "scan" else (0,)
        assert done.exit_code in allowed, f"{line}\n{done.output}\n{done.exception!r}"
