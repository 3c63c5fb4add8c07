"""How many tasks fit a machine, and what is said before any is begun."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest
import torch
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.data import DataError, cache_folder
from benchmark.protocol import Protocol
from benchmark.runs import machine, nursery
from benchmark.runs.context import Setup


def test_affinity_decides_how_many_tasks_are_played_side_by_side() -> None:
    code = "import os; os.sched_setaffinity(0, {0}); "
    code += "from benchmark.cli.execution import workers_for; print(workers_for('cpu'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    ("most", "used", "files", "left"),
    [("3000", "1000", "0", 2000), ("3000", "2500", "2000", 2500), ("max", "1000", "0", None)],
)
def test_a_container_has_the_memory_that_its_limit_leaves(
    most: str, used: str, files: str, left: int | None, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(most)
    (tmp_path / "memory.current").write_text(used)
    (tmp_path / "memory.stat").write_text(f"anon 12\ninactive_file {files}\n")
    found = machine.memory_left(tmp_path)
    if left is None:
        assert found == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    else:
        assert found == left


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_loaded(
    tiny_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    done = CliRunner().invoke(
        app, ["run", str(tiny_file), "--out", str(tmp_path / "file" / "run")],
        env={"COLUMNS": "300"},
    )  # fmt: skip
    assert done.exit_code == 2
    assert f"cannot write {tmp_path / 'file' / 'run'}: Not a directory" in done.output


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("badnets:m=100000", "badnets may change the"),
        ("advclean:m=200", "that are of target class 0"),
    ],
)
def test_too_many_poisoned_images_are_said_before_anything_is_trained(
    spec: str, sentence: str, tiny_file: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        app, ["run", str(tiny_file), "--out", str(tmp_path), "--attack", spec],
        env={"COLUMNS": "300"},
    )  # fmt: skip
    assert done.exit_code == 2
    assert sentence in done.output
    assert not list((tmp_path / "artifacts" / "victims").iterdir())


def test_no_home_one_core_and_an_ascii_terminal(tiny_file: Path, tmp_path: Path) -> None:
    """A bare environment, as a queue or a container gives it."""
    kept = ("PATH", "PYTHONPATH", "POISONGAMES_DATA", "LD_LIBRARY_PATH")
    bare = {name: os.environ[name] for name in kept if name in os.environ}
    words = ["run", str(tiny_file), "--out", str(tmp_path), "--defense", "weight-decay"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", *words, "--time-limit", "1s"],
        capture_output=True,
        text=True,
        env=bare | {"LC_ALL": "C", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
    )
    assert done.returncode == 3, done.stderr
    assert "the same command continues" in done.stdout


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    with pytest.raises(DataError, match=r"no home folder .* set \$XDG_CACHE_HOME"):
        cache_folder()


@pytest.mark.parametrize(("device", "method"), [("cpu:0", "fork"), ("cuda:99", "spawn")])
def test_forks_are_tried_before_a_run_rests_on_them(
    device: str, method: str, tiny: Protocol, tmp_path: Path
) -> None:
    """No machine has a hundred GPUs, which stands for one that no fork reaches."""
    setup = Setup(tiny, tiny.recipe, device, (), None, tmp_path)
    link, other = Pipe()
    begun = nursery.Nursery(setup, other, "fork", ahead=False)
    assert link.recv() == nursery.READY
    assert begun._context.get_start_method() == method


def test_plugins_are_imported_by_one_thread(tmp_path: Path) -> None:
    """A fork of what has computed with several hangs once it does the same."""
    plugin = tmp_path / "computes.py"
    plugin.write_text("import torch\nthreads = torch.get_num_threads()\n")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        nursery._imported((plugin,))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    (module,) = (one for name, one in sys.modules.items() if "computes" in name)
    assert module.threads == 1
