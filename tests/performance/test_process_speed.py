"""What it costs that a cell is a process of its own.

The same repair is played in this process and through local processes, one at a time. The difference
per cell, beyond the start of the warm process, is below 0.1 s on a quiet machine.
"""

from __future__ import annotations

import time
from pathlib import Path

import small_board
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.records.cell import Cell
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.runs.context import Setup
from benchmark.runs.executor import Job, Tick
from benchmark.runs.local import LocalExecutor
from benchmark.runs.tasks import Worker

ROUNDS, ALLOWED = 12, 0.3


def test_a_process_for_each_cell(
    registry: Registry, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    root = tmp_path / "run"
    Store(root).begin()
    setup = Setup(small_board.parsed(), "standard", "cpu", (), None, root)
    (cell,) = small_board.cells(registry, ["robustness-badnets-m40-weight-decay-r0.05-s0"])
    worker, executor = Worker(setup), LocalExecutor(setup, 1)
    for victim in cell.needs():
        assert worker.train_victim(victim) is None

    def apart(cell: Cell) -> None:
        executor.submit(Job(cell))
        while not any(not isinstance(what, Tick) for what in executor.wait(1.0)):
            pass

    try:
        apart(cell)  # the warm process starts
        here = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            assert worker.play_cell(cell) is None
            here.append(time.perf_counter() - began)
        benchmark.pedantic(apart, args=(cell,), rounds=ROUNDS)
    finally:
        executor.close()
    assert Store(root).record(cell.name).is_file()
    more = benchmark.stats.stats.median - sorted(here)[ROUNDS // 2]
    print(f"\na cell in this process {sorted(here)[ROUNDS // 2]:.3f} s, in its own {more:+.3f} s")
    assert more < ALLOWED
