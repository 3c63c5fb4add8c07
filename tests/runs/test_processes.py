"""A cell is played in a process of its own: whatever a plugin does there ends there."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import misbehaving
import psutil
import pytest
from whole_runs import COMMAND, left_behind, records, without_costs

from benchmark import protocol as protocols
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.runs import local
from benchmark.runs.context import Setup
from benchmark.runs.execute import execute
from benchmark.runs.executor import Job, Tick
from benchmark.runs.plan import plan

PLUGIN = Path(misbehaving.__file__)

#: How each misbehaving repair's cells end; those that are not named are measured.
FAILURES = {
    "exits": ("SystemExit", "0"),
    "interrupts": ("KeyboardInterrupt", ""),
    "unspeakable": ("UnspeakableError", "its text cannot be had"),
    "exits-hard": ("ProcessDied", "its process died (exit code 0)"),
    "aborts": ("ProcessDied", "its process died (signal 6)"),
    "crashes": ("ProcessDied", "its process died (signal 11)"),
    "kills-itself": ("ProcessDied", "its process died (signal 9)"),
    "replaces-functions": (
        "ProcessDied",
        "its process died (nothing could be recorded: RuntimeError: this function was replaced)",
    ),
    "may-read-nothing": ("ProcessDied", "its process died (it could not read its victim)"),
    "hangs": ("TimeLimit", "took longer than 20 s; --cell-time-limit gives it more"),
}


def run(
    protocol: Path, out: Path, *words: str, workers: int = 2
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, str(protocol), "--out", str(out), "--workers", str(workers), *words],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"MISBEHAVING_RUN": str(out), "COLUMNS": "300"},
    )


@pytest.fixture(scope="module")
def protocol(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny one with a single share of trusted data: eight cells."""
    path = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    path.write_text(tiny_file.read_text().replace("shares = [0.05, 0.15]", "shares = [0.15]"))
    return path


