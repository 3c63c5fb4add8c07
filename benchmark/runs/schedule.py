"""Which task comes next: the plan's order, each victim just before the first cell that needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmark.records.cell import Cell, Tune, Victim
from benchmark.records.record import Error
from benchmark.runs.executor import Task


class Schedule:
    """Hands out the tasks of a plan.

    Args:
        cells: what has no result yet, in the plan's order.
        trained: whether a victim of this key is there already.
    """

    def __init__(self, cells: Sequence[Cell | Tune], trained: Callable[[str], bool]) -> None:
        self._cells = list(cells)
        self._failed: dict[str, Error] = {}
        self._lost: set[str] = set()
        self._needs = {cell.key: [victim.key for victim in cell.needs()] for cell in cells}
        needed = {victim.key: victim for cell in cells for victim in cell.needs()}
        self._trained = {key for key in needed if trained(key)}
        self._victims = {key: needed[key] for key in needed if key not in self._trained}

    @property
    def empty(self) -> bool:
        return not self._cells

    def next(self) -> Task | None:
        """Take the first cell that can be played, or a victim that an earlier one waits for."""
        for index, cell in enumerate(self._cells):
            if self.failure_of(cell) or self._trained.issuperset(self._needs[cell.key]):
                return self._cells.pop(index)
            for key in self._needs[cell.key]:
                if key in self._victims:
                    return self._victims.pop(key)
        return None

    def trained(self, victim: Victim, error: Error | None = None) -> None:
        """A victim is there, or cannot be had."""
        if error is not None:
            self._failed[victim.key] = error
        self._trained.add(victim.key)

    def without(self, victim: Victim) -> None:
        """Leave out all cells that need a victim, also those that play now if they come back."""
        self._lost.add(victim.key)
        self._cells = [one for one in self._cells if victim.key not in self._needs[one.key]]

    def lacks(self, key: str) -> bool:
        """Whether a victim is still to be trained."""
        return key not in self._trained

    def again(self, task: Task) -> None:
        """Hand a task out again: a victim when it is needed, a cell after all others."""
        if isinstance(task, Victim):
            self._trained.discard(task.key)
            self._victims[task.key] = task
        elif self._lost.isdisjoint(self._needs[task.key]):
            self._cells.append(task)

    def failure_of(self, task: Task) -> Error | None:
        """The error of a victim this cell needs."""
        errors = (self._failed.get(key) for key in self._needs.get(task.key, ()))
        return next((error for error in errors if error is not None), None)
