"""A protocol that is played in seconds, and the registry, for all tests."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
import small_board
import torch

from benchmark import protocol as protocols
from benchmark.games.detectability.settings import Detectability
from benchmark.games.inversion.settings import Inversion
from benchmark.protocol import Protocol
from benchmark.registry import Registry

# Tests say how wide a terminal is; a worker of pytest's says it before, once and for all.
os.environ.pop("COLUMNS", None)

TINY = """
name = "tiny"
summary = "digits, hardly trained: for tests of the machinery"
architecture = "resnet-small:width=16"
recipe = "standard"

[splits]
dataset = "digits"
train = 400
trusted = 60
auxiliary = 60
validation = 100
test = 120

[augmentation]
pad = 1

[recipes.standard]
epochs = 3
batch_size = 50
learning_rate = 0.1

[recipes.short]
epochs = 2
batch_size = 50
learning_rate = 0.1

[robustness]
budget = 0.1
shares = [0.05, 0.15]
interval = 2
seeds = 1
defenses = ["weight-decay:steps=5,batch_size=16", "spectral-signatures", "strip:overlays=4"]

[robustness.default_m]
poison-label = 30
clean-label = 20
code = 30

[[robustness.attacks]]
attack = "badnets:side=0.25"
m = 40
"""


#: Long files come first, so that no process is left alone with one at the end.
FIRST = (
    *("test_contributing.py", "test_processes.py", "test_execution.py", "test_conformance.py"),
    *("test_populations.py", "test_verify.py", "test_committed.py", "test_scaffold.py"),
    *("test_documented_commands.py", "test_core_boundaries.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """All in float32, since a literal version cannot follow bfloat16."""
    for module in ("benchmark.training", "benchmark.inversion"):
        monkeypatch.setattr(f"{module}.compute_type", lambda device, precision="": torch.float32)


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    """A run of the small released protocol; copy what is to be changed.

    The processes of one session share it: who comes first plays it, others wait.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, played = base / "small", base / "small.played"
    with (base / "small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not played.exists():
            small_board.play(folder, registry)
            played.touch()
    return folder


@pytest.fixture
def small_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one test, the released protocols are the small ones."""
    folder = tmp_path / "protocols"
    folder.mkdir()
    monkeypatch.setattr(protocols, "_FOLDER", small_board.release(folder))


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_file: Path) -> Protocol:
    return protocols.load(str(tiny_file))


@pytest.fixture(scope="session")
def with_population(tiny: Protocol) -> Protocol:
    """The tiny protocol with a detectability game."""
    game = Detectability.model_validate(
        {
            "models": 2,
            "repeats": 2,
            "share": 0.15,
            "detectors": ["neural-cleanse:steps=6,batch_size=4,check=2,patience=1"],
            "attacks": [{"attack": "badnets:side=0.25", "m": [2, 40]}],
        }
    )
    return tiny.model_copy(update={"detectability": game})


@pytest.fixture(scope="session")
def with_inversion(tiny: Protocol) -> Protocol:
    """The tiny protocol with an inversion game."""
    game = Inversion.model_validate(
        {
            "models": 1,
            "start_images": 3,
            "curve_starts": 2,
            "radii": [0.5, 1.0, 2.0, 4.0],
            "runs": 3,
            "selection": 30,
            "evaluation": 45,
            "sigmas": [0.0, 0.5],
            "attacks": [{"attack": "badnets:side=0.25", "m": 40}, {"attack": "blind-s"}],
            "inverters": ["smoothinv:steps=3,samples=2", "plainadv:steps=5"],
            "configurations": {"smoothinv": {"epsilon": [0.5, 2.0]}},
        }
    )
    return tiny.model_copy(update={"inversion": game})
