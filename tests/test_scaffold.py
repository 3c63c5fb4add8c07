"""Every scaffold works as it is: clean, conforming, installable, and never half-written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from benchmark.api import Attack, Defense, Stage, Threat
from benchmark.cli import app
from benchmark.conformance import checks
from benchmark.conformance.probe import effects
from benchmark.registry import Registry
from benchmark.scaffold import ScaffoldError, write
from benchmark.specs import parameters, threat_or_stage

KINDS = [*get_args(Threat), *get_args(Stage)]

#: Most lines of a method, from its first function or class to its registration.
LINES = 40


@pytest.fixture(scope="module", params=KINDS)
def package(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, registry: Registry
) -> tuple[str, Path]:
    """A kind, and the folder of a package of it, with words in its name and a digit."""
    parent = tmp_path_factory.mktemp("packages")
    return request.param, write(f"my-{request.param}-2", request.param, parent, registry)


def module_of(folder: Path) -> Path:
    (module,) = folder.glob("src/*/__init__.py")
    return module


def test_a_scaffold_has_exactly_these_files(package: tuple[str, Path]) -> None:
    _, folder = package
    import_name = folder.name.replace("-", "_")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "pyproject.toml",
        f"src/{import_name}/__init__.py",
        f"tests/test_{import_name}.py",
    }
    assert list(folder.parent.iterdir()) == [folder]


def test_nothing_is_left_to_fill_in(package: tuple[str, Path]) -> None:
    _, folder = package
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"\{\{|\{%|\bTODO\b|\n\n\n\n", text), path
            assert text.endswith("\n"), path
            assert not text.endswith("\n\n"), path


def test_the_code_is_clean(package: tuple[str, Path]) -> None:
    _, folder = package
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", "."]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_code_is_typed(package: tuple[str, Path]) -> None:
    """As mypy's strict mode would have it of signatures; mypy itself takes too long here."""
    _, folder = package
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = [a for a in node.args.args if a.arg != "self"]
                assert all(a.annotation for a in arguments), f"{path}: {node.name}"
                assert node.returns, f"{path}: {node.name}"


def test_the_example_is_short_and_names_its_source(package: tuple[str, Path]) -> None:
    kind, folder = package
    registry, text = Registry([module_of(folder)]), module_of(folder).read_text()
    plugin = registry.find(Attack if kind in get_args(Threat) else Defense, folder.name)
    assert threat_or_stage(plugin) == kind
    assert parameters(plugin), "shows how parameters are written"
    assert re.search(r"\d{4}|^none, an example$", plugin.paper)
    method = re.search(r"^(?:def|@dataclass).*(?=^@hookimpl)", text, re.M | re.S)
    assert method
    assert len([line for line in method[0].splitlines() if line]) <= LINES


def test_the_example_conforms(package: tuple[str, Path]) -> None:
    _, folder = package
    found = checks(folder.name, Registry([module_of(folder)]))
    assert len(found) > 5
    for check in found:
        if str(check) != "cheap-to-list":
            check()


def test_all_examples_are_cheap_to_list(tmp_path: Path, registry: Registry) -> None:
    """In one process."""
    files = [module_of(write(f"my-{kind}", kind, tmp_path, registry)) for kind in KINDS]
    assert effects(*map(str, files)) == {"packages": [], "touched": [], "printed": ""}


def test_the_package_is_described(package: tuple[str, Path]) -> None:
    kind, folder = package
    described = tomllib.loads((folder / "pyproject.toml").read_text())
    project = described["project"]
    assert project["name"] == folder.name
    assert project["dependencies"] == ["poisongames"]
    assert [word.partition(">")[0] for word in project["optional-dependencies"]["test"]] == [
        "pytest"
    ]
    assert project["entry-points"]["poisongames"] == {folder.name: folder.name.replace("-", "_")}
    assert described["build-system"]["requires"] == ["setuptools>=77"]
    readme = (folder / "README.md").read_text()
    protocol = "digits-v3"
    side = "attack" if kind in get_args(Threat) else "defense"
    assert f"poisongames run {protocol} --{side} {folder.name} " in readme
    for command in ("pip install", "check", "submit", "board build leaderboards/" + protocol):
        assert command in readme


def test_the_commands_of_the_readme_exist(package: tuple[str, Path]) -> None:
    _, folder = package
    used = re.findall(r"^poisongames (.+?)(?: {2,}#.*)?$", (folder / "README.md").read_text(), re.M)
    assert len(used) == 6
    for line in used:
        words = line.split()
        command = words[:2] if words[0] == "board" else words[:1]
        options = [word for word in words if word.startswith("--")]
        shown = invoke(*command, "--help").output
        assert all(option in shown for option in options), line


