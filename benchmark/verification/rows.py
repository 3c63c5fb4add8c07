"""Whether the rows of a submission are whole: all repetitions, and what they are compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.games.all import GAMES, UNDEFENDED
from benchmark.protocol import Protocol
from benchmark.records.cell import NO_DEFENSE, Cell
from benchmark.records.strict import Finding

if TYPE_CHECKING:
    from benchmark.verification.verify import Checked


def _rows(
    run: Checked, board: Checked, protocol: Protocol
) -> Iterator[tuple[str, set[int], set[int]]]:
    """For every record of a run the seeds that its row has to have, and those it has.

    Undefended and clean models are as many as the cells that rest on them need; those that no
    cell rests on are a row of their own.
    """
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    bases: set[str] = set()
    for cell in (*run.records.values(), *board.records.values()):
        seeds[cell.row].add(cell.victim.seed)
        bases |= {base.row for base, _ in _bases(cell)}
    for file, cell in run.records.items():
        wanted = set(range(GAMES[cell.game].repetitions(protocol)))
        if cell.defense.stages:
            yield file, wanted, seeds[cell.row]
        elif cell.row not in bases:
            yield file, wanted, seeds[cell.row] & wanted  # a population may have had more


def _bases(cell: Cell) -> Iterator[tuple[Cell, str]]:
    """The cells that a cell is compared with, and what their models are called."""
    undefended = Cell(UNDEFENDED, cell.victim, NO_DEFENSE, None)
    for base, which in (
        (undefended, "undefended"),
        (replace(undefended, victim=cell.victim.clean), "clean"),
    ):
        if base.key != cell.key:
            yield base, which


def leave_out_unfinished(run: Checked, board: Checked, protocol: Protocol) -> int:
    """Forget the records of rows that lack a seed; how many they were."""
    before = len(run.records)
    # Without the cells that rested on them, models are rows of their own.
    while unfinished := {file for file, want, has in _rows(run, board, protocol) if want - has}:
        run.records = {file: cell for file, cell in run.records.items() if file not in unfinished}
        run.files = {file: sha for file, sha in run.files.items() if not is_of(file, unfinished)}
    return before - len(run.records)


def incomplete(run: Checked, board: Checked, protocol: Protocol) -> Iterator[Finding]:
    """Nobody chooses the seeds that are shown, or leaves out what a number is compared with."""
    keys = {cell.key for cell in (*run.records.values(), *board.records.values())}
    for file, wanted, there in _rows(run, board, protocol):
        if missing := wanted - there:
            yield Finding(file, "seed", f"of {len(wanted)} seeds {_listed(missing)} is missing")
        if more := there - wanted:
            yield Finding(file, "seed", f"{_listed(more)} is more than the {len(wanted)} seeds")
        for base, which in _bases(run.records[file]):
            if base.key not in keys:
                yield Finding(file, "attack", f"the cell of its {which} model is missing")


def _listed(seeds: set[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def is_of(file: str, records: Collection[str]) -> bool:
    """Whether a file belongs to one of the records."""
    return f"records/{Path(file).stem}.json" in records
