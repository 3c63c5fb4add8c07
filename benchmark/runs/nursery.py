"""The process that begins another one for each task of a run.

It stops a task at its time limit, and ends whatever the task leaves behind: threads, children,
grandchildren. Tasks are played by forks of it, which cost little: it has imported torch and the
plugins, and on a CPU loaded the data. On a GPU each loads its own, one while another plays. Where
forks cannot be had, a task's process is begun anew.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, Pipe
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import torch

from benchmark import processes
from benchmark.errors import UserError
from benchmark.records.files import StoreError
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.runs import report
from benchmark.runs.context import Setup
from benchmark.runs.executor import Ended, Job
from benchmark.runs.tasks import Worker

Method = Literal["fork", "spawn"]
#: What plays tasks or why nothing can, or what makes it in the process of a task.
Known = Worker | Ended | Callable[[], Worker | Ended]

#: What a nursery says when it can begin tasks.
READY = "ready"
#: Seconds in which a fork must reach the GPU.
REACHED_WITHIN = 60
#: Seconds between two looks at the processes that play; those that end well say so at once.
LOOK = 0.05


class Limit(NamedTuple):
    """How long a task may take, where it still plays: it may have ended meanwhile."""

    key: str
    seconds: float


@dataclass
class _Child:
    """A process that plays a task, and what it has said."""

    job: Job
    process: BaseProcess
    pipe: Connection
    began: float
    ended: Ended | None = None


def serve(setup: Setup, link: Connection, method: Method, ahead: bool) -> NoReturn:
    """The nursery: start what it is sent, tell how it ends, until nobody sends any more."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the parent's to handle
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    processes.adopt_orphans()
    Nursery(setup, link, method, ahead).serve()
    os._exit(0)  # whatever threads a plugin's module may have begun


class Nursery:
    def __init__(self, setup: Setup, link: Connection, method: Method, ahead: bool) -> None:
        self._setup, self._link = setup, link
        # Before plugins are imported, which may begin others.
        resource_tracker.ensure_running()
        self._own = processes.children()
        registry = None
        if method == "fork":
            import torch._dynamo  # noqa: F401  # optimisers do, and it takes two seconds

            if setup.device != "cpu":
                registry = _imported(setup.plugin_files)
                if not _forks_reach(setup.device):
                    method, registry = "spawn", None
        prepare = partial(_prepared, setup, registry)
        shared = method == "fork" and setup.device == "cpu"
        self._known: Known = prepare() if shared else prepare
        self._ahead = ahead and not shared
        self._context = multiprocessing.get_context(method)
        self._playing: list[_Child] = []
        self._spare: tuple[BaseProcess, Connection] | None = None
        with suppress(OSError):
            self._link.send(READY)

    def serve(self) -> None:
        while True:
            pipes = {child.pipe: child for child in self._playing if not child.pipe.closed}
            for ready in wait_for([self._link, *pipes], LOOK if self._playing else None):
                if ready is not self._link:
                    self._hear(pipes[ready])  # type: ignore[index]
                    continue
                try:
                    said = self._link.recv()
                except (EOFError, OSError):
                    self._playing, self._spare = [], None
                    self._end_strays()
                    return
                if isinstance(said, Limit):
                    self._limit(said)
                else:
                    self._begin(said)
            for child in [*self._playing]:
                self._look_after(child)

    def _limit(self, limit: Limit) -> None:
        for child in self._playing:
            if child.job.task.key == limit.key:
                child.job = replace(child.job, seconds=limit.seconds)

    def _begin(self, job: Job) -> None:
        if isinstance(self._known, Ended):
            self._tell(job, self._known)
            return
        try:
            self._playing.append(_Child(job, *self._process_for(job), time.monotonic()))
        except OSError as error:
            self._tell(job, Ended(trouble=f"no process can be begun: {error.strerror}"))

    def _process_for(self, job: Job) -> tuple[BaseProcess, Connection]:
        """A process that plays a job: the one that was begun ahead, or a new one."""
        spare, self._spare = self._spare, None
        try:
            if spare is None or spare[0].exitcode is not None:
                return self._launch(job)
            spare[1].send(job)
            return spare
        except BrokenPipeError:  # it has just died
            return self._launch(job)
        finally:
            if self._ahead:
                self._spare = self._launch(None)

    def _launch(self, job: Job | None) -> tuple[BaseProcess, Connection]:
        """Begin a process for a job, or for one that it will be sent."""
        pipe, other = Pipe()
        with warnings.catch_warnings():
            # The other threads are numpy's, which knows how to be forked.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            process: BaseProcess = self._context.Process(  # type: ignore[attr-defined]
                target=_play, args=(self._known, job, other, os.getpid())
            )
            process.start()
        other.close()
        return process, pipe

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
        late = time.monotonic() - child.began > (child.job.seconds or float("inf"))
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
            child.ended = died or Ended.late(child.job.seconds)
        self._tell(child.job, self._checked(child.ended))

    def _checked(self, ended: Ended) -> Ended:
        """Whether what ails a process ails this one too: plugins can set limits and close files."""
        store = Store(self._setup.root)
        try:
            if ended.unwritten and store.works(ended.unwritten):
                return Ended(died=f"it could not write its files: {ended.trouble}")
            if ended.damaged and store.victims.is_sound(ended.damaged):
                return Ended(died="it could not read its victim")
        except StoreError as error:
            return Ended(trouble=str(error))
        return ended

    def _end_strays(self) -> None:
        stay = [child.process for child in self._playing]
        stay += [self._spare[0]] if self._spare else []
        processes.end_strays({*self._own, *(process.pid for process in stay)})

    def _tell(self, job: Job, what: tuple[int, int] | Ended) -> None:
        with suppress(OSError):  # nobody listens any more, which `serve` finds
            self._link.send((job.task.key, what))


