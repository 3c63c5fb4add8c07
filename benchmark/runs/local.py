"""Plays tasks on this machine, each in a process of its own; see `benchmark.runs.nursery`."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess

from benchmark import processes
from benchmark.runs.context import Setup
from benchmark.runs.executor import Ended, Job, Task, Tick, WorkerDied
from benchmark.runs.nursery import READY, Limit, Method, serve

#: A nursery that died this often, with no task finished in between, did not die by chance.
PATIENCE = 5
#: How the process of a task is started. macOS survives no fork.
METHOD: Method = "fork" if sys.platform == "linux" else "spawn"


class LocalExecutor:
    """Local processes.

    Args:
        workers: tasks side by side.
        ahead: whether a process that loads the data itself may be begun before it has a task.
    """

    def __init__(self, setup: Setup, workers: int, *, ahead: bool = True) -> None:
        self.slots = workers
        self._setup = replace(setup, root=setup.root.absolute())  # wherever a task may go
        self._ahead = ahead
        self._jobs: dict[str, Job] = {}
        self._nursery: BaseProcess | None = None
        self._link: Connection
        self._deaths, self._ready = 0, False

    def submit(self, job: Job) -> None:
        self._jobs[job.task.key] = job
        if self._nursery is None:
            self._begin()
        else:
            self._send(job)

    def limit(self, task: Task, seconds: float) -> None:
        if (job := self._jobs.get(task.key)) is not None:  # else it was lost with its nursery
            self._jobs[task.key] = replace(job, seconds=seconds)
            self._send(Limit(task.key, seconds))

    def wait(self, seconds: float) -> Iterator[Tick | tuple[Task, Ended]]:
        if self._nursery is None:
            return
        wait_for([self._link, self._nursery.sentinel], seconds)
        try:
            while self._link.poll():
                if (said := self._link.recv()) == READY:
                    self._ready = True
                else:
                    yield self._understand(*said)
        except (EOFError, OSError):
            yield from self._begin_again()
        else:
            if not self._nursery.is_alive():
                yield from self._begin_again()

    def close(self) -> None:
        if self._nursery is not None:
            with processes.undisturbed():
                self._link.close()  # upon which it ends all that plays, and itself
                self._nursery.join(10)
                self._nursery.kill()
                self._nursery.join()
            self._nursery = None

    def _begin(self) -> None:
        context, self._ready = multiprocessing.get_context("spawn"), False
        self._link, other = context.Pipe()
        self._nursery = context.Process(
            target=serve, args=(self._setup, other, METHOD, self._ahead)
        )
        # It inherits what is blocked, until it knows what to do with signals.
        with processes.undisturbed():
            self._nursery.start()
        other.close()
        for job in self._jobs.values():
            self._send(job)

    def _begin_again(self) -> Iterator[tuple[Task, Ended]]:
        """The nursery died. It may have been chance, or what one of its tasks does."""
        assert self._nursery is not None
        self._link.close()
        self._nursery.join()
        self._deaths += 1
        lost: dict[str, Job] = {}
        if self._deaths >= PATIENCE:
            if not self._ready:
                how = processes.cause(self._nursery.exitcode or 0)
                raise WorkerDied(
                    f"no process that plays can be begun ({how}, {PATIENCE} times); run the same "
                    "command again to continue, with fewer --workers if memory is short"
                )
            self._deaths = 0
            lost, self._jobs = self._jobs, {}
        self._begin()
        # Whoever hears of it may submit them again at once.
        for job in lost.values():
            yield job.task, Ended(died="with the process that had begun it")

    def _send(self, what: Job | Limit) -> None:
        with suppress(OSError):  # it died, which the next look finds
            self._link.send(what)

    def _understand(self, key: str, said: tuple[int, int] | Ended) -> Tick | tuple[Task, Ended]:
        if isinstance(said, Ended):
            self._deaths = 0
            return self._jobs.pop(key).task, said
        return Tick(self._jobs[key].task, *said)
