"""What a run makes of how its tasks end, with an executor that plays nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.protocol import Protocol
from benchmark.records.cell import Cell, Victim
from benchmark.records.files import StoreError
from benchmark.records.record import Error
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.runs.execute import AT_LEAST, TIMES_TRAINING, Listener, Summary, execute
from benchmark.runs.executor import Ended, Job, Task, Tick
from benchmark.runs.plan import plan

#: What becomes of a job; None leaves it playing.
Script = Callable[[Job], Ended | None]


class Pretended:
    """Ends tasks as a script says, oldest first; victims that end well are there afterwards."""

    def __init__(self, store: Store, script: Script, slots: int = 2) -> None:
        self.slots, self.closed = slots, False
        self.jobs: list[Job] = []
        self.submitted: list[Job] = []
        self.limits: dict[str, float] = {}
        self._store, self._script = store, script

    def submit(self, job: Job) -> None:
        assert job.task.key not in {other.task.key for other in self.jobs}, "it plays already"
        self.jobs.append(job)
        self.submitted.append(job)

    def limit(self, task: Task, seconds: float) -> None:
        self.limits[str(task)] = seconds

    def wait(self, seconds: float) -> Iterator[Tick | tuple[Task, Ended]]:
        for job in [*self.jobs]:
            if (ended := self._script(job)) is not None:
                self.jobs.remove(job)
                if isinstance(job.task, Victim) and ended == Ended():
                    self._store.victims.save(job.task.key, {}, {"seconds": 20.0})
                yield job.task, ended

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path)
    found.begin()
    return found


@pytest.fixture
def cells(tiny: Protocol, registry: Registry) -> list[Cell]:
    return plan(tiny, registry, defenses=["strip"], seeds=1)


def played(store: Store, cells: list[Cell], script: Script, slots: int = 2) -> Pretended:
    executor = Pretended(store, script, slots)
    assert execute(store, cells, executor) == Summary(len(cells), len(cells), None)
    assert executor.closed
    return executor


def test_what_plays_beside_its_clean_model_has_its_limit_once_that_is_known(
    store: Store, cells: list[Cell]
) -> None:
    turns = iter(range(100))

    def clean_first(job: Job) -> Ended | None:
        poisoned = isinstance(job.task, Victim) and job.task.attack.name == "badnets"
        return None if poisoned and next(turns) < 3 else Ended()

    found = played(store, cells, clean_first)
    expected = max(AT_LEAST, TIMES_TRAINING * 20.0)
    assert found.limits == {"train badnets:side=0.25 (m=40), seed 0": expected}
    limits = [job.seconds for job in found.submitted]
    assert limits == [None, None] + [expected] * len(cells)


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (Ended(overtime=Error(kind="TimeLimit", message="took longer", where="")), "took longer"),
        (Ended(error=Error(kind="MemoryError", message="too large", where="")), "too large"),
        (Ended(died="signal 9"), "its process died (signal 9)"),
    ],
)
def test_a_clean_model_that_cannot_be_had_is_held_against_nobody(
    ended: Ended, said: str, store: Store, tiny: Protocol, registry: Registry
) -> None:
    cells = plan(tiny, registry, defenses=["strip"], seeds=2)
    of_seed = [cell for cell in cells if cell.victim.seed == 0]

    def without_one(job: Job) -> Ended:
        task = job.task
        first = isinstance(task, Victim) and task == task.clean and task.seed == 0
        return ended if first else Ended()

    noticed: list[str] = []
    executor = Pretended(store, without_one)
    summary = execute(store, cells, executor, listener=Listener(noticed=noticed.append))
    done = len(cells) - len(of_seed)
    assert summary == Summary(done, len(cells), "a clean model is missing")
    played = [job.task for job in executor.submitted if isinstance(job.task, Cell)]
    assert {cell.victim.seed for cell in played} == {1}
    assert noticed[-1].startswith("the clean model of seed 0 was not trained")
    assert said in noticed[-1]
    assert noticed[-1].endswith("; what needs it is left out")
    # The same call trains it again.
    again = execute(store, of_seed, Pretended(store, lambda job: Ended()))
    assert again == Summary(len(of_seed), len(of_seed), None)


def test_a_cell_that_comes_back_when_its_clean_model_is_lost_is_left_out(
    store: Store, cells: list[Cell]
) -> None:
    """One cell finds the clean model damaged and training it fails; another one dies meanwhile."""
    clean, trained = cells[0].victim.clean, []
    died, error = Ended(died="signal 9"), Error(kind="MemoryError", message="too much", where="")

    def unlucky(job: Job) -> Ended | None:
        if job.task.key == clean.key:
            trained.append(job)
            return Ended() if len(trained) == 1 else Ended(error=error)
        if isinstance(job.task, Victim):
            return Ended()
        if len(trained) == 1:
            return Ended(damaged=clean.key) if job.task.key == cells[0].key else None
        return died if any(one.victim.key == job.task.victim.key for one in cells) else None

    executor = Pretended(store, unlucky, slots=3)
    summary = execute(store, cells, executor, deadline=time.monotonic() + 20)
    assert summary.why == "a clean model is missing"
    assert len(trained) == 2


def test_many_cells_may_find_the_same_damage(store: Store, cells: list[Cell]) -> None:
    clean, damaged = cells[0].victim, set()

    def once_each(job: Job) -> Ended:
        if isinstance(job.task, Victim) or job.task.key in damaged:
            return Ended()
        damaged.add(job.task.key)
        return Ended(damaged=clean.key)

    found = played(store, cells, once_each, slots=6)
    # All six in flight find it at once, and it is trained once more.
    assert [job.task.key for job in found.submitted].count(clean.key) == 2


def test_a_victim_that_is_damaged_for_ever_is_the_disk_s(store: Store, cells: list[Cell]) -> None:
    def always(job: Job) -> Ended:
        return Ended() if isinstance(job.task, Victim) else Ended(damaged=cells[0].victim.key)

    executor = Pretended(store, always)
    with pytest.raises(StoreError, match=r"are damaged whenever they are read; see to the disk"):
        execute(store, cells, executor)
    assert executor.closed


def test_the_second_death_is_recorded_and_the_first_is_told(
    store: Store, cells: list[Cell]
) -> None:
    told: list[str] = []
    failed: list[tuple[str, Error | None]] = []

    def dies(job: Job) -> Ended:
        if isinstance(job.task, Victim) or not job.task.defense.stages or job.error:
            return Ended(job.error)
        return Ended(died="signal 11")

    executor = Pretended(store, dies)
    listener = Listener(
        finished=lambda task, error: failed.append((str(task), error)) if error else None,
        noticed=told.append,
    )
    execute(store, cells, executor, listener=listener)
    defended = [cell for cell in cells if cell.defense.stages]
    assert [error for _, error in failed] == [
        Error(kind="ProcessDied", message="its process died (signal 11)", where="")
    ] * len(defended)
    assert len(told) == len(defended)
    # Twice played, then a process that makes the record; all others were played in between.
    jobs = [job for job in executor.submitted if job.task.key == defended[0].key]
    assert [job.error is not None for job in jobs] == [False, False, True]
    assert not list((store.root / "artifacts" / "deaths").glob("*"))


def test_what_is_wrong_with_the_run_ends_it(store: Store, cells: list[Cell]) -> None:
    executor = Pretended(store, lambda job: Ended(trouble="the disk is full"))
    with pytest.raises(StoreError, match="the disk is full"):
        execute(store, cells, executor)
    assert executor.closed


def test_the_help_states_the_limits_that_hold() -> None:
    words = " ".join(
        CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "400"}).output.split()
    )
    assert f"{TIMES_TRAINING} times what the training of its clean model took" in words
    assert f"at least {AT_LEAST // 60} minutes" in words
