"""A released protocol that is played in seconds, and what came of it, for tests of results."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from benchmark.protocol import Protocol
from benchmark.records.cell import Cell
from benchmark.registry import Registry
from benchmark.runs.context import Setup
from benchmark.runs.plan import plan
from benchmark.runs.tasks import Worker

NAME = "small-v1"
#: Accuracy may fall by a third, so that a short repair is not stopped.
TOML = """
name = "small-v1"
summary = "digits, hardly trained: for tests of what was played"
architecture = "resnet-small:width=16"
recipe = "standard"

[splits]
dataset = "digits"
train = 400
trusted = 60
auxiliary = 60
validation = 60
test = 200

[augmentation]
pad = 1

[recipes.standard]
epochs = 3
batch_size = 50
learning_rate = 0.1

[robustness]
budget = 0.3
shares = [0.05, 0.1]
interval = 2
seeds = 3
defenses = [
  "pivotal-tuning:steps=8,batch_size=16,lambda_p=10",
  "weight-decay:steps=8,batch_size=16,learning_rate=3",
  "strip:overlays=4",
]

[robustness.default_m]
poison-label = 40
clean-label = 20
code = 0

[[robustness.attacks]]
attack = "badnets:side=0.25"
m = 40

[detectability]
models = 3
repeats = 3
share = 0.1
detectors = ["abs:steps=2,candidates=3,batch_size=4", "neural-cleanse:steps=6,batch_size=4"]

[[detectability.attacks]]
attack = "badnets:side=0.25"
m = [40]

[inversion]
models = 2
start_images = 3
curve_starts = 2
radii = [0.5, 1, 2, 4]
runs = 3
selection = 30
evaluation = 45
sigmas = [0.0, 0.5]
inverters = ["smoothinv:steps=3,samples=2", "plainadv:steps=5"]

[[inversion.attacks]]
attack = "blind-p"

[inversion.configurations.smoothinv]
epsilon = [0.5, 2.0]

[tuning]
suspect = 9
draws = 1
steps = 20
batch_size = 16
learning_rate = 0.05

[tuning.grids.weight-decay]
learning_rate = [0.1, 0.2, 0.3, 0.4, 0.5]
decay = [0.1, 0.2, 0.3, 0.4]
"""
#: Another protocol, released beside it.
OTHER = TOML.replace(NAME, "other-v1")


def parsed(text: str = TOML) -> Protocol:
    return Protocol.model_validate(tomllib.loads(text))


def release(folder: Path) -> Path:
    """A folder of released protocols that holds these two."""
    lines = []
    for text in (TOML, OTHER):
        protocol = parsed(text)
        (folder / f"{protocol.name}.toml").write_text(text)
        lines.append(f"{protocol.sha256}  {protocol.name}\n")
    (folder / "released.lock").write_text("".join(lines))
    (folder / "withdrawn.txt").write_text("")
    return folder


#: What is played of it: rows per game and kind of defense, with all that they rest on.
PLAYED = (
    "robustness-*-none-s*",
    "robustness-badnets-*-pivotal-tuning-r0.05-s*",
    "robustness-badnets-*-strip-r0.05-s*",
    "robustness-none-*-weight-decay-r0.1-s0",
    "detectability-*",
    "inversion-*",
)


def cells(registry: Registry, patterns: Sequence[str]) -> list[Cell]:
    """Cells whose names match, but for the hash at their end."""
    wanted = (
        (["badnets"], ["pivotal-tuning", "weight-decay", "strip", "abs"]),
        (["blind-p"], ["smoothinv", "plainadv"]),
    )
    found = [
        cell
        for attacks, defenses in wanted
        for cell in plan(parsed(), registry, attacks=attacks, defenses=defenses)
    ]
    return [
        cell
        for cell in {cell.key: cell for cell in found}.values()
        if any(fnmatch(cell.name.rsplit("-", 1)[0], pattern) for pattern in patterns)
    ]


def play(root: Path, registry: Registry, patterns: Sequence[str] = PLAYED) -> Path:
    """Play what matches in this process, and return the run's folder."""
    root.mkdir(parents=True, exist_ok=True)
    worker = Worker(Setup(parsed(), "standard", "cpu", (), None, root))
    for cell in cells(registry, patterns):
        for victim in cell.needs():
            assert worker.train_victim(victim) is None
        assert worker.play_cell(cell) is None
    return root


def cut(run: Path, patterns: Iterable[str], folder: Path) -> Path:
    """Copy the records that match, with what lies beside them."""
    for pattern in patterns:
        found = sorted(run.glob(pattern))
        assert found, pattern
        for path in found:
            place = folder / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return folder
