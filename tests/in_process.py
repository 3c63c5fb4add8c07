"""Plays in the process of a test, where processes are not what is tested."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.runs.context import Setup
from benchmark.runs.executor import Ended, Job, Task, Tick
from benchmark.runs.tasks import Worker


class Here:
    """In place of a `LocalExecutor`: plays tasks here, one after the other."""

    slots = 1

    def __init__(self, setup: Setup, workers: int) -> None:
        self._worker = Worker(setup)
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def limit(self, task: Task, seconds: float) -> None:
        pass

    def wait(self, seconds: float) -> Iterator[Tick | tuple[Task, Ended]]:
        while self._jobs:
            job = self._jobs.pop()
            yield job.task, self._worker.work(job, lambda done, total: None)

    def close(self) -> None:
        pass