@pytest.fixture(scope="module")
def undisturbed(protocol: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    done = run(protocol, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def disturbed(protocol: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """First-party defenses between misbehaving ones, in one run; and what it printed."""
    out = tmp_path_factory.mktemp("disturbed")
    names = [plugin.name for plugin in misbehaving.PLUGINS]
    own = ["weight-decay", "spectral-signatures", "strip"]
    asked = [*names[::2], own[0], *names[1::2], *own[1:]]
    words = [word for name in asked for word in ("--defense", name)]
    done = run(
        protocol, out, "--plugin", str(PLUGIN), "--cell-time-limit", "20s",
        "--attack", "badnets", *words, workers=3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stderr


def test_nothing_that_a_plugin_does_reaches_another_cell(
    undisturbed: Path, disturbed: tuple[Path, str]
) -> None:
    expected, found = without_costs(undisturbed), without_costs(disturbed[0])
    assert expected.items() <= found.items()
    for name, record in expected.items():
        if record["evidence"]:
            file = record["evidence"]["file"]
            one, other = (folder / "evidence" / file for folder in (undisturbed, disturbed[0]))
            assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.parametrize("name", [plugin.name for plugin in misbehaving.PLUGINS])
def test_every_misbehaving_cell_ends_as_it_should(name: str, disturbed: tuple[Path, str]) -> None:
    found = [r for r in records(disturbed[0]).values() if r["defense"]["name"] == name]
    assert len(found) == 2  # a clean and a poisoned victim
    for record in found:
        if name == "closes-files":  # by what it misses first
            assert record["status"] == "failed"
        elif name == "may-write-nothing":
            assert "it could not write its files: cannot write" in record["error"]["message"]
        elif name in FAILURES:
            assert (record["error"]["kind"], record["error"]["message"]) == FAILURES[name]
        else:
            assert record["status"] == "ok", record["error"]


def test_nothing_is_left_behind(disturbed: tuple[Path, str]) -> None:
    assert left_behind() == []
    assert not list(disturbed[0].rglob("*.tmp"))
    assert not list(disturbed[0].glob("artifacts/deaths/*"))


def test_a_death_is_told_and_tried_once_more(disturbed: tuple[Path, str]) -> None:
    told = [line for line in disturbed[1].splitlines() if "it will be tried once more" in line]
    assert sum("vs crashes" in line and "(signal 11)" in line for line in told) == 2
    # A line per finished task, where there is no terminal.
    assert any(line.startswith("1/") for line in disturbed[1].splitlines())


def test_deaths_are_remembered_when_a_run_is_begun_again(protocol: Path, tmp_path: Path) -> None:
    """A plugin that takes the machine down with it must not do so at every start for ever."""
    out = tmp_path / "run"
    words = ["--attack", "badnets", "--defense", "crashes", "--plugin", str(PLUGIN)]
    process = subprocess.Popen(
        [*COMMAND, str(protocol), "--out", str(out), "--workers", "1", *words],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("artifacts/deaths/*.txt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    noted = sorted(path.read_text() for path in out.glob("artifacts/deaths/*.txt"))
    assert noted
    assert all("vs crashes" in text and "signal 11" in text for text in noted)
    done = run(protocol, out, *words, workers=1)
    told = sum("tried once more" in line for line in done.stderr.splitlines())
    failed = [r for r in records(out).values() if r["status"] == "failed"]
    assert len(failed) == 2
    assert told <= len(failed) - sum(text.count("\n") for text in noted)


FLIPS = {"few": 20, "many": 200}


@pytest.mark.parametrize("how_many", ["few", pytest.param("many", marks=pytest.mark.nightly)])
def test_flipped_bits_are_noticed_or_harmless(
    how_many: str, undisturbed: Path, protocol: Path, tmp_path: Path
) -> None:
    """One bit in every file of a run, in several rounds: afterwards all is as it was."""
    drawn, flips, out = random.Random(3), 0, tmp_path / "run"
    subprocess.run(["cp", "-r", str(undisturbed), str(out)], check=True)
    expected = without_costs(undisturbed)
    while flips < FLIPS[how_many]:
        files = sorted(path for path in out.rglob("*") if path.is_file())
        for path in files:
            content = bytearray(path.read_bytes())
            content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
            path.write_bytes(content)
            flips += 1
        done = run(protocol, out)
        assert done.returncode == 0, done.stderr
        assert "8 of 8 cells" in done.stdout
        assert without_costs(out) == expected


def test_a_victim_that_is_damaged_is_trained_again(
    undisturbed: Path, protocol: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    subprocess.run(["cp", "-r", str(undisturbed), str(out)], check=True)
    expected, kinds = without_costs(out), ["model", "triggered", "state", "confidence"]
    for record in (out / "records").glob("*badnets*"):
        record.unlink()
    victims = sorted((out / "artifacts" / "victims").iterdir())
    for folder, kind in zip(victims, kinds, strict=False):
        path = folder / f"{kind}.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (victims[-1] / "victim.json").write_text("garbage")
    done = run(protocol, out)
    assert done.returncode == 0, done.stderr
    assert without_costs(out) == expected


def test_a_folder_that_vanishes_is_said_and_blamed_on_nobody(
    protocol: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*COMMAND, str(protocol), "--out", str(out), "--workers", "1"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "300"},
    )
    deadline = time.monotonic() + 120
    while not list(out.rglob("victim.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    out.rename(tmp_path / "elsewhere")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert f"{out} has vanished" in said
    assert "failed" not in said
    assert not out.exists()


@pytest.fixture
def running(protocol: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in which one repair hangs and has left a child behind."""
    words = ["--attack", "badnets", "--plugin", str(PLUGIN), "--workers", "2"]
    words += ["--defense", "keeps-a-child", "--defense", "hangs"]
    process = subprocess.Popen(
        [*COMMAND, str(protocol), "--out", str(tmp_path), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("records/*keeps-a-child*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    yield process
    process.kill()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)]
)
def test_what_ends_a_run_ends_all_of_it_in_seconds(
    number: signal.Signals, running: subprocess.Popen[str]
) -> None:
    below = psutil.Process(running.pid).children(recursive=True)
    assert len(below) >= 2
    began = time.monotonic()
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130, stderr
    assert time.monotonic() - began < 15
    assert "interrupted; the same command continues" in stdout
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(below, timeout=10)
    # One that has ended may wait for its parent to notice.
    ended = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    assert not [child for child in alive if child.status() not in ended]
    assert left_behind() == []


@pytest.mark.parametrize(
    ("method", "device"),
    [("fork", "cpu:0"), pytest.param("spawn", "cpu", marks=pytest.mark.nightly)],
)
def test_processes_that_load_the_data_play_the_same(
    method: local.Method,
    device: str,
    protocol: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As on a GPU, for which a numbered CPU stands, and on macOS: one begins as another plays."""
    monkeypatch.setattr(local, "METHOD", method)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    chosen = protocols.load(str(protocol))
    setup = Setup(chosen, chosen.recipe, device, (PLUGIN,), None, tmp_path)
    registry = Registry(setup.plugin_files)
    cells = plan(chosen, registry, attacks=["badnets"], defenses=["crashes", "weight-decay"])
    store = Store(tmp_path)
    store.begin()
    done = execute(store, cells, local.LocalExecutor(setup, 1))
    assert (done.done, done.total, done.why) == (6, 6, None)
    assert "Traceback" not in capfd.readouterr().err  # of the one that nobody needed
    found, expected = without_costs(tmp_path), without_costs(undisturbed)
    failed = {name for name, record in found.items() if record["status"] == "failed"}
    assert len(failed) == 2
    assert all("crashes" in name for name in failed)
    assert {name: expected[name] for name in found if name not in failed} == {
        name: record for name, record in found.items() if name not in failed
    }


KILLER = """
import os, signal, time
from dataclasses import dataclass
from benchmark import Repair, hookimpl

@dataclass
class Killer(Repair):
    '''Ends the process that began it (made up).'''
    name, version, paper = "killer", 1, "none"

    def repair(self, model, trusted, rng):
        yield
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(5)
        yield

@hookimpl
def register_defenses(register):
    register(Killer)
"""


def test_whoever_kills_the_process_that_began_it_ends_its_own_cells(
    protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PATIENCE", 1)
    plugin = tmp_path / "killer.py"
    plugin.write_text(KILLER)
    chosen = protocols.load(str(protocol))
    setup = Setup(chosen, chosen.recipe, "cpu", (plugin,), None, tmp_path / "run")
    cells = plan(chosen, Registry((plugin,)), attacks=["badnets"], defenses=["killer"])
    store = Store(setup.root)
    store.begin()
    deadline = time.monotonic() + 120
    done = execute(store, cells, local.LocalExecutor(setup, 1), deadline=deadline)
    assert (done.done, done.why) == (len(cells), None)
    failed = {r["defense"]["name"]: r for r in records(setup.root).values() if r["error"]}
    assert [*failed] == ["killer"]
    assert failed["killer"]["error"]["kind"] == "ProcessDied"


def test_a_limit_that_comes_too_late_begins_nothing(
    protocol: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The task has ended, and whoever sent the limit has not heard so yet."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    chosen = protocols.load(str(protocol))
    first, second = plan(chosen, Registry(), attacks=["badnets"], defenses=["weight-decay"])[:2]
    executor = local.LocalExecutor(Setup(chosen, chosen.recipe, "cpu", (), None, out), 1)
    ended: list[str] = []

    def hear(until: int) -> None:
        deadline = time.monotonic() + 120
        while len(ended) < until and time.monotonic() < deadline:
            ended.extend(what[0].key for what in executor.wait(0.2) if not isinstance(what, Tick))

    try:
        executor.submit(Job(first))
        record = Store(out).record(first.name)
        before, deadline = record.stat().st_mtime_ns, time.monotonic() + 120
        while record.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(1)  # it has been written, and the nursery has said so
        executor.limit(first, 600.0)
        hear(until=1)
        executor.submit(Job(second))
        hear(until=2)
    finally:
        executor.close()
    assert ended == [first.key, second.key]
