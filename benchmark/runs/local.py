"""Plays tasks on this machine, each in a process of its own.

A run has one warm process, which has loaded the data and the plugins. It starts a process per task
(a fork of itself, which costs little; a new one where a GPU is used), stops it at its time limit,
and ends whatever it leaves behind: threads, children, grandchildren.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, Pipe
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from typing import Literal, NoReturn

import psutil

from benchmark import processes
from benchmark.errors import UserError
from benchmark.records.record import Error
from benchmark.records.store import Store
from benchmark.runs import report
from benchmark.runs.context import Setup
from benchmark.runs.executor import Ended, Job, Task, Tick, WorkerDied
from benchmark.runs.tasks import Worker

Method = Literal["fork", "spawn"]

#: Seconds between two looks at the processes that play; those that end well say so at once.
LOOK = 0.05
#: A warm process that ends so often, while nothing is done, ends the run.
PATIENCE = 5


def start_method(device: str) -> Method:
    """How the process of a task is started. CUDA survives no fork, nor does macOS."""
    return "fork" if device == "cpu" and sys.platform == "linux" else "spawn"


class LocalExecutor:
    """Local processes, `workers` of them side by side."""

    def __init__(self, setup: Setup, workers: int) -> None:
        self.slots = workers
        self._setup = replace(setup, root=setup.root.absolute())  # wherever a task may go
        self._jobs: dict[str, Job] = {}
        self._warm: BaseProcess | None = None
        self._link: Connection
        self._deaths = 0

    def submit(self, job: Job) -> None:
        self._jobs[job.task.key] = job
        if self._warm is None:
            self._begin()
        else:
            self._send(job)

    def wait(self, seconds: float) -> Iterator[Tick | tuple[Task, Ended]]:
        if self._warm is None:
            return
        wait_for([self._link, self._warm.sentinel], seconds)
        try:
            while self._link.poll():
                yield self._understand(*self._link.recv())
        except (EOFError, OSError):
            self._begin_again()
        else:
            if not self._warm.is_alive():
                self._begin_again()

    def close(self) -> None:
        if self._warm is not None:
            self._link.close()  # upon which it ends all that plays, and itself
            self._warm.join(10)
            self._warm.kill()
            self._warm.join()
            self._warm = None

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._link, other = context.Pipe()
        method = start_method(self._setup.device)
        self._warm = context.Process(target=_serve, args=(self._setup, other, method))
        self._warm.start()
        other.close()
        for job in self._jobs.values():
            self._send(job)

    def _begin_again(self) -> None:
        assert self._warm is not None
        self._deaths += 1
        self._warm.join(1)
        if self._deaths == PATIENCE:
            raise WorkerDied(
                f"a worker process died {PATIENCE} times "
                f"({processes.cause(self._warm.exitcode or 0)}), lately while it played "
                f"{' and '.join(str(job.task) for job in self._jobs.values())}; run the same "
                "command again to continue, with fewer --workers if memory is short"
            )
        self._link.close()
        self._warm.join()
        self._begin()

    def _send(self, job: Job) -> None:
        with suppress(OSError):  # it died, which the next look finds
            self._link.send(job)

    def _understand(self, key: str, said: tuple[int, int] | Ended) -> Tick | tuple[Task, Ended]:
        if isinstance(said, Ended):
            self._deaths = 0
            return self._jobs.pop(key).task, said
        return Tick(self._jobs[key].task, *said)


@dataclass
class _Child:
    """A process that plays a task, and what it has said."""

    job: Job
    process: BaseProcess
    pipe: Connection
    deadline: float
    ended: Ended | None = None


def _serve(setup: Setup, link: Connection, method: Method) -> None:
    """The warm process: start what it is sent, tell how it ends, until nobody sends any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    processes.adopt_orphans()
    _Nursery(setup, link, method).serve()