def invoke(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "250"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize(
    "words",
    [
        ["attack", "mine", "--threat", "clean-label"],
        ["attack", "mine", "--threat", "code"],
        ["attack", "mine"],
        ["defense", "mine", "--stage", "detect"],
        ["defense", "mine"],
    ],
    ids=" ".join,
)
def test_new_says_what_comes_next(words: list[str], tmp_path: Path) -> None:
    done = invoke("new", *words, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    kind = words[3] if words[3:] else {"attack": "poison-label", "defense": "repair"}[words[0]]
    assert f"`{kind}`" in (tmp_path / "mine" / "README.md").read_text()
    assert f"pip install -e '{tmp_path}/mine[test]'" in done.output
    assert "poisongames check mine" in done.output


TAKEN = next(d.name for d in distributions() if d.name == "pyarrow")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((bad, "cannot be a plugin's name") for bad in ("My", "a b", "-a", "a-", "a--b", "", "é")),
        ("3d", "begin with a letter"),
        ("lambda", "cannot be a plugin's name"),
        ("../up", "cannot be a plugin's name"),
        ("badnets", "is taken by a plugin of poisongames"),
        ("digits", "is taken by a plugin of poisongames"),
        (TAKEN, "is taken by an installed package"),
        ("scikit-learn", "is taken by an installed package"),
        ("sklearn", "is taken by an installed package"),
        ("random", "is taken by an installed package"),
        ("here", "here exists already; choose another name or --out"),
        ("none", "cannot be a plugin's name"),
        ("a" * 51, "has 51 characters, a plugin's name has at most 50; choose a shorter one"),
        ("share", "makes a class Share, which hides the Share that its code uses; choose"),
    ],
)
def test_a_name_is_refused_in_one_sentence(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    done = invoke("new", "attack", "--out", tmp_path, "--", name)
    assert done.exit_code == 2
    assert message in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert list((tmp_path / "here").iterdir()) == []


@settings(max_examples=15, deadline=None)
@given(name=st.from_regex(r"[a-z0-9_-]{1,8}", fullmatch=True))
def test_a_name_that_is_not_refused_can_be_registered(name: str, registry: Registry) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            module = module_of(write(name, "clean-label", Path(folder), registry))
        except ScaffoldError:
            return
        assert module.parent.name.isidentifier()
        assert Registry([module]).find(Attack, name).name == name


@pytest.mark.parametrize("kind", KINDS)
def test_no_class_hides_what_its_module_imports(
    kind: str, tmp_path: Path, registry: Registry
) -> None:
    """Of every name that a package's code imports, none is taken for its class."""
    made = write("mine", kind, tmp_path, registry)  # type: ignore[arg-type]
    imported = {
        alias.name
        for node in ast.parse(module_of(made).read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.name.capitalize()  # what the class of one word may be
    }
    assert imported
    for name in imported:
        with pytest.raises(ScaffoldError, match=f"which hides the {name} that its code uses"):
            write(name.lower(), kind, tmp_path, registry)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_heading_of_the_readme_stands_alone(package: tuple[str, Path]) -> None:
    lines = ("\n" + (package[1] / "README.md").read_text()).split("\n")
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        assert not line.startswith("## ") or (before, after) == ("", ""), line


def test_a_folder_without_a_name_is_not_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["new", "attack", "mine"], ["run", "digits-v3"]):
        done = invoke(*words, "--out", "")
        assert done.exit_code == 2
        assert "the name of a folder is empty; write . for this one" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    writes = Path.write_text

    def full(path: Path, *arguments: str, **options: str) -> int:
        if path.parent.name == "tests":
            raise OSError(28, "No space left on device")
        return writes(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ScaffoldError, match=r"No space left on device\); choose another --out"):
        write("mine", "repair", tmp_path, registry)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    done = invoke("new", "defense", "mine", "--out", tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "nowhere is no folder; make it or choose another --out" in done.output


BROKEN = '''
from dataclasses import dataclass
from benchmark import PoisoningAttack, hookimpl

@dataclass
class Mine(PoisoningAttack):
    """Fail wherever it is played."""
    name, version, paper = "mine", 1, "none, made for a test"

    def trigger(self, images, rng):
        return images[1000]

@hookimpl
def register_attacks(register):
    register(Mine)
'''


def test_check_prints_a_line_for_each_and_fails(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(BROKEN)
    done = invoke("check", "mine", "--plugin", path)
    assert done.exit_code == 1
    lines = [line for line in done.output.splitlines() if line.startswith(("✓", "✗", "–"))]
    found = checks("mine", Registry([path]))
    assert [line.split()[1] for line in lines] == [str(check) for check in found]
    (wrong,) = (line for line in lines if line.startswith("✗"))
    assert wrong.split()[1] == "plays"
    assert f"1 of {len(found)} checks failed" in done.output
    assert re.search(r"^– state +does not apply: it cannot play a round", done.output, re.M)


def test_check_needs_time_for_a_rule() -> None:
    done = invoke("check", "badnets", "--rule-time-limit", "0s")
    assert done.exit_code == 2
    assert "'0s' leaves no time; write 90s, 9m or 1h30m" in done.output


def test_check_of_an_unknown_name() -> None:
    done = invoke("check", "badnet")
    assert done.exit_code == 2
    assert "no plugin is named 'badnet'; did you mean 'badnets'?" in done.output
