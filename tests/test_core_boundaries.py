"""The core knows no plugin, rooms import only from rooms below, and help needs no torch."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from benchmark.api import Attack, Defense
from benchmark.games.all import GAMES
from benchmark.registry import Registry

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "benchmark").rglob("*.py"))

#: Rooms from the ground up; see docs/structure.md.
FLOORS = [
    {"clock", "errors", "hooks", "papers", "processes", "texts"},
    {"process_settings", "unchanged"},
    {"games.settings"},
    {"graphs", "images", "metrics", "protocol"},
    {"classifier", "triggers", "training"},
    {"views"},
    {"api"},
    {"models", "specs"},
    {"memory"},
    {"inversion"},
    {"registration", "registry"},
    {"data"},
    {"records"},
    {"games"},
    {"runs"},
    {"leaderboard", "progress"},
    {"experiments", "verification", "suspect"},
    {"conformance", "scaffold"},
    {"cli"},
]


def test_what_the_package_reads_is_installed_with_it() -> None:
    """A checkout finds its files anyway; a machine that was sent a wheel does not."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    installed = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    there = {path for folder in ("benchmark", "plugins") for path in (ROOT / folder).rglob("*.*")}
    assert {path for path in there if path.suffix not in (".py", ".pyc", ".tuned")} == installed
    roots = settings["package-dir"]
    folders = {
        ROOT.joinpath(roots[name.split(".")[0]], *name.split(".")[1:])
        for name in settings["packages"]
    }
    assert {path.parent for path in there if path.suffix == ".py"} == folders


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_core_contains_no_plugin_name(path: Path, registry: Registry) -> None:
    text = path.read_text()
    ours = [entry for entry in registry.entries if issubclass(entry.plugin, Attack | Defense)]
    assert ours
    for entry in ours:
        name, cls = entry.plugin.name, entry.plugin.__name__
        assert not re.search(rf"\b{cls}\b", text), f"{path} names class {cls}"
        assert not re.search(rf"""["'`]{re.escape(name)}[:"'`]""", text), f"{path} names {name}"
    assert not re.search(r"backdoor_(attacks|defenses)", text)


def floor_of(*parts: str) -> int:
    """The settings of games are part of a protocol, and lie below it; the games lie above."""
    room = "games.settings" if parts[0] == "games" and parts[-1] == "settings" else parts[0]
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): path for path in CORE}


def imports_of(path: Path, *, late: bool) -> set[str]:
    """Modules of the core that a module imports, without those that only types need.

    Args:
        late: those that functions import count too.
    """
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef) and not late:
            continue
        if isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {str(node.module)} & MODULES.keys()
        nodes += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_only_from_below(module: str) -> None:
    own = module.split(".")[1:]
    if not own or own[0] in ("__main__", "protocols"):
        return
    for name in imports_of(MODULES[module], late=True) - {"benchmark"}:
        assert floor_of(*name.split(".")[1:]) <= floor_of(*own), f"{module} imports {name}"


def test_no_modules_import_each_other() -> None:
    graph = {name: imports_of(path, late=False) for name, path in MODULES.items()}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("game", GAMES)
def test_a_game_is_named_in_its_own_folder_only(game: str) -> None:
    """What a protocol's section is called is no such name."""
    for path in CORE:
        if path.is_relative_to(ROOT / "benchmark" / "games" / game):
            continue
        named = re.search(rf"""(?<![\w`])["']{game}["']""", path.read_text())
        assert named is None, f"{path} names the game {game}"


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


METHODS = sorted((ROOT / "plugins").rglob("*.py"))


@pytest.mark.parametrize("path", METHODS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_method_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 200


def imported_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_help_does_not_import_torch() -> None:
    code = (
        "from typer.testing import CliRunner\nfrom benchmark.cli import app\n"
        "for words in ([], ['run'], ['scan'], ['repair'], ['plugins'], ['board', 'build'], "
        "['denoiser', 'train']):\n"
        "    assert CliRunner().invoke(app, [*words, '--help']).exit_code == 0"
    )
    assert {"torch", "pandas", "numpy"}.isdisjoint(imported_by(code))


def test_importing_the_package_does_not_import_torch() -> None:
    assert "torch" not in imported_by("import benchmark")


def test_a_separate_distribution_plays_without_a_change_to_the_core(
    tmp_path: Path, tiny_file: Path
) -> None:
    site = tmp_path / "site"
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", str(ROOT / "tests" / "outside_plugin"), str(source)], check=True)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    install += ["--no-build-isolation", "--target", str(site), str(source)]
    subprocess.run(install, check=True)
    env = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "benchmark"]

    listed = subprocess.run(
        [*command, "plugins"], env=env | {"COLUMNS": "200"}, capture_output=True, text=True
    )
    assert "checkerboard" in listed.stdout
    assert "poisongames-checkerboard 1.2.3" in listed.stdout

    added = subprocess.run(
        [*command, "checkerboard", "--side", "2"], env=env, capture_output=True, text=True
    )
    assert added.stdout == "checkerboard 1\n.#\n#.\n", added.stderr

    out = tmp_path / "run"
    words = ["run", str(tiny_file), "--attack", "checkerboard", "--defense", "weight-noise"]
    done = subprocess.run(
        [*command, *words, "--out", str(out), "--workers", "1"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (out / "records").glob("*.json")]
    played = {(r["attack"]["name"], r["defense"]["name"]): r["status"] for r in records}
    assert played[("checkerboard", "weight-noise")] == "ok"
    assert played[("checkerboard", "none")] == "ok"
