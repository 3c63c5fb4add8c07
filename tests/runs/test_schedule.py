"""Tasks are handed out in the plan's order, each victim just before a cell that needs it."""

from __future__ import annotations

from pathlib import Path

from benchmark.protocol import Protocol
from benchmark.records.cell import Cell
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.runs.execute import _Schedule
from benchmark.runs.plan import plan


def test_victims_are_trained_when_the_plan_comes_to_them(
    with_population: Protocol, registry: Registry, tmp_path: Path
) -> None:
    """One worker goes through the plan from its start to its end, whatever is playable."""
    cells = plan(with_population, registry)
    schedule, tasks = _Schedule(cells, Store(tmp_path)), []
    while (task := schedule.next()) is not None:
        tasks.append(task)
        schedule.finished(task, None)
    assert [task for task in tasks if isinstance(task, Cell)] == cells
    trained: set[str] = set()
    for number, task in enumerate(tasks):
        if isinstance(task, Cell):
            assert {victim.key for victim in task.needs()} <= trained
            continue
        trained.add(task.key)
        following = next(later for later in tasks[number:] if isinstance(later, Cell))
        assert task in following.needs()


def test_another_worker_trains_the_next_victim(
    tiny: Protocol, registry: Registry, tmp_path: Path
) -> None:
    schedule = _Schedule(plan(tiny, registry, seeds=2), Store(tmp_path))
    first, second = schedule.next(), schedule.next()
    assert [str(first), str(second)] == ["train none (m=0), seed 0", "train none (m=0), seed 1"]
    # A poisoned victim is compared with the clean one, so it has to wait.
    assert schedule.next() is None
