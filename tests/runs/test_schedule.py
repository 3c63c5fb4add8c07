"""Tasks are handed out in the plan's order, each victim just before a cell that needs it."""

from __future__ import annotations

from benchmark.protocol import Protocol
from benchmark.records.cell import Cell, Victim
from benchmark.records.record import Error
from benchmark.registry import Registry
from benchmark.runs.plan import plan
from benchmark.runs.schedule import Schedule


def nothing(key: str) -> bool:
    return False


def test_victims_are_trained_when_the_plan_comes_to_them(
    with_population: Protocol, registry: Registry
) -> None:
    """One worker goes through the plan from its start to its end, whatever is playable."""
    cells = plan(with_population, registry)
    schedule, tasks = Schedule(cells, nothing), []
    while (task := schedule.next()) is not None:
        tasks.append(task)
        if isinstance(task, Victim):
            schedule.trained(task)
    assert [task for task in tasks if isinstance(task, Cell)] == cells
    trained: set[str] = set()
    for number, task in enumerate(tasks):
        if isinstance(task, Cell):
            assert {victim.key for victim in task.needs()} <= trained
            continue
        trained.add(task.key)
        following = next(later for later in tasks[number:] if isinstance(later, Cell))
        assert task in following.needs()


def test_another_worker_trains_the_next_victim(tiny: Protocol, registry: Registry) -> None:
    """Nobody waits for the clean model where its answers alone are needed, and those later."""
    schedule = Schedule(plan(tiny, registry, seeds=1), nothing)
    first, second = schedule.next(), schedule.next()
    assert [str(first), str(second)] == [
        "train none (m=0), seed 0",
        "train badnets:side=0.25 (m=40), seed 0",
    ]
    assert not any(isinstance(schedule.next(), Cell) for _ in range(3))


def test_what_failed_or_was_lost_comes_again(tiny: Protocol, registry: Registry) -> None:
    cells = plan(tiny, registry, seeds=1)
    schedule = Schedule(cells, lambda key: True)
    first = schedule.next()
    assert first == cells[0]
    # A cell whose process died has its next turn after all others.
    schedule.again(first)
    # A victim that is damaged is trained before its cells are played.
    victim = cells[0].victim
    schedule.again(victim)
    assert schedule.next() == victim
    error = Error(kind="RuntimeError", message="no", where="")
    schedule.trained(victim, error)
    left = []
    while (task := schedule.next()) is not None:
        left.append(task)
    assert left == [*cells[1:], cells[0]]
    # What needs a victim that cannot be had is handed out, to be recorded as failed.
    failed = [cell for cell in cells if victim in cell.needs()]
    assert [cell for cell in cells if schedule.failure_of(cell) == error] == failed
