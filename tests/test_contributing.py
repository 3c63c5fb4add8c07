"""A stranger's way from an idea to the board, with the commands of CONTRIBUTING.md as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
#: A walk through the commands trains models; what is not about them may take a minute or two.
PATIENCE = 900


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A new environment that knows PoisonGames and, from here, what it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    own = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    here = Path(sysconfig.get_paths()["purelib"])
    # Torch alone is gigabytes; its files are lent, and no plugin of ours is among them.
    Path(own["purelib"], "lent.pth").write_text(f"{here}\n")
    # Sources are built with what is lent, so that no network is needed.
    found = os.environ | {"PATH": f"{own['scripts']}:{os.environ['PATH']}"}
    found |= {"PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    found |= {"COLUMNS": "200", "PYTHONPATH": ""}
    pip = [own["scripts"] + "/pip"]
    # Python 3.11 brings an old setuptools, which would hide the lent one.
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "setuptools"], check=True, env=found)
    install = [*pip, "install", "--quiet", "--no-deps", "--editable", str(ROOT)]
    subprocess.run(install, check=True, env=found, timeout=PATIENCE)
    return found


TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def example() -> str:
    """The plugin in one file."""
    (code,) = re.findall(r"```python\n(# stripes\.py\n.*?)```", TEXT, re.DOTALL)
    return code


def commands() -> list[str]:
    section = TEXT.split("## From an idea to the board", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def test_every_command_works_and_the_attack_is_on_the_page(
    environment: dict[str, str], tmp_path: Path
) -> None:
    lines = commands()
    assert {line.split()[1] for line in lines if line.startswith("poisongames")} >= {
        "new", "check", "run", "submit", "verify", "board", "pareto"
    }  # fmt: skip
    (tmp_path / "leaderboards").mkdir()
    (tmp_path / "stripes.py").write_text(example())
    said = ""
    for line in lines:
        done = subprocess.run(
            ["bash", "-ec", line], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    assert "✗" not in said
    assert "records hold" in said
    board = tmp_path / "leaderboards" / "digits-v3"
    played = pd.read_csv(board / "repairs.csv")
    assert set(played.attack) == {"my-attack"}
    assert played.defense.nunique() == 1
    assert "my-attack" in (board / "README.md").read_text()
    page = (board / "index.html").read_text()
    assert "my-attack" in page
    # What lies on the board is what a stranger's machine would make of it.
    again = [sys.executable, "-m", "benchmark.cli", "board", "build", str(board), "--check"]
    assert subprocess.run(again, env=os.environ | {"PYTHONPATH": ""}).returncode == 0
