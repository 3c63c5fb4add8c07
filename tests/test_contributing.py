"""A stranger's way from an idea to the board, with the commands of CONTRIBUTING.md as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from benchmark.protocol import Protocol

ROOT = Path(__file__).parent.parent
#: A walk through the commands trains models; what is not about them may take a minute or two.
PATIENCE = 900
#: What a protocol that is played for its commands alone has less of.
FEWER = (
    (r"^seeds = \d+", "seeds = 1"),
    (r"^epochs = \d+", "epochs = 4"),
    (r"^interval = \d+", "interval = 5"),
    (r"\bsteps=\d{3,}", "steps=20"),
)

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def example() -> str:
    """The plugin in one file."""
    (code,) = re.findall(r"```python\n(# stripes\.py\n.*?)```", TEXT, re.DOTALL)
    return code


def commands() -> list[str]:
    section = TEXT.split("## From an idea to the board", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


(NAME,) = {line.split()[2] for line in commands() if line.startswith("poisongames run")}


@dataclass(frozen=True)
class Place:
    """A project, and the variables of an environment in which it is installed."""

    project: Path
    env: dict[str, str]


def smaller(folder: Path) -> Path:
    """A copy of the project whose protocol of that name is played in half a minute."""
    for part in ("benchmark", "plugins"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / file, folder / file)
    protocols = folder / "benchmark" / "protocols"
    path, lock = protocols / f"{NAME}.toml", protocols / "released.lock"
    text = path.read_text()
    before = Protocol.model_validate(tomllib.loads(text)).sha256
    for pattern, fewer in FEWER:
        text, count = re.subn(pattern, fewer, text, flags=re.M)
        assert count, f"{NAME} has no {pattern}"
    path.write_text(text)
    after = Protocol.model_validate(tomllib.loads(text)).sha256
    lock.write_text(lock.read_text().replace(before, after))
    return folder


@pytest.fixture(
    scope="module", params=["smaller", pytest.param("released", marks=pytest.mark.nightly)]
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A new environment that knows PoisonGames and, from here, what it depends on."""
    project = ROOT
    if request.param == "smaller":
        project = smaller(tmp_path_factory.mktemp("project"))
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
    install = [*pip, "install", "--quiet", "--no-deps", "--editable", str(project)]
    subprocess.run(install, check=True, env=found, timeout=PATIENCE)
    return Place(project, found)


def test_every_command_works_and_the_attack_is_on_the_page(place: Place, tmp_path: Path) -> None:
    def run(command: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(
            ["bash", "-ec", command], cwd=folder, env=place.env, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    lines = commands()
    assert {line.split()[1] for line in lines if line.startswith("poisongames")} >= {
        "new", "check", "run", "submit", "verify", "board", "pareto"
    }  # fmt: skip
    (tmp_path / "leaderboards").mkdir()
    (tmp_path / "stripes.py").write_text(example())
    said = {line: run(line) for line in lines}
    assert not [line for line in said if "✗" in said[line]]
    assert "✓" in said["poisongames check my-attack"]
    assert any("records hold" in text for text in said.values())
    # What the package brings along to be tested by.
    tests = run("python -m pytest -q -p no:cacheprovider", tmp_path / "my-attack")
    assert re.search(r"^\d\d passed in", tests, re.M), tests
    board = tmp_path / "leaderboards" / NAME
    played = pd.read_csv(board / "repairs.csv")
    assert set(played.attack) == {"my-attack"}
    assert played.defense.nunique() == 1
    assert "my-attack" in (board / "README.md").read_text()
    page = (board / "index.html").read_text()
    assert "my-attack" in page
    # What lies on the board is what a stranger's machine would make of it.
    again = [sys.executable, "-m", "benchmark", "board", "build", str(board), "--check"]
    env = os.environ | {"PYTHONPATH": str(place.project / "plugins")}
    assert subprocess.run(again, cwd=place.project, env=env).returncode == 0
