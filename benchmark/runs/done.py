"""Which tasks have a result already: one that is whole and belongs to the task."""

from __future__ import annotations

from benchmark.games.all import read
from benchmark.games.robustness.searches import result
from benchmark.records.cell import Cell, Tune, Victim
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.records.strict import Refused, check_named, read_record
from benchmark.runs.executor import Task


def is_done(task: Task, store: Store) -> bool:
    """Whether a task needs no playing. A result that was damaged is none."""
    if isinstance(task, Victim):
        return store.victims.has(task.key)
    if isinstance(task, Tune):
        return result(task) is not None
    record = record_of(task, store)
    if record is None:
        return False
    try:
        for file in filter(None, (record.evidence, record.picture)):
            check_named(store.root / "evidence", file)
    except Refused:
        return False
    return True


def record_of(cell: Cell, store: Store) -> Record | None:
    """The record of a cell, None where there is none that can be read."""
    try:
        record, content = read_record(store.record(cell.name), read)
    except (Refused, OSError):
        return None
    return record if record.key == cell.key and store.as_written(cell.name, content) else None
