"""Commands teach, and errors are one sentence that says what to do."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil
import pytest
import typer
from rich.console import Console
from small_board import cut
from typer.testing import CliRunner, Result

from benchmark import protocol as protocols
from benchmark.cli import app
from benchmark.cli.results import LONG, below_names, narrow, show_results
from benchmark.cli.shared import seconds_of, some_seconds
from benchmark.data import DataError
from benchmark.data.named import Folder
from benchmark.games.all import records
from benchmark.games.robustness.searches import chosen, load
from benchmark.records.cell import Cell
from benchmark.texts import flowing

ROOT = Path(__file__).parent.parent


def invoke(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "250"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_plugins_are_listed_in_groups_that_fit_a_terminal() -> None:
    output = CliRunner().invoke(app, ["plugins"], env={"COLUMNS": "80"}).output
    assert max(map(len, output.splitlines())) <= 80
    groups = re.findall(r"^(\w+s(?:, [\w-]+)?)\n((?:  .*\n)+)", output, re.M)
    assert [title for title, _ in groups] == [
        *(f"attacks, {threat}" for threat in ("poison-label", "clean-label", "code")),
        *(f"defenses, {stage}" for stage in ("sanitize", "repair", "deploy", "detect", "invert")),
        "datasets",
        "architectures",
    ]
    text = dict(groups)
    for title, name in (
        ("attacks, poison-label", "badnets"),
        ("attacks, clean-label", "advclean"),
        ("attacks, code", "pcb"),
        ("defenses, sanitize", "spectral-signatures"),
        ("defenses, detect", "calibrated-trigger-inversion"),
        ("datasets", "digits"),
        ("architectures", "resnet18-cifar"),
    ):
        assert re.search(rf"^  {name}  +[A-Z0-9]", text[title], re.M), name
    assert "failed" not in output


@pytest.mark.parametrize(
    ("words", "there", "away"),
    [
        (["--stage", "repair"], "pivotal-tuning", "badnets"),
        (["--threat", "code"], "pcb", "badnets"),
        (["--threat", "code", "--stage", "deploy"], "strip", "pivotal-tuning"),
    ],
)
def test_plugins_of_one_kind(words: list[str], there: str, away: str) -> None:
    output = invoke("plugins", *words).output
    assert f"  {there} " in output
    assert f"  {away} " not in output


def test_one_plugin_is_shown_with_parameters_and_paper() -> None:
    output = invoke("plugins", "badnets").output
    assert "Gu, Dolan-Gavitt, Garg 2017" in output
    assert re.search(r"side\s+0\.09375\s+float, from 0 to 1", output)
    wrong = invoke("plugins", "badnet")
    assert wrong.exit_code == 2
    assert "did you mean 'badnets'?; `poisongames plugins` lists all" in wrong.output


def test_a_broken_file_is_listed_and_the_others_stay(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name")
    one = invoke("plugins", "mine", "--plugin", broken)
    assert one.exit_code == 2
    assert re.search(
        "left out: plugin broken .* No module named 'nothing_of_that_name'", one.output
    )
    output = invoke("plugins", "--plugin", broken).output
    assert "plugin broken" in output
    assert "nothing_of_that_name" in output
    assert "badnets" in output
    run = invoke("run", "digits-v3", "--plugin", broken, "--out", tmp_path / "run")
    assert run.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_what_an_import_begins_outlives_no_command(tmp_path: Path) -> None:
    """A thread that Python would wait for, and a process that nobody would."""
    path, mark = tmp_path / "busy.py", "9754"
    path.write_text(
        "import subprocess, threading, time\n"
        "threading.Thread(target=time.sleep, args=(3600,)).start()\n"
        f"subprocess.Popen(['sleep', '{mark}'], start_new_session=True)\n"
    )
    words = [sys.executable, "-m", "benchmark", "plugins", "badnets", "--plugin", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "badnets attack" in done.stdout
    said = "changes which threads run and which child processes run; leave that as it is"
    assert said in done.stderr
    assert not [one for one in psutil.process_iter(["cmdline"]) if mark in one.info["cmdline"]]


def test_a_name_that_is_taken_is_said_at_once(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n# stripes\.py\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "mine.py"
    file.write_text(code.replace('"stripes"', '"badnets"'))
    for words in (["plugins", "badnets"], ["plan", "digits-v3", "--attack", "badnets"]):
        done = invoke(*words, "--plugin", file)
        assert done.exit_code == 2
        assert "the name 'badnets' is taken by a plugin of poisongames" in done.output


def test_the_settings_that_a_protocol_lays_under_are_shown() -> None:
    words = ["plan", "digits-v3", "--attack", "badnets", "--defense", "weight-decay:steps=7"]
    output = invoke(*words, "--costs", ROOT / "leaderboards" / "digits-v3").output
    own = {entry.attack: entry for entry in protocols.load("digits-v3").robustness.attacks}
    (spec,) = (spec for spec in own if spec.startswith("badnets"))
    assert f"attacks: {spec} (m={own[spec].m}, b={own[spec].boost})" in output
    assert re.search("^defenses: weight-decay:steps=7,", output, re.M)
    assert "settings that were not given are those of digits-v3" in output


def test_a_plan_has_the_settings_that_defenders_chose() -> None:
    words = ["plan", "fashion-mnist-v3", "--attack", "badnets", "--defense", "weight-decay"]
    output = " ".join(invoke(*words).output.split())
    tuned = chosen(load(protocols.tuned_folder("fashion-mnist-v3")))
    found = [settings for (name, _), settings in tuned.items() if name == "weight-decay"]
    assert found
    for settings in found:  # defaults are not written
        optimizer, decay = settings["optimizer"], settings["decay"]
        assert f"weight-decay:steps=200,optimizer={optimizer},decay={decay}" in output


def test_a_run_ends_with_the_table_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "leaderboards" / "digits-v3"
    cells = [Cell.of(record) for record in records(folder)]
    asked = [c for c in cells if (c.victim.attack.name, c.defense.name) == ("badnets", "nad")]
    show_results(folder, [*asked, *(c for c in cells if c.victim.attack.name == "none")])
    shown = capsys.readouterr().out
    rows = pd.read_csv(folder / "repairs.csv")
    (row,) = rows[(rows.attack == "badnets") & (rows.defense == "nad")].to_dict("records")
    assert "Remaining ASR" in shown
    assert f"{100 * row['asr_paper']:.0f}" in shown
    assert "tsb" not in shown
    show_results(folder, [cell for cell in cells if cell.defense.name == "none"][:12])
    assert "Before any defense" in capsys.readouterr().out
    show_results(folder.parent, cells)
    assert capsys.readouterr().out == "", "nothing was played there"


def test_what_a_board_has_already_is_shown_with_what_was_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = ROOT / "leaderboards" / "digits-v3"
    run = cut(board, ("*/*badnets-m50-abs-r*", "*/*badnets-m50-none-*"), tmp_path / "run")
    cells = [Cell.of(record) for record in records(board, "*abs-r*")]
    cells += [Cell.of(record) for record in records(board, "*-none-s*")]
    show_results(run, cells)
    assert "Detectors" not in capsys.readouterr().out, "there are no clean models"
    for folder, places in ((run, f"{run} {board}"), (tmp_path / "nothing", str(board))):
        show_results(folder, cells, board)
        shown = capsys.readouterr().out
        assert "Detectors" in shown
        assert "lsp" in shown
        assert f"`poisongames board build {places}` makes" in shown.replace("\n", "")


def test_some_cells_of_a_board_need_no_comparison_that_was_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    board = ROOT / "leaderboards" / "cifar10-v3"
    assert "a-blend" in (board / "explanations.csv").read_text()
    cells = [Cell.of(record) for record in records(board, "*badnets-m50*")]
    show_results(board, cells)
    assert "Remaining ASR" in capsys.readouterr().out


def test_what_is_done_elsewhere_has_to_be_of_the_protocol(tmp_path: Path) -> None:
    words = ["run", "digits-v3", "--attack", "badnets", "--out", tmp_path / "run", "--done"]
    other = invoke(*words, ROOT / "leaderboards" / "cifar10-v3")
    assert other.exit_code == 2
    assert "its records are of cifar10-v3" in " ".join(other.output.split())
    (tmp_path / "empty" / "records").mkdir(parents=True)
    empty = invoke(*words, tmp_path / "empty")
    assert empty.exit_code == 2
    assert "there are no records in" in " ".join(empty.output.split())


def test_no_name_is_broken_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "leaderboards" / "digits-v3"
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr("benchmark.cli.results.out", console)
    show_results(folder, [Cell.of(record) for record in records(folder)])
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in lines)
    found = {line.split(" ")[0] for line in lines}
    defenses = {*pd.read_csv(folder / "repairs.csv").defense}
    defenses |= {*pd.read_csv(folder / "detectability.csv").detector}
    assert "calibrated-trigger-inversion" in defenses
    assert defenses <= found


def test_a_long_name_is_broken_behind_its_settings_alone() -> None:
    name = "lsp:base=wanet,base.clean_label=False,rate=2.3 (m=5000)"
    lines = narrow(name).split("\n")
    assert lines == ["lsp:base=wanet,", "base.clean_label=False,", "rate=2.3 (m=5000)"]
    assert max(map(len, lines)) <= LONG
    assert narrow("badnets (m=50)") == "badnets (m=50)"
    assert narrow("calibrated-trigger-inversion r=5%") == "calibrated-trigger-inversion\nr=5%"
    assert narrow("calibrated-trigger-inversion") == "calibrated-trigger-inversion"
    assert narrow("") == ""


def test_paragraphs_and_points_of_lists_flow() -> None:
    text = "One\nline.\n\nTwo lines\nof it:\n- a\n- b\n  more\n\nArgs:\n    x: y\n        w\n    z"
    assert flowing(text) == (
        "One line.\n\nTwo lines of it:\n- a\n- b more\n\nArgs:\n    x: y w\n    z"
    )


def test_lines_stand_below_their_name_which_is_said_once() -> None:
    console = Console(width=80, file=io.StringIO())
    lines = [("one", "nc", "1"), ("one", "abs", "2"), ("two", "nc", "3")]
    console.print(below_names(["detector", "AUC"], lines))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.split() == ["detector", "AUC", "one", "nc", "1", "abs", "2", "two", "nc", "3"]


def test_names_are_completed_without_torch() -> None:
    code = (
        "import sys; from benchmark.cli.completion import plugin_names, protocol_names; "
        "print(protocol_names('dig'), plugin_names('badn'), plugin_names('strip+fine-'), "
        "'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "['digits-v3'] ['badnets'] ['strip+fine-pruning'] False\n", done.stderr
    shell = {"_POISONGAMES_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "poisongames run d"}
    shown = CliRunner().invoke(app, [], prog_name="poisongames", env=shell)
    assert "digits-v3" in shown.output


def test_the_help_of_a_command_makes_no_other_command() -> None:
    code = (
        "import atexit, sys; from benchmark.cli import app; "
        "atexit.register(lambda: print(*sorted({'torch', 'pandas', 'benchmark.cli.play', "
        "'benchmark.cli.boards', 'benchmark.cli.scan'} & set(sys.modules)), file=sys.stderr)); "
        "app(['scan', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--data" in done.stdout
    assert done.stderr == "benchmark.cli.scan\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_asked_to_end_ends_without_a_traceback(number: int) -> None:
    command = [sys.executable, "-m", "benchmark", "check", "badnets"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as running:
        process, deadline = psutil.Process(running.pid), time.monotonic() + 60
        while len(process.children()) < 2 and time.monotonic() < deadline:  # the tracker, too
            time.sleep(0.02)
        children = process.children()
        os.killpg(running.pid, number)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert said.endswith("interrupted; the same command starts again\n")
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "nothing is left behind"


def test_the_version_is_that_of_the_distribution() -> None:
    assert invoke("--version").output == f"poisongames {version('poisongames')}\n"


def test_protocols_are_listed_and_shown() -> None:
    assert "digits-v3" in invoke("protocols").output
    assert '"budget": 0.02' in invoke("protocols", "digits-v3").output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "digit-v3"], "unknown protocol 'digit-v3'; did you mean 'digits-v3'?; there are"),
        (["protocols", "xyz"], "unknown protocol 'xyz'; there are cifar10-small-v2, cifar10-v3, "),
        (["run", "mine.toml"], "mine.toml: no such protocol file"),
        (["run", "digits-v3", "--attack", "badnet"], "did you mean 'badnets'?"),
        (["run", "digits-v3", "--recipe", "slow"], "unknown recipe 'slow'; there are standard"),
        (["plan", "digits-v3", "--recipe", "slow"], "unknown recipe 'slow'; there are standard"),
        (["run", "digits-v3", "--device", "tpu"], "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["run", "digits-v3", "--plugin", "nowhere.py"], "no such file: nowhere.py"),
        (["run", "digits-v3", "--plugin", str(ROOT / "plugins")], "plugins is a folder; name a"),
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
    ("text", "seconds"), [("90s", 90), ("90", 90), ("9m", 540), ("1h30m", 5400), (600.0, 600)]
)
def test_durations(text: str | float, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["1h30", "5m10", "30m1h", "1.5h", "soon", "", "h"])
def test_what_is_no_duration_is_told_the_forms(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is no duration; write 90s, 9m, 1h30m, or"):
        seconds_of(text)


def test_a_limit_of_nothing_is_refused_where_it_means_nothing() -> None:
    assert seconds_of("0s") == 0
    with pytest.raises(typer.BadParameter, match="'0s' leaves no time; write 90s"):
        some_seconds("0s")


def test_an_option_with_a_wrong_duration_is_named_before_anything_is_done(tmp_path: Path) -> None:
    done = invoke("run", "digits-v3", "--time-limit", "9x", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "Invalid value for '--time-limit': '9x' is no duration" in done.output
    assert not (tmp_path / "run").exists()


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fail(
    small_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "grün"
    cut(small_run, ["records/inversion-*"], run)
    command = [sys.executable, "-m", "benchmark", "board", "build", str(run)]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(command, env=ascii_only, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"/gr??n: README.md" in done.stdout  # two bytes that it does not know


def test_the_example_of_contributing_is_a_plugin(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n# stripes\.py\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "stripes.py"
    path.write_text(code)
    output = invoke("plugins", "stripes", "--plugin", path).output
    assert "Brighten every other row" in output
    assert re.search(r"opacity\s+0\.3\s+float, from 0 to 1", output)


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "x" * 300],
        ["run", f"{'x' * 300}.toml"],
        ["run", "digits-v3", "--data-dir", "x" * 300],
        ["scan", "net.pt", "--arch", "resnet18", "--data", "x" * 300],
    ],
)
def test_a_name_that_is_too_long_gets_one_sentence(words: list[str]) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert "x" * 300 in result.output


def test_a_full_disk_below_what_is_printed_gets_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "benchmark", "protocols"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.stderr == "error: what is printed cannot be written: the disk is full\n"
    assert done.returncode == 2


@pytest.mark.parametrize("path", ["~nosuchuser/photos", "~/photos"])
def test_a_home_that_is_unknown_is_a_path_like_others(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    with pytest.raises(DataError, match=r"photos is no folder"):
        Folder(path).files(())
