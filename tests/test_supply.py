"""What is installed, built and run for others: locks, the workflow, the container, the manual."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from typer.main import get_command

from benchmark.cli import app

ROOT = Path(__file__).parent.parent
LOCKS = {name: (ROOT / "requirements" / f"{name}.txt").read_text() for name in ("quick", "test")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: Whose machines must find everything in the lock.
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = (("linux", "Linux", "x86_64"), ("darwin", "Darwin", "arm64"))


def pinned(text: str, python: str, platform: tuple[str, str, str]) -> dict[str, str]:
    """Versions that a lock names for a machine."""
    system = dict(
        zip(("sys_platform", "platform_system", "platform_machine"), platform, strict=True)
    )
    machine = system | {"python_version": python, "python_full_version": f"{python}.0"}
    found: dict[str, str] = {}
    for line in re.findall(r"^[a-z0-9].*?(?= \\$)", text, re.M):
        one = Requirement(line)
        (pin,) = one.specifier
        assert pin.operator == "==", line
        if one.marker is None or Marker(str(one.marker)).evaluate(machine):
            assert canonicalize_name(one.name) not in found, f"{one.name} is named twice"
            found[canonicalize_name(one.name)] = pin.version
    return found


def wanted(lock: str) -> list[str]:
    build = PROJECT["dependency-groups"]["build"]
    test = PROJECT["project"]["optional-dependencies"]["test"] if lock == "test" else []
    return [*PROJECT["project"]["dependencies"], *build, *test]


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda one: one[0])
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_all_that_the_project_asks_for(
    lock: str, python: str, platform: tuple[str, str, str]
) -> None:
    there = pinned(LOCKS[lock], python, platform)
    for text in wanted(lock):
        asked = Requirement(text)
        assert there[canonicalize_name(asked.name)] in asked.specifier, text


@pytest.mark.parametrize("python", PYTHONS)
def test_the_tests_run_what_is_played(python: str) -> None:
    quick, test = (pinned(LOCKS[name], python, PLATFORMS[0]) for name in ("quick", "test"))
    assert quick.items() <= test.items()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_file_has_a_hash_and_no_place_is_named(lock: str) -> None:
    text = LOCKS[lock]
    for block in re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block.splitlines()[0]
    assert not re.search(r"://|index-url|find-links|trusted-host|\bfile:|^-e|^\.|^/", text, re.M)


def test_what_builds_the_package_is_what_the_lock_has() -> None:
    assert PROJECT["build-system"]["requires"] == PROJECT["dependency-groups"]["build"]
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert "3.11" in SpecifierSet(PROJECT["project"]["requires-python"])


def test_nothing_is_installed_without_a_hash() -> None:
    """But for the package itself, whose dependencies are there then."""
    text = (ROOT / "Makefile").read_text() + (ROOT / "Containerfile").read_text()
    installs = re.findall(r"pip install (.*)", text.replace("\\\n", " "))
    assert len(installs) == 4
    for words in map(str.split, installs):
        own = {"--no-deps", "--no-build-isolation", "--editable", "."} <= {*words}
        assert own or {"--require-hashes", "--only-binary", ":all:"} <= {*words}, words


# The workflow.


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_lends_nothing_to_strangers(path: Path) -> None:
    text = path.read_text()
    content = yaml.safe_load(text)
    # YAML 1.1 reads the key `on` as true.
    assert {*content[True]} == {"pull_request"}
    assert content["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    for job in content["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 60
    for step in steps(path):
        if uses := step.get("uses"):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", uses), uses
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        # What a stranger names things by never becomes a part of a command.
        assert "${{" not in step.get("run", "")


def test_code_of_a_pull_request_is_never_what_judges() -> None:
    (path,) = WORKFLOWS
    base, submitted = (step["with"] for step in steps(path) if "checkout" in step.get("uses", ""))
    assert base["ref"].endswith("base.sha }}")
    assert submitted["ref"].endswith("head.sha }}")
    assert submitted["sparse-checkout"] == "leaderboards"
    runs = "\n".join(step.get("run", "") for step in steps(path))
    assert "make -C base" in runs
    assert not re.search(r"(make|pip|python|bash|sh)\b[^\n]*submitted", runs)


def commands(text: str) -> list[list[str]]:
    """The lines of a script or a manual that call `poisongames`, as words."""
    text = text.replace("\\\n", " ")
    found = re.findall(
        r"(?:poisongames|with-plugin) +((?:verify|board|pareto|run|submit)\b[^|&;#\n]*)", text
    )
    return [shlex.split(line.rstrip("` ")) for line in found]


def parsed(words: list[str]) -> None:
    """Read a command line as the command would, without running it."""
    command, context = get_command(app), None
    rest = [re.sub(r"\$\w+|\$\{[^}]*\}", "1", word) for word in words]
    while hasattr(command, "commands"):
        context = command.make_context(
            command.name, [rest[0]], parent=context, resilient_parsing=True
        )
        command = command.get_command(context, rest.pop(0))
        assert command is not None, words
    command.make_context(command.name, rest, parent=context)


def test_every_command_exists() -> None:
    (path,) = WORKFLOWS
    runs = [command for step in steps(path) for command in commands(step.get("run", ""))]
    assert [words[0] for words in runs] == ["verify", "board", "verify", "pareto", "pareto"]
    others = [
        command
        for name in ("SECURITY.md", "Containerfile")
        for command in commands((ROOT / name).read_text().replace("\n#", "\n"))
    ]
    assert {words[0] for words in others} >= {"verify", "run"}
    for words in runs + others:
        parsed(words)


@pytest.mark.parametrize("line", ["verify x --reply 2", "board bild", "pareto a --against"])
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such option|requires an argument|bild"):
        parsed(line.split())


def test_what_the_container_copies_is_there() -> None:
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for name in line.split()]
    assert {"pyproject.toml", "benchmark", "plugins", "requirements/quick.txt"} <= {*copied}
    for name in copied:
        assert (ROOT / name).exists(), name
    # All that the package is built from.
    assert {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= {*copied}
