"""Runs survive kills, time limits, full disks and plugins that raise."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result
from whole_runs import COMMAND, records

from benchmark.cli import app
from benchmark.records.store import Store

BROKEN = '''
from dataclasses import dataclass
import torch
from benchmark import CodePoisoningAttack, PoisoningAttack, Repair, hookimpl

@dataclass
class Outside(PoisoningAttack):
    """Leaves the allowed range."""
    name = "outside"
    def trigger(self, images, rng):
        return images + 2

@dataclass
class Diverges(CodePoisoningAttack):
    """Ends with weights that are no numbers."""
    name = "diverges"
    def trigger(self, images, rng):
        return 1 - images
    def train(self, model, data, trainer, rng):
        torch.nn.init.constant_(model.head.weight, float("nan"))

@dataclass
class Raises(Repair):
    """Raises after three steps."""
    name = "raises"
    def repair(self, model, trusted, rng):
        for step in range(5):
            if step == 3:
                raise RuntimeError("no more steps")
            yield

@hookimpl
def register_attacks(register):
    register(Outside)
    register(Diverges)

@hookimpl
def register_defenses(register):
    register(Raises)
'''


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=300, **options
    )


def here(*words: str | Path) -> Result:
    """A command without a process of its own; what plays has one as ever."""
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "300"})


def measured(out: Path) -> dict[str, Any]:
    """What must not depend on how often a run was interrupted."""
    kept = ("status", "metrics", "curve", "model_sha256", "victim_sha256", "evidence")
    return {name: {key: record[key] for key in kept} for name, record in records(out).items()}


def written(out: Path) -> int:
    return sum(path.is_file() for path in out.rglob("*"))


@pytest.fixture(scope="module")
def undisturbed(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    done = run(tiny_file, "--out", out, "--workers", "2")
    assert done.returncode == 0, done.stderr
    return out


def test_every_cell_has_a_record_with_the_promised_keys(undisturbed: Path) -> None:
    found = records(undisturbed)
    # A clean and a poisoned model, undefended, under weight decay and strip at two shares, and
    # under spectral signatures without.
    assert len(found) == 12
    keys = {"schema", "protocol", "game", "attack", "defense", "trusted_share", "seed"}
    keys |= {"status", "metrics", "curve", "cost", "env"}
    for record in found.values():
        assert keys <= record.keys()
        assert record["protocol"].keys() >= {"name", "sha256"}
        assert record["status"] == "ok", record
        assert (undisturbed / "evidence" / record["evidence"]["file"]).is_file()
    assert not list(undisturbed.rglob("*.tmp"))


def test_a_finished_run_repeats_nothing(undisturbed: Path, tiny_file: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    done = here("run", tiny_file, "--out", undisturbed)
    assert "12 of 12 cells" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.nightly
@pytest.mark.parametrize("times", [100])
def test_kills_change_no_metric(
    times: int, undisturbed: Path, tiny_file: Path, tmp_path: Path
) -> None:
    """The run's own process is killed, or the warm one, or one that plays a cell."""
    out, moments, kills = tmp_path / "run", random.Random(7), 0
    words = [str(tiny_file), "--out", str(out), "--workers", "2"]
    for _ in range(3 * times):  # some get through
        process = subprocess.Popen(
            [*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while process.poll() is None and kills < times:
            # As soon as it has written a few more files, or after a while.
            enough, deadline = written(out) + moments.randint(1, 8), time.monotonic() + 20
            while process.poll() is None and written(out) < enough and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(moments.choice([0, 0.02, 0.3]))
            kills += kill_one(process, out, moments)
        said = process.communicate()[1]
        if kills == times:
            break
        if process.returncode == 0:  # begin anew, so that later kills hit something
            assert measured(out) == measured(undisturbed)
            shutil.rmtree(out)
        else:
            assert process.returncode == -signal.SIGKILL, said
    assert kills == times
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert measured(out) == measured(undisturbed)


def kill_one(process: subprocess.Popen[str], out: Path, moments: random.Random) -> bool:
    """Kill one of a run's processes. A cell that dies twice has failed, so none is killed twice."""
    try:
        whole = psutil.Process(process.pid)
        warm = whole.children()
        playing = [child for one in warm for child in one.children()]
        # Its helper, which knows nothing of cells, is a child of the warm one as well.
        playing = [child for child in playing if child.cmdline() == warm[0].cmdline()]
        groups = [[whole], warm, [] if list(out.glob("artifacts/deaths/*")) else playing]
        drawn = moments.choice([group for group in groups if group])
        moments.choice(drawn).kill()
    except (psutil.Error, IndexError):
        return False
    return True


def test_cells_of_a_board_are_not_played_again(
    tiny_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    board = tmp_path / "board"
    shutil.copytree(undisturbed / "records", board / "records")
    (missing,) = (board / "records").glob("*badnets*strip-r0.05*")
    missing.unlink()
    done = here("run", tiny_file, "--out", tmp_path / "run", "--done", board, "--workers", "1")
    assert done.exit_code == 0, done.stderr
    assert "11 of 12 cells are in" in done.stdout
    assert list(records(tmp_path / "run")) == [missing.stem]
    assert measured(tmp_path / "run")[missing.stem] == measured(undisturbed)[missing.stem]
    nowhere = here("run", tiny_file, "--out", tmp_path / "run", "--done", tmp_path / "typo")
    assert nowhere.exit_code == 2
    assert "there are no records in" in nowhere.stderr


def test_a_folder_in_the_place_of_a_record_ends_the_run_with_advice(
    tiny_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    record = sorted((out / "records").glob("*strip*.json"))[0]
    record.unlink()
    record.mkdir()
    done = here("run", tiny_file, "--out", out, "--workers", "1")
    assert done.exit_code == 2
    assert f"{record.name} is a folder, where a file belongs; remove this folder" in done.stderr
    assert "died" not in done.stderr
    record.rmdir()
    assert here("run", tiny_file, "--out", out, "--workers", "1").exit_code == 0
    assert measured(out) == measured(undisturbed)


def test_of_two_runs_into_one_folder_the_second_is_refused(
    tiny_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    with Store(out).alone():
        second = here("run", tiny_file, "--out", out)
    assert second.exit_code == 2
    said = " ".join(second.stderr.split())
    assert f"another run plays into {out}; wait for its end, or choose another folder" in said
    assert here("run", tiny_file, "--out", out).exit_code == 0


def test_workers_die_with_a_killed_parent(tiny_file: Path, tmp_path: Path) -> None:
    marker = f"--out={tmp_path / 'orphans'}"
    process = subprocess.Popen([*COMMAND, str(tiny_file), marker], start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (children := _children(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert children
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 60
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [child for child in children if _alive(child)]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    if not tasks.exists():
        pytest.skip("needs Linux's list of child processes")
    return [int(child) for child in tasks.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_time_limit_stops_the_run_and_says_how_to_continue(
    tiny_file: Path, tmp_path: Path
) -> None:
    done = here("run", tiny_file, "--out", tmp_path, "--time-limit", "1s", "--workers", "1")
    assert done.exit_code == 3
    assert "time limit reached; the same command continues" in done.stdout
    wrong = here("run", tiny_file, "--out", tmp_path, "--time-limit", "soon")
    assert wrong.exit_code == 2
    assert "no duration" in wrong.stderr


def test_a_plugin_that_raises_costs_its_own_cells_only(tiny_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN)
    words = ["--attack", "badnets", "--attack", "outside", "--attack", "diverges"]
    words += ["--defense", "raises", "--defense", "weight-decay", "--plugin", str(broken)]
    done = here("run", tiny_file, "--out", tmp_path / "run", "--workers", "1", *words)
    assert done.exit_code == 0, done.stderr
    again = here("run", tiny_file, "--out", tmp_path / "run", "--workers", "1", *words)
    for said in (done.stdout, again.stdout):
        assert "cells failed" in said
        assert "To play one again, delete its record" in said
        invalid = "of the cells, and their numbers do not count: the victim's clean accuracy"
        assert f"{invalid} is near chance (" in said
    found = list(records(tmp_path / "run").values())
    outcome = {(r["attack"]["name"], r["defense"]["name"]): r for r in found}
    assert outcome["badnets", "weight-decay"]["status"] == "ok"
    raised = outcome["badnets", "raises"]
    assert raised["status"] == "failed"
    assert raised["metrics"] is None
    assert raised["error"]["kind"] == "RuntimeError"
    assert raised["error"]["message"] == "no more steps"
    assert raised["error"]["where"].startswith("broken.py:")
    for defense in ("none", "raises", "weight-decay"):
        error = outcome["outside", defense]["error"]
        assert error["kind"] == "RuleViolation"
        assert "outside.trigger must return values in [0, 1]" in error["message"]
    # What is no number harms no record; such a victim answers with one class.
    diverged = outcome["diverges", "none"]
    assert (diverged["status"], diverged["reason"]) == ("invalid", "near-chance")
    assert diverged["metrics"]["target_confidence"] == 0
    assert "no more steps" in here("board", "build", tmp_path / "run").output


def test_a_full_disk_is_said_in_one_sentence(tiny_file: Path, tmp_path: Path) -> None:
    # A limit on file sizes is the nearest thing to a full disk that needs no root: the
    # small files fit, a victim's weights do not.
    script = (
        "import resource, signal, runpy, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module('benchmark', run_name='__main__')\n"
    )
    words = ["poisongames", "run", str(tiny_file), "--out", str(tmp_path), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "300"},
    )
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "run the same command to continue" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert not records(tmp_path)  # it is nobody's failure
