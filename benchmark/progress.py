"""How far a run has come: bars on a terminal, a line per finished task elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmark.records.cell import Victim
from benchmark.records.record import Error
from benchmark.runs.execute import Listener
from benchmark.runs.executor import Task, Tick


class Display:
    """One bar for all cells, one line for each task that is running."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task(f"[b]{escape(title)}[/b]", total=None)
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._before = 0
        self.failed = 0
        self.listener = Listener(
            self._planned, self._started, self._ticked, self._finished, self._say
        )

    def __enter__(self) -> Display:
        self._start = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._progress.stop()

    def _planned(self, done: int, total: int) -> None:
        self._before = done
        self._progress.update(self._all, completed=done, total=total)

    def _started(self, task: Task) -> None:
        if task.key in self._tasks:  # it is tried once more
            self._progress.remove_task(self._tasks[task.key])
        self._began[task.key] = time.monotonic()
        self._tasks[task.key] = self._progress.add_task(escape(str(task)), total=None)

    def _ticked(self, tick: Tick) -> None:
        if (bar := self._tasks.get(tick.task.key)) is not None:
            self._progress.update(bar, completed=tick.done, total=tick.total or None)

    def _finished(self, task: Task, error: Error | None) -> None:
        self._progress.remove_task(self._tasks.pop(task.key))
        if not isinstance(task, Victim):
            self._progress.advance(self._all)
            self.failed += error is not None
        if not self._console.is_terminal:
            took = time.monotonic() - self._began[task.key]
            done, total = self._progress.tasks[0].completed, self._progress.tasks[0].total or 0
            self._say(f"{done:.0f}/{total:.0f} {task}: {took:.0f} s{self._left(done, total)}")
        if error is not None:
            where = f" ({escape(error.where)})" if error.where else ""
            self._console.print(
                f"[red]failed[/red] {escape(str(task))}: {error.kind}: "
                f"{escape(error.message)}{where}",
                soft_wrap=True,
            )

    def _left(self, done: float, total: float) -> str:
        """Time left, if what is to come takes as long as what was."""
        if done == self._before or done == total:
            return ""
        each = (time.monotonic() - self._start) / (done - self._before)
        minutes = each * (total - done) / 60
        return f", some {minutes / 60:.1f} h left" if minutes > 90 else f", {minutes:.0f} min left"

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, soft_wrap=True, markup=False, highlight=False)
