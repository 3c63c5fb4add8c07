"""Runs a plan: its cells in order, each after the victims it needs, whatever becomes of one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmark.records.cell import Cell, Tune, Victim
from benchmark.records.files import StoreError
from benchmark.records.record import Error
from benchmark.records.store import Store
from benchmark.runs.done import is_done
from benchmark.runs.executor import Ended, Executor, Job, Task, Tick, WorkerDied
from benchmark.runs.schedule import Schedule

#: A cell may take so many times what the training of its repetition's clean model took, and
#: at least so many seconds.
TIMES_TRAINING, AT_LEAST = 100, 600

#: A task whose process dies so often has failed.
DEATHS = 2
#: A victim that is found damaged so often, with no cell played in between, has a broken disk.
DAMAGES = 3


Why = Literal["time", "interrupted", "a clean model is missing"]


@dataclass(frozen=True)
class Summary:
    """How a run ended; `why` is None when every cell has a record."""

    done: int
    total: int
    why: Why | None


@dataclass(frozen=True)
class Listener:
    """What a front end wants to hear; all calls come from one thread."""

    planned: Callable[[int, int], None] = lambda done, total: None
    started: Callable[[Task], None] = lambda task: None
    ticked: Callable[[Tick], None] = lambda tick: None
    finished: Callable[[Task, Error | None], None] = lambda task, error: None
    noticed: Callable[[str], None] = lambda sentence: None


def execute(
    store: Store,
    cells: Sequence[Cell | Tune],
    executor: Executor,
    *,
    cell_seconds: float | None = None,
    deadline: float | None = None,
    listener: Listener | None = None,
) -> Summary:
    """Play all cells that have no record yet, and make all searches that have no file.

    Whatever ends this early costs the cells in flight and nothing else; the same call
    continues.

    Args:
        store: where records are kept.
        executor: what plays; it is closed at the end.
        cell_seconds: how long one task may take; by default a cell or a poisoned victim has 100
            times what the training of its clean model took, and at least ten minutes.
        deadline: `time.monotonic()` at which to stop.

    Raises:
        StoreError: the run's folder cannot be written.
        WorkerDied: nothing can be played any more.
    """
    waiting = [cell for cell in cells if not is_done(cell, store)]
    run = _Run(store, waiting, executor, cell_seconds, listener or Listener())
    before, total = len(cells) - len(waiting), len(cells)
    run.listener.planned(before, total)
    why: Why | None = None
    try:
        while run.unfinished:
            if deadline is not None and time.monotonic() > deadline:
                why = "time"
                break
            run.step()
    except KeyboardInterrupt:
        why = "interrupted"
    finally:
        executor.close()
    if why is None and run.done < len(waiting):
        why = "a clean model is missing"
    return Summary(before + run.done, total, why)


class _Run:
    """What is playing and what comes next."""

    def __init__(
        self,
        store: Store,
        waiting: Sequence[Cell | Tune],
        executor: Executor,
        cell_seconds: float | None,
        listener: Listener,
    ) -> None:
        self.listener, self.done = listener, 0
        self._store, self._executor, self._cell_seconds = store, executor, cell_seconds
        self._schedule = Schedule(waiting, store.victims.has)
        self._playing: dict[str, Job] = {}
        self._damages: Counter[str] = Counter()

    @property
    def unfinished(self) -> bool:
        return bool(self._playing) or not self._schedule.empty

    def step(self) -> None:
        """Fill all places, then hear what happened."""
        while len(self._playing) < self._executor.slots and (task := self._schedule.next()):
            self.listener.started(task)
            self._submit(task, self._schedule.failure_of(task))
        for what in self._executor.wait(0.2):
            if isinstance(what, Tick):
                self.listener.ticked(what)
            else:
                self._ended(*what)

    def _submit(self, task: Task, error: Error | None = None) -> None:
        if error is not None and isinstance(task, Tune):
            self._finish(task, error)  # a search that failed leaves no file
            return
        job = Job(task, None if error else self._seconds(task), error)
        self._playing[task.key] = job
        self._executor.submit(job)

    def _seconds(self, task: Task) -> float | None:
        """How long a task may take; None where nobody knows it.

        Of searches and of clean models nobody ever does, of what plays beside its clean model not
        yet; see `_finish`.
        """
        if self._cell_seconds is not None or isinstance(task, Tune):
            return self._cell_seconds
        clean = (task if isinstance(task, Victim) else task.victim).clean
        if task.key == clean.key or not self._store.victims.has(clean.key):
            return None
        training: float = self._store.victims.facts(clean.key)["seconds"]
        return max(AT_LEAST, TIMES_TRAINING * training)

    def _ended(self, task: Task, ended: Ended) -> None:
        job = self._playing.pop(task.key)
        if ended.trouble:
            raise StoreError(ended.trouble)
        if ended.damaged:
            self._train_again(task, ended.damaged)
        elif (ended.died or ended.overtime) and is_done(task, self._store):
            self._finish(task, None)  # it was killed just after its work
        elif job.error is not None and ended.died:
            if self._store.note_death(task.key, f"{task}: {ended.died}") > 2 * DEATHS:
                raise WorkerDied(f"what was to record {task} died again and again ({ended.died})")
            self._submit(task, job.error)
        elif (error := ended.overtime or self._death(task, ended)) is not None:
            self._fail(task, error)
        elif ended.died:
            self._schedule.again(task)
        else:
            self._finish(task, ended.error)

    def _death(self, task: Task, ended: Ended) -> Error | None:
        """Note that a process died; what that means for its task."""
        if not ended.died:
            return None
        deaths = self._store.note_death(task.key, f"{task}: {ended.died}")
        why = f"its process died ({ended.died})"
        if deaths < DEATHS:
            self.listener.noticed(f"{task}: {why}; it will be tried once more")
            return None
        return Error(kind="ProcessDied", message=why, where="")

    def _fail(self, task: Task, error: Error) -> None:
        if isinstance(task, Cell):
            self._submit(task, error)  # its record is still to be made
        else:
            self._finish(task, error)

    def _finish(self, task: Task, error: Error | None) -> None:
        self._store.forget_deaths(task.key)
        if isinstance(task, Victim) and error is not None and task == task.clean:
            # A clean model that was not trained is nobody's failure: its cells are left for later.
            self._schedule.without(task)
            self.listener.noticed(
                f"the clean model of seed {task.seed} was not trained ({error.kind}: "
                f"{error.message}); what needs it is left out"
            )
        elif isinstance(task, Victim):
            self._schedule.trained(task, error)
            for job in [*self._playing.values()]:
                if job.error is not None or job.seconds is not None:
                    continue
                if (seconds := self._seconds(job.task)) is not None:
                    self._playing[job.task.key] = replace(job, seconds=seconds)
                    self._executor.limit(job.task, seconds)
        else:
            self.done += 1
            for victim in () if error else task.needs():
                self._damages.pop(victim.key, None)
        self.listener.finished(task, error)

    def _train_again(self, task: Task, key: str) -> None:
        """A victim's files are not what was written, so it is trained before its cells go on."""
        self._schedule.again(task)
        if self._schedule.lacks(key):  # another cell found out before
            return
        needed = [task] if isinstance(task, Victim) else task.needs()
        victim = next(victim for victim in needed if victim.key == key)
        self._damages[key] += 1
        if self._damages[key] > DAMAGES:
            raise StoreError(
                f"the files of {victim} are damaged whenever they are read; see to the disk of "
                f"{self._store.root}, then run the same command to continue"
            )
        self.listener.noticed(f"the files of {victim} are damaged; it is trained again")
        self._store.victims.discard(key)
        self._schedule.again(victim)
