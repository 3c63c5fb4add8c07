"""Progress bars of a run on the terminal."""

from __future__ import annotations

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

from benchmark.records.record import Error
from benchmark.runs.execute import Listener, Tick


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
        )
        self._all = self._progress.add_task(f"[b]{escape(title)}[/b]", total=None)
        self._tasks: dict[str, TaskID] = {}
        self.failed = 0
        self.listener = Listener(self._planned, self._started, self._ticked, self._finished)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._progress.stop()

    def _planned(self, done: int, total: int) -> None:
        self._progress.update(self._all, completed=done, total=total)

    def _started(self, name: str) -> None:
        self._tasks[name] = self._progress.add_task(escape(name), total=None)

    def _ticked(self, tick: Tick) -> None:
        name, done, total = tick
        if name in self._tasks:
            self._progress.update(self._tasks[name], completed=done, total=total or None)

    def _finished(self, name: str, is_cell: bool, error: Error | None) -> None:
        self._progress.remove_task(self._tasks.pop(name))
        if is_cell:
            self._progress.advance(self._all)
            self.failed += error is not None
        if error is not None:
            self._console.print(
                f"[red]failed[/red] {escape(name)}: {error.kind}: {escape(error.message)} "
                f"({escape(error.where)})",
                soft_wrap=True,
            )
