"""How long a plan takes on machines that are not here, from what cells took elsewhere."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmark.errors import UserError
from benchmark.records.cell import Cell, Victim
from benchmark.records.record import NONE, Record
from benchmark.runs.executor import Task
from benchmark.runs.schedule import Schedule


class ForecastError(UserError, ValueError):
    """There is nothing to forecast from."""


@dataclass(frozen=True)
class Costs:
    """Seconds that tasks take.

    Attributes:
        device: where they were played.
        clean: the training of a clean model.
        victims: by name of the attack.
        cells: by name of the defense.
        other: a cell of a defense that nobody has played yet.
    """

    device: str
    clean: float
    victims: dict[str, float]
    cells: dict[str, float]
    other: float

    @classmethod
    def of(cls, records: Iterable[Record]) -> Costs:
        """Medians of what records say, on the device that most of those with clean models name.

        Raises:
            ForecastError: no record says what the training of a clean model took.
        """
        played: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.status != "failed":
                played[record.cost.device].append(record)
        victims = {device: _victims(there) for device, there in played.items()}
        known = [device for device, found in victims.items() if NONE in found]
        if not known:
            raise ForecastError(
                "no record says what the training of a clean model takes; play one cell first, or "
                "name another folder with --costs"
            )
        device = max(known, key=lambda one: len(played[one]))
        cells: dict[str, list[float]] = defaultdict(list)
        for record in played[device]:
            cells[record.defense.name].append(record.cost.seconds)
        defended = [seconds for name in cells if name != NONE for seconds in cells[name]]
        return cls(
            device,
            victims[device][NONE],
            victims[device],
            {name: median(seconds) for name, seconds in cells.items()},
            median(defended or [0.0]),
        )

    def scaled(self, clean: float) -> Costs:
        """The same on a machine that trains a clean model in so many seconds."""
        factor = clean / self.clean
        return Costs(
            self.device,
            clean,
            {name: factor * seconds for name, seconds in self.victims.items()},
            {name: factor * seconds for name, seconds in self.cells.items()},
            factor * self.other,
        )

    def unknown(self, cells: Sequence[Cell]) -> list[str]:
        """Names of attacks and defenses whose cost is a guess."""
        names = {cell.victim.attack.name for cell in cells} - self.victims.keys()
        return sorted(names | ({cell.defense.name for cell in cells} - self.cells.keys()))

    def seconds(self, task: Task) -> float:
        """An attack that nobody has played costs as much as a clean model."""
        if isinstance(task, Victim):
            own = self.victims.get(task.attack.name, self.clean)
            # Sanitizers train a model to look at, then the victim.
            return own * (1 if task.sanitizer is None else 2)
        assert isinstance(task, Cell)
        return self.cells.get(task.defense.name, self.other)


def _victims(records: Iterable[Record]) -> dict[str, float]:
    """By attack the median time that a training took; every model counts once."""
    trained: dict[str, dict[str, float]] = defaultdict(dict)
    for record in records:
        if record.cost.victim_seconds is not None and not record.defense.sanitizes:
            victim = Cell.of(record).victim
            trained[victim.attack.name][victim.key] = record.cost.victim_seconds
    return {name: median(models.values()) for name, models in trained.items()}


@dataclass(frozen=True)
class Forecast:
    """What a plan takes.

    Attributes:
        work: seconds of all tasks.
        elapsed: seconds until the last one is done.
        critical_path: seconds of the longest sequence of tasks that wait for one another; no
            number of machines is faster.
    """

    victims: int
    cells: int
    work: float
    elapsed: float
    critical_path: float


def forecast(cells: Sequence[Cell], costs: Costs, slots: int) -> Forecast:
    """Simulate the schedule of a run.

    Args:
        slots: tasks side by side.
    """
    schedule = Schedule(cells, lambda key: False)
    playing: list[tuple[float, int, Task]] = []
    ready: dict[str, float] = {}
    now = work = critical_path = 0.0
    begun = 0
    while playing or not schedule.empty:
        while len(playing) < slots and (task := schedule.next()) is not None:
            seconds = costs.seconds(task)
            begun, work = begun + 1, work + seconds
            needed = () if isinstance(task, Victim) else task.needs()
            ready[task.key] = seconds + max((ready[one.key] for one in needed), default=0.0)
            critical_path = max(critical_path, ready[task.key])
            heapq.heappush(playing, (now + seconds, begun, task))
        now, _, task = heapq.heappop(playing)
        if isinstance(task, Victim):
            schedule.trained(task)
    return Forecast(begun - len(cells), len(cells), work, now, critical_path)
