"""The interface of what plays a run's tasks, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from benchmark.errors import UserError
from benchmark.records.cell import Cell, Tune, Victim
from benchmark.records.record import Error

Task = Victim | Cell | Tune


class WorkerDied(UserError, RuntimeError):
    """Nothing can be played any more."""


@dataclass(frozen=True)
class Job:
    """A task to be played.

    Attributes:
        seconds: how long it may take; None for as long as it likes.
        error: why it cannot be played, where that is known: then only its record is made.
    """

    task: Task
    seconds: float | None = None
    error: Error | None = None


@dataclass(frozen=True)
class Tick:
    """How far a task has come; total is 0 where nobody knows it."""

    task: Task
    done: int
    total: int


@dataclass(frozen=True)
class Ended:
    """How a task ended; it was done where all fields are empty.

    Attributes:
        error: of whoever played, or of a victim; a cell's record says it already.
        overtime: it was stopped for this reason; nobody recorded that.
        died: how its process ended without a word, such as "signal 11".
        damaged: key of a victim whose files are not what was written, which must be trained again.
        trouble: what is wrong with the run itself, such as a full disk.
        unwritten: how many bytes could not be written, where the disk has not said that it is
            full, read-only or broken: another process may be able to.
    """

    error: Error | None = None
    overtime: Error | None = None
    died: str = ""
    damaged: str = ""
    trouble: str = ""
    unwritten: int = 0

    @classmethod
    def late(cls, seconds: float | None) -> Ended:
        """Of a task that took longer than it was allowed to."""
        assert seconds is not None
        message = f"took longer than {seconds:.0f} s; --cell-time-limit gives it more"
        return cls(overtime=Error(kind="TimeLimit", message=message, where=""))


class Executor(Protocol):
    """Plays tasks, each in a process of its own, and tells how they ended."""

    @property
    def slots(self) -> int:
        """How many tasks can be played side by side, now."""
        ...

    def submit(self, job: Job) -> None:
        """Begin to play a task."""
        ...

    def limit(self, task: Task, seconds: float) -> None:
        """Say how long a task that plays may take, now that it is known."""
        ...

    def wait(self, seconds: float) -> Iterator[Tick | tuple[Task, Ended]]:
        """What happened meanwhile; returns once something did, or after so many seconds.

        Raises:
            WorkerDied: tasks cannot be played any more.
        """
        ...

    def close(self) -> None:
        """End everything that still plays, within seconds."""
        ...
