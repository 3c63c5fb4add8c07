"""Plays tasks on a Ray cluster, which may lose machines and gain others while it works.

Machines need the package, the plugins that are installed here, and the data sets where this one
has them. They need no shared folder: a task is sent the victims it needs and sends back the files
that it made. Only the driver writes to the run's folder, so it can be killed and begun again as
any run can.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import platform
import shutil
import socket
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmark.errors import UserError
from benchmark.records.cell import Cell
from benchmark.records.files import sha256
from benchmark.records.saved_victims import DamagedVictim
from benchmark.records.store import Store
from benchmark.runs.context import Setup
from benchmark.runs.executor import Ended, Job, Task, Tick
from benchmark.runs.local import LocalExecutor
from benchmark.runs.machine import TASK_BYTES

Files = dict[str, bytes]

#: How often Ray begins a task again whose machine was lost, before that counts as a death.
RETRIES = 5
#: Victims that are kept in the cluster's memory; others are sent again when they are needed.
VICTIMS = 32


class ClusterError(UserError, RuntimeError):
    """There is no cluster, or nothing to talk to it with."""


def connect(address: str) -> None:
    """Join a cluster; `address` is "auto" for the one that this machine belongs to.

    Raises:
        ClusterError: there is none, or Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ClusterError("Ray is not installed; pip install 'poisongames[ray]'") from None
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal():  # which Ray itself would wait for, minutes long
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ClusterError(
            f"no Ray cluster answers at {address!r} ({first}); start one with "
            "`ray start --head`, or give its address"
        ) from None


def has_gpus() -> bool:
    """Whether any machine of the cluster has a GPU."""
    import ray

    return bool(ray.cluster_resources().get("GPU"))


@dataclass(frozen=True)
class _Sent:
    """What machines are sent once: plugin files as (name, content), the digest of the images."""

    setup: Setup
    plugins: tuple[tuple[str, bytes], ...]
    data_sha256: str


class RayExecutor:
    """The machines of the cluster that `connect` joined.

    Args:
        sharing: tasks that share one GPU.
    """

    def __init__(self, setup: Setup, sharing: int = 1) -> None:
        import ray

        self._ray, self._store = ray, Store(setup.root)
        self._sharing = sharing
        options: dict[str, Any] = {"num_cpus": 1, "memory": TASK_BYTES, "max_retries": RETRIES}
        if setup.device == "cuda":
            options["num_gpus"] = 1 / sharing
        self._kind = "GPU" if setup.device == "cuda" else "CPU"
        self._remote = ray.remote(**options)(_play_there)
        data_sha256 = self._store.claimed()
        assert data_sha256 is not None
        plugins = tuple((path.name, path.read_bytes()) for path in setup.plugin_files)
        self._setup = ray.put(_Sent(setup, plugins, data_sha256))
        self._victims: OrderedDict[str, Any] = OrderedDict()
        self._jobs: dict[Any, Job] = {}
        self._refused: list[tuple[Task, Ended]] = []
        self._until: dict[Any, float] = {}

    @property
    def slots(self) -> int:
        found = self._ray.cluster_resources().get(self._kind, 0)
        return max(1, int(found * (self._sharing if self._kind == "GPU" else 1)))

    def submit(self, job: Job) -> None:
        task, sent = job.task, []
        # Why it cannot be played may be that there is no victim to send.
        if isinstance(task, Cell) and job.error is None:
            try:
                sent = [self._victim(victim.key) for victim in task.needs()]
            except DamagedVictim as error:
                self._refused.append((task, Ended(damaged=error.key)))
                return
        self._jobs[self._remote.remote(self._setup, job, *sent)] = job

    def _victim(self, key: str) -> Any:
        """A reference to a victim's files, which machines fetch once each."""
        if key not in self._victims:
            self._victims[key] = self._ray.put(self._store.victims.files(key))
            if len(self._victims) > VICTIMS:
                self._victims.popitem(last=False)
        self._victims.move_to_end(key)
        return self._victims[key]

    def limit(self, task: Task, seconds: float) -> None:
        """Of a task that was sent away without one, counted from now on."""
        for reference, job in self._jobs.items():
            if job.task.key == task.key:
                self._jobs[reference] = replace(job, seconds=seconds)
                self._until[reference] = time.monotonic() + seconds

    def wait(self, seconds: float) -> Iterator[Tick | tuple[Task, Ended]]:
        while self._refused:
            yield self._refused.pop()
        if not self._jobs:
            time.sleep(seconds)
            return
        ended, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        for reference, until in [*self._until.items()]:
            if reference not in ended and time.monotonic() > until:
                self._ray.cancel(reference, force=True)
                del self._until[reference]
                job = self._jobs.pop(reference)
                yield job.task, Ended.late(job.seconds)
        for reference in ended:
            job = self._jobs.pop(reference)
            self._until.pop(reference, None)
            try:
                how, files = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                first = str(error.cause)
                how, files = Ended(trouble=f"a machine of the cluster cannot play: {first}"), {}
            except self._ray.exceptions.RayError as error:
                how, files = Ended(died=f"{type(error).__name__} on the cluster"), {}
            if how.damaged:
                self._victims.pop(how.damaged, None)
            self._store.take(files)
            yield job.task, how

    def close(self) -> None:
        for reference in self._jobs:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


#: Of a process of the cluster: what its warm process was made for, and what plays there.
_here: tuple[str, Path, LocalExecutor] | None = None


def _play_there(sent: _Sent, job: Job, *victims: Mapping[str, bytes]) -> tuple[Ended, Files]:
    """What runs on a machine of the cluster: one task, in a process of its own as ever."""
    root, executor = _prepare_here(sent)
    store = Store(root)
    try:
        for files in victims:
            store.take(files)
        executor.submit(job)
        while True:
            for what in executor.wait(1.0):
                if not isinstance(what, Tick) and what[0].key == job.task.key:
                    known = {place for files in victims for place in files}
                    return _named_machine(what[1]), store.made(known)
    finally:
        store.clear()


def _named_machine(ended: Ended) -> Ended:
    """Trouble with a run may be that of one machine."""
    if not ended.trouble:
        return ended
    return replace(ended, trouble=f"on machine {platform.node()}: {ended.trouble}")


def _prepare_here(sent: _Sent) -> tuple[Path, LocalExecutor]:
    """A folder for the files of a task, and what plays there; both serve until a run asks anew."""
    global _here
    about = sha256(pickle.dumps(sent))
    if _here is not None and _here[0] != about:
        _leave()
    if _here is None:
        for left_over in Path(tempfile.gettempdir()).glob("poisongames-ray-*-*"):
            if not psutil.pid_exists(int(left_over.name.split("-")[2])):  # it was killed
                shutil.rmtree(left_over, ignore_errors=True)
        root = Path(tempfile.mkdtemp(prefix=f"poisongames-ray-{os.getpid()}-"))
        files = []
        for number, (name, content) in enumerate(sent.plugins):
            files.append(root / str(number) / name)
            files[-1].parent.mkdir()
            files[-1].write_bytes(content)
        run = Store(root / "run")
        run.begin()
        run.claim(sent.data_sha256)
        setup = replace(sent.setup, root=run.root, plugin_files=tuple(files))
        executor = LocalExecutor(setup, 1, ahead=False)
        _here = about, run.root, executor
        atexit.register(_leave)
    return _here[1], _here[2]


def _leave() -> None:
    global _here
    if _here is not None:
        _, root, executor = _here
        _here = None
        executor.close()
        shutil.rmtree(root.parent, ignore_errors=True)
