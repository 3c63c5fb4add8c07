"""A small network of somebody's with a backdoor, as files and as code."""

from __future__ import annotations

from pathlib import Path

import pytest
import somebodys
import torch
from somebodys import Given


@pytest.fixture(scope="session")
def poisoned() -> Given:
    return somebodys.trained(somebodys.TARGET)


@pytest.fixture(scope="session")
def folder(poisoned: Given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return somebodys.write_folder(
        poisoned.pixels, poisoned.labels, tmp_path_factory.mktemp("trusted")
    )


@pytest.fixture(scope="session")
def weights(poisoned: Given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(poisoned.net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file that builds such a network, as `--arch` takes it."""
    path = tmp_path_factory.mktemp("code") / "net.py"
    lines = Path(somebodys.__file__).read_text().split("class Net")[1].split("@dataclass")[0]
    path.write_text(
        "import torch\nfrom torch import Tensor, nn\n\n\nclass Net" + lines + "def build():\n"
        "    return Net()\n"
    )
    return f"{path}:build"
