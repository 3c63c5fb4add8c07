"""Which tasks have a result already: one that is whole and belongs to the task."""

from __future__ import annotations

from benchmark.games.all import read
from benchmark.records.cell import Cell, Tune
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.records.strict import Refused, check_named, read_record


def is_done(task: Cell | Tune, store: Store) -> bool:
    """Whether a task needs no playing. A result that was damaged is none."""
    if isinstance(task, Tune):
        return task.path.is_file()
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
    path = store.record(cell.name)
    if path is None:
        return None
    try:
        record, _ = read_record(path, read)
    except Refused:
        return None
    return record if record.key == cell.key else None
