"""Commands teach, and errors are one sentence that says what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from small_board import cut
from typer.testing import CliRunner, Result

from benchmark.cli import app
from benchmark.cli.shared import seconds_of

ROOT = Path(__file__).parent.parent


def invoke(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "250"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_plugins_are_listed_with_threat_stage_and_origin() -> None:
    output = invoke("plugins").output
    for words in (
        r"badnets\s+attack\s+poison-label\s+2\s+poisongames",
        r"advclean\s+attack\s+clean-label",
        r"pcb\s+attack\s+code",
        r"spectral-signatures\s+defense\s+sanitize",
        r"pivotal-tuning\s+defense\s+repair",
        r"strip\s+defense\s+deploy",
        r"digits\s+dataset",
        r"resnet18-cifar\s+architecture",
    ):
        assert re.search(words, output), words
    assert "failed" not in output


def test_one_plugin_is_shown_with_parameters_and_paper() -> None:
    output = invoke("plugins", "badnets").output
    assert "Gu, Dolan-Gavitt, Garg 2017" in output
    assert re.search(r"side\s+0\.09375\s+float, from 0 to 1", output)
    wrong = invoke("plugins", "badnet")
    assert wrong.exit_code == 2
    assert "did you mean badnets?" in wrong.output


def test_a_broken_file_is_listed_and_the_others_stay(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name")
    output = invoke("plugins", "--plugin", broken).output
    assert "failed broken" in output
    assert "nothing_of_that_name" in output
    assert "badnets" in output
    run = invoke("run", "digits-v3", "--plugin", broken, "--out", tmp_path / "run")
    assert run.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_the_version_is_that_of_the_distribution() -> None:
    assert invoke("--version").output == f"poisongames {version('poisongames')}\n"


def test_protocols_are_listed_and_shown() -> None:
    assert "digits-v3" in invoke("protocols").output
    assert '"budget": 0.02' in invoke("protocols", "digits-v3").output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "digits-v9"], "unknown protocol 'digits-v9'; there are"),
        (["run", "mine.toml"], "mine.toml: no such protocol file"),
        (["run", "digits-v3", "--attack", "badnet"], "did you mean 'badnets'?"),
        (["run", "digits-v3", "--recipe", "slow"], "unknown recipe 'slow'; there are standard"),
        (["run", "digits-v3", "--device", "tpu"], "choose auto, cpu or cuda"),
        (["run", "digits-v3", "--plugin", "nowhere.py"], "no such file: nowhere.py"),
        (["run", "cifar10-v3", "--data-dir", "nowhere"], "nowhere is no folder"),
        (["run", "digits-v1"], "protocol 'digits-v1' was withdrawn, see CHANGELOG.md; there are"),
        (["board", "build", "nowhere"], "holds no records; play a protocol"),
    ],
)
def test_errors_are_one_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    if words[0] == "run":
        words = [*words, "--out", str(tmp_path / "run")]
    result = invoke(*words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("90", 90), ("9m", 540), ("1h30m", 5400), (None, None)]
)
def test_durations(text: str | None, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fail(
    small_run: Path, tmp_path: Path
) -> None:
    cut(small_run, ["records/inversion-*"], tmp_path)
    command = [sys.executable, "-m", "benchmark", "board", "build", str(tmp_path)]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(command, env=ascii_only, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"| ? |" in done.stdout  # a dash that it does not know


def test_the_example_of_contributing_is_a_plugin(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n# stripes\.py\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "stripes.py"
    path.write_text(code)
    output = invoke("plugins", "stripes", "--plugin", path).output
    assert "Brighten every other row" in output
    assert re.search(r"opacity\s+0\.3\s+float, from 0 to 1", output)