def _prepared(setup: Setup, registry: Registry | None = None) -> Worker | Ended:
    """What plays tasks, or why nothing can be played."""
    try:
        worker = Worker(setup, registry)
        worker.store.claim(worker.data_sha256)
        report.environment()  # what plugins do to the import system must not reach records
        return worker
    except UserError as error:
        return Ended(trouble=str(error))
    except Exception as error:
        return Ended(trouble=f"a worker cannot begin: {type(error).__name__}: {error}")


def _imported(plugin_files: tuple[Path, ...]) -> Registry:
    """All plugins, imported with one torch thread.

    A fork of a process whose threads have started hangs at its next parallel operation.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Registry(plugin_files)
    finally:
        torch.set_num_threads(threads)


def _forks_reach(device: str) -> bool:
    """Whether forks of this process reach the GPU; once a plugin has used CUDA here, none does."""
    probe = multiprocessing.get_context("fork").Process(target=_reach, args=(device,))
    try:
        probe.start()
    except OSError:
        return False
    probe.join(REACHED_WITHIN)
    probe.kill()
    probe.join()
    return probe.exitcode == 0


def _reach(device: str) -> NoReturn:
    try:
        torch.zeros(1, device=device)
    except Exception:
        os._exit(1)
    os._exit(0)


def _tell(pipe: Connection, done: int, total: int) -> None:
    try:
        pipe.send((done, total))
    except OSError:  # nobody is there any more; no plugin is to blame for that
        os._exit(1)


def _play(known: Known, job: Job | None, pipe: Connection, parent: int) -> NoReturn:
    """The process of one task. It says how the task ended, and ends at once with all it holds."""
    processes.begin(parent)
    worker = known() if callable(known) else known
    if job is None:
        if isinstance(worker, Ended):
            os._exit(1)  # whoever needs one begins it anew, and finds out what is wrong then
        try:
            job = pipe.recv()
        except EOFError:
            os._exit(0)  # the run is over, and nobody needs it any more
    if isinstance(worker, Ended):
        ended = worker
    else:
        try:
            ended = worker.work(job, partial(_tell, pipe))
        except BaseException as error:  # our own code, among what a plugin left of the libraries
            said = report.describe(error)
            ended = Ended(died=f"nothing could be recorded: {said.kind}: {said.message}")
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()
    pipe.send(ended)
    os._exit(0)