class _Nursery:
    def __init__(self, setup: Setup, link: Connection, method: Method) -> None:
        self._setup, self._link = setup, link
        self._context = multiprocessing.get_context(method)
        self._worker = _prepared(setup) if method == "fork" else None
        self._playing: list[_Child] = []
        resource_tracker.ensure_running()
        self._own = {child.pid for child in psutil.Process().children()}

    def serve(self) -> None:
        while True:
            pipes = {child.pipe: child for child in self._playing if not child.pipe.closed}
            for ready in wait_for([self._link, *pipes], LOOK if self._playing else None):
                if ready is not self._link:
                    self._hear(pipes[ready])  # type: ignore[index]
                    continue
                try:
                    self._start(self._link.recv())
                except (EOFError, OSError):
                    self._playing = []
                    self._end_strays()
                    return
            for child in [*self._playing]:
                self._look_after(child)

    def _start(self, job: Job) -> None:
        if isinstance(self._worker, Ended):
            self._tell(job, self._worker)
            return
        pipe, other = Pipe(duplex=False)
        with warnings.catch_warnings():
            # The other threads are numpy's, which knows how to be forked.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            process = self._context.Process(  # type: ignore[attr-defined]
                target=_play, args=(self._worker or self._setup, job, other, os.getpid())
            )
            process.start()
        other.close()
        deadline = float("inf") if job.seconds is None else time.monotonic() + job.seconds
        self._playing.append(_Child(job, process, pipe, deadline))

    def _hear(self, child: _Child) -> None:
        try:
            while child.ended is None and child.pipe.poll():
                said = child.pipe.recv()
                if isinstance(said, Ended):
                    child.ended = said
                else:
                    self._tell(child.job, said)
        except (EOFError, OSError):
            child.pipe.close()

    def _look_after(self, child: _Child) -> None:
        code = child.process.exitcode
        late = time.monotonic() > child.deadline
        if child.ended is None and code is None and not late:
            return
        if not child.pipe.closed:
            self._hear(child)  # what it said just before it ended
            child.pipe.close()
        child.process.kill()
        child.process.join()
        self._playing.remove(child)
        self._end_strays()
        if child.ended is None:
            died = None if code is None else Ended(died=processes.cause(code))
            child.ended = died or _late(child.job)
        self._tell(child.job, self._checked(child.ended))

    def _checked(self, ended: Ended) -> Ended:
        """Whether what ails a process ails this one too: plugins can set limits and close files."""
        store = Store(self._setup.root)
        if ended.unwritten is not None and store.works(ended.unwritten):
            return Ended(died=f"it could not write its files: {ended.trouble}")
        if ended.damaged and store.victims.is_sound(ended.damaged):
            return Ended(died="it could not read its victim")
        return ended

    def _end_strays(self) -> None:
        processes.end_strays({*self._own, *(child.process.pid for child in self._playing)})

    def _tell(self, job: Job, what: tuple[int, int] | Ended) -> None:
        with suppress(OSError):  # nobody listens any more, which `serve` finds
            self._link.send((job.task.key, what))


def _prepared(setup: Setup) -> Worker | Ended:
    """What plays tasks, or why nothing can be played."""
    try:
        worker = Worker(setup)
        worker.store.claim(worker.data_sha256)
        report.environment()  # what plugins do to the import system must not reach records
        return worker
    except UserError as error:
        return Ended(trouble=str(error))
    except Exception as error:
        return Ended(trouble=f"a worker cannot begin: {type(error).__name__}: {error}")


def _late(job: Job) -> Ended:
    assert job.seconds is not None
    return Ended(
        overtime=Error(
            kind="TimeLimit",
            message=f"took longer than {job.seconds:.0f} s; --cell-time-limit gives it more",
            where="",
        )
    )


def _play(prepared: Worker | Setup, job: Job, pipe: Connection, parent: int) -> NoReturn:
    """The process of one task. It says how the task ended, and ends at once with all it holds."""
    processes.begin(parent)
    worker = _prepared(prepared) if isinstance(prepared, Setup) else prepared
    if isinstance(worker, Ended):
        ended = worker
    else:
        try:
            ended = worker.work(job, lambda done, total: pipe.send((done, total)))
        except BaseException as error:  # our own code, among what a plugin left of the libraries
            said = report.describe(error)
            ended = Ended(died=f"nothing could be recorded: {said.kind}: {said.message}")
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    pipe.send(ended)
    os._exit(0)
