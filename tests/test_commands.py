"""Any installed plugin may add a command, and a broken one costs only itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmark.cli import app

ROOT = Path(__file__).parent.parent

GOOD = """
from benchmark import hookimpl

def {word}(times: int = 1):
    "Say a word."
    print("{word} " * times)

@hookimpl
def register_commands(cli):
    cli.command()({word})
"""
WORD = GOOD.format(word="word")

#: Modules that cannot add their command, and what must be said of them.
BROKEN = {
    "import error": ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
    "exits": ("raise SystemExit('leaving')", "SystemExit: leaving"),
    "many lines": ("raise ValueError('one\\ntwo')", "ValueError: one two"),
    "no hook": ("x = 1", "it implements no hook; a module of poisongames.commands implements"),
    "another hook": (
        WORD + "\n@hookimpl\ndef register_attacks(register): pass\n",
        "it implements register_attacks and register_commands; a module of poisongames.commands",
    ),
    "changes a setting": (
        "import os\n" + WORD + "    os.chdir('/')\n",
        "ChangedSetting: its import changes the working directory; leave that as it is",
    ),
    "hook raises": (WORD.replace("cli.command()(word)", "1 / 0"), "ZeroDivisionError"),
    "odd parameter": (WORD.replace("int = 1", "int | str"), "doesn't support Union types"),
    "taken": (GOOD.format(word="run"), "there is a command run already; rename one"),
}

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution on the path whose only module adds commands."""
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[str] = []

    def install(name: str, content: str) -> None:
        (tmp_path / f"{name}_commands.py").write_text(content)
        info = tmp_path / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        points = f"[poisongames.commands]\n{name} = {name}_commands\n"
        (info / "entry_points.txt").write_text(points)
        modules.append(f"{name}_commands")

    yield install
    for module in modules:
        sys.modules.pop(module, None)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "250"})


def test_a_plugins_command_is_listed_explained_and_run(install: Install) -> None:
    install("hello", GOOD.format(word="hello"))
    listed = invoke("--help").output
    assert re.search(r"hello +Say a word\.", listed)
    assert re.search(r"run +Play a protocol", listed)
    assert "--times" in invoke("hello", "-h").output
    assert invoke("hello", "--times", "2").output == "hello hello \n"
    wrong = invoke("helo")
    assert wrong.exit_code == 2
    assert "Did you mean 'hello'?" in wrong.output


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_one_costs_only_itself(case: str, install: Install) -> None:
    content, message = BROKEN[case]
    install("broken", content)
    install("good", GOOD.format(word="good"))
    for words in (["--help"], ["good"]):
        result = invoke(*words)
        assert result.exit_code == 0
        (said,) = result.stderr.splitlines()
        assert said.startswith("left out: commands broken (broken 1.5): ")
        assert message in said
    assert result.stdout == "good \n"
    assert re.search(r"run +Play a protocol", invoke("--help").output)
    assert invoke("word").exit_code == 2


def test_the_cores_commands_ask_no_plugin(install: Install) -> None:
    install("broken", "raise RuntimeError")
    for words in (["run", "--help"], ["protocols"]):
        result = invoke(*words)
        assert (result.exit_code, result.stderr) == (0, "")


def test_of_two_plugins_with_one_word_the_second_is_left_out(install: Install) -> None:
    for name in ("first", "second"):
        install(name, GOOD.format(word="hello").replace("Say", name))
    result = invoke("--help")
    assert "left out: commands second (second 1.5): CommandError: there is a" in result.stderr
    assert "first a word" in result.stdout


def test_among_the_other_plugins_the_hook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(WORD)
    listed = invoke("plugins", "--plugin", str(path)).output
    assert "register_commands belongs into a module of poisongames.commands" in listed


def test_the_example_of_contributing_adds_a_command(install: Install) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n# my_commands\.py\n(.*?)```", text, re.DOTALL)
    install("my", code)
    assert invoke("stripes", "--rows", "2").output == "########\n........\n"
