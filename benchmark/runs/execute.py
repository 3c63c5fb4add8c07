"""Runs a plan on local worker processes: its cells in order, each after the victims it needs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_process
from multiprocessing.queues import SimpleQueue
from typing import Literal

from benchmark.errors import UserError
from benchmark.records.cell import Cell, Tune, Victim
from benchmark.records.record import Error
from benchmark.records.store import Store
from benchmark.runs.context import Setup
from benchmark.runs.tasks import Worker

Task = Victim | Cell | Tune
#: (task, done, total); total is 0 where nobody knows it.
Tick = tuple[str, int, int]


@dataclass(frozen=True)
class Summary:
    """How a run ended; `why` is None when every cell has a record."""

    done: int
    total: int
    why: Literal["time", "interrupted"] | None


@dataclass(frozen=True)
class Listener:
    """What a front end wants to hear; all calls come from one thread."""

    planned: Callable[[int, int], None] = lambda done, total: None
    started: Callable[[str], None] = lambda task: None
    ticked: Callable[[Tick], None] = lambda tick: None
    finished: Callable[[str, bool, Error | None], None] = lambda task, is_cell, error: None


_worker: Worker
_ticks: SimpleQueue[Tick]


def _begin(setup: Setup, ticks: SimpleQueue[Tick]) -> None:
    """Set a worker process up."""
    global _worker, _ticks
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker, _ticks = Worker(setup), ticks


def _die_with_parent() -> None:
    """A killed parent cannot stop its workers, so they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_process([parent.sentinel])
        os._exit(1)


def _train(victim: Victim) -> Error | None:
    name = str(victim)
    return _worker.train_victim(victim, lambda done, total: _ticks.put((name, done, total)))


def _play(cell: Cell) -> Error | None:
    name = str(cell)
    return _worker.play_cell(cell, lambda done, total: _ticks.put((name, done, total)))


def _tune(tune: Tune) -> Error | None:
    name = str(tune)
    return _worker.tune(tune, lambda done, total: _ticks.put((name, done, total)))


def _fail(cell: Cell | Tune, error: Error) -> Error:
    return _worker.fail_cell(cell, error) if isinstance(cell, Cell) else error


class WorkerDied(UserError, RuntimeError):
    """A worker process ended without a word: killed, or out of memory."""


def execute(
    setup: Setup,
    cells: Sequence[Cell | Tune],
    *,
    workers: int = 1,
    deadline: float | None = None,
    listener: Listener | None = None,
) -> Summary:
    """Play all cells that have no record yet, and make all searches that have no file.

    Whatever ends this early costs the cells in flight and nothing else; the same call
    continues.

    Args:
        workers: processes side by side.
        deadline: `time.monotonic()` at which to stop.

    Raises:
        StoreError: the run's folder cannot be written.
        WorkerDied: a worker process was killed.
    """
    listener = listener or Listener()
    store = Store(setup.root)
    waiting = [cell for cell in cells if not _is_done(cell, store)]
    done = len(cells) - len(waiting)
    listener.planned(done, len(cells))
    if not waiting:
        return Summary(done, len(cells), None)
    context = multiprocessing.get_context("spawn")
    ticks: SimpleQueue[Tick] = context.SimpleQueue()
    pool = ProcessPoolExecutor(workers, context, _begin, (setup, ticks))
    schedule = _Schedule(waiting, store)
    running: dict[Future[Error | None], Task] = {}
    why: Literal["time", "interrupted"] | None = None
    try:
        while running or not schedule.empty:
            while len(running) < workers and (task := schedule.next()) is not None:
                listener.started(str(task))
                running[_submit(pool, task, schedule)] = task
            finished, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
            while not ticks.empty():
                listener.ticked(ticks.get())
            for future in finished:
                task = running.pop(future)
                error = future.result()
                schedule.finished(task, error)
                is_cell = not isinstance(task, Victim)
                listener.finished(str(task), is_cell, error)
                done += is_cell
            if deadline is not None and time.monotonic() > deadline:
                why = "time"
                break
    except KeyboardInterrupt:
        why = "interrupted"
    except BrokenProcessPool:
        raise WorkerDied(
            "a worker process was killed or ran out of memory; run the same command again to "
            "continue, with fewer --workers if memory is short"
        ) from None
    finally:
        if running or why:
            for process in multiprocessing.active_children():
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
    return Summary(done, len(cells), why)


def _is_done(task: Cell | Tune, store: Store) -> bool:
    return task.path.is_file() if isinstance(task, Tune) else store.has_record(task.name)


def _submit(pool: ProcessPoolExecutor, task: Task, schedule: _Schedule) -> Future[Error | None]:
    if isinstance(task, Victim):
        return pool.submit(_train, task)
    if (error := schedule.failure_of(task)) is not None:
        return pool.submit(_fail, task, error)
    return pool.submit(_tune, task) if isinstance(task, Tune) else pool.submit(_play, task)


class _Schedule:
    """Hands out tasks in the plan's order, each victim just before the first cell that needs it."""

    def __init__(self, cells: Sequence[Cell | Tune], store: Store) -> None:
        self._trained: set[str] = set()
        self._failed: dict[str, Error] = {}
        self._victims: dict[str, Victim] = {}
        self._cells = list(cells)
        self._needs = {cell.key: [victim.key for victim in cell.needs()] for cell in cells}
        for cell in cells:
            for victim in cell.needs():
                if store.has_victim(victim.key):
                    self._trained.add(victim.key)
                else:
                    self._victims[victim.key] = victim

    @property
    def empty(self) -> bool:
        return not self._cells

    def next(self) -> Task | None:
        """Take the first cell that can be played, or a victim that an earlier one waits for."""
        for index, cell in enumerate(self._cells):
            if self.failure_of(cell) or self._trained.issuperset(self._needs[cell.key]):
                return self._cells.pop(index)
            for key in self._needs[cell.key]:
                victim = self._victims.get(key)
                # Every poisoned victim is compared with the clean one of its repetition.
                if victim is not None and victim.clean.key in {key, *self._trained}:
                    return self._victims.pop(key)
        return None

    def finished(self, task: Task, error: Error | None) -> None:
        if not isinstance(task, Victim):
            return
        if error is not None:
            self._failed[task.key] = error
        self._trained.add(task.key)

    def failure_of(self, cell: Cell | Tune) -> Error | None:
        """The error of a victim this cell needs."""
        errors = (self._failed.get(key) for key in self._needs[cell.key])
        return next((error for error in errors if error is not None), None)
