"""Plays cells of records again, and shows how they compare."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from benchmark.cli.shared import err, out, say
from benchmark.texts import counted

if TYPE_CHECKING:
    from benchmark.records.record import Record
    from benchmark.records.replays import Replay
    from benchmark.runs.replay import Compared

#: How a replay's verdict is shown.
VERDICTS = {
    "equal": "equal",
    "agrees": "agrees",
    "differs": "[red]differs[/red]",
    "unknown": "cannot be told",
}


@dataclass(frozen=True)
class Again:
    """A record, what came of its cell now, and the numbers of both side by side."""

    record: Record
    now: Record
    compared: list[Compared]

    @property
    def tells(self) -> bool:
        """Whether all numbers could be judged."""
        return all(one.verdict != "unknown" for one in self.compared)

    def noted(self, sha256: str) -> Replay:
        """What a board says of it; `sha256` is that of the record's file."""
        from benchmark.records.replays import Replay

        equal = all(one.verdict == "equal" for one in self.compared)
        return Replay(
            record=sha256,
            verdict="equal" if equal else "agrees",
            device=self.now.cost.device,
            env=self.now.env,
        )


def play_again(
    drawn: Sequence[Record],
    there: Sequence[Record],
    device: str,
    data_dir: Path | None,
    plugin: list[Path] | None,
) -> list[Again]:
    """Train the models of some records anew and play their cells, in a folder that is removed.

    Args:
        there: all records, among which other repetitions say how far one more may lie.

    Raises:
        typer.Exit: it was interrupted.
    """
    from benchmark.cli.execution import prepare, workers_for
    from benchmark.games.all import records
    from benchmark.progress import Display
    from benchmark.protocol import load
    from benchmark.records.cell import Cell
    from benchmark.records.store import Store
    from benchmark.runs.execute import execute
    from benchmark.runs.local import LocalExecutor
    from benchmark.runs.replay import compare, count, playable, same_cell

    victims = {Cell.of(one).victim.key: one.cost.victim_seconds or 0.0 for one in drawn}
    minutes = (sum(one.cost.seconds for one in drawn) + sum(victims.values())) / 60
    say(f"playing {len(drawn)} cells again, which took {minutes:.0f} min where they were played")
    if device == "auto" and all(one.cost.device.startswith("cpu") for one in drawn):
        device = "cpu"  # only there are the models the same ones
    found, among = [], count(drawn)
    with tempfile.TemporaryDirectory() as scratch:
        for recipe in dict.fromkeys(record.protocol.recipe for record in drawn):
            own = [record for record in drawn if record.protocol.recipe == recipe]
            setup, registry, _ = prepare(
                load(own[0].protocol.name), recipe, Path(scratch) / recipe, device, data_dir, plugin
            )
            cells = [playable(record, registry) for record in own]
            title = f"replay on {setup.device}"
            with Display(err, title) as display:
                executor = LocalExecutor(setup, workers_for(setup.device))
                summary = execute(Store(setup.root), cells, executor, listener=display.listener)
            if summary.why:
                out.print(f"{summary.why}; nothing was written, the same command starts again")
                raise typer.Exit(130 if summary.why == "interrupted" else 1)
            again = {record.key: record for record in records(setup.root)}
            for record in own:
                others = [other for other in there if same_cell(record, other)]
                now = again[record.key]
                found.append(Again(record, now, compare(record, now, others, among)))
    return found


def show(found: Sequence[Again]) -> int:
    """Print the numbers of all; how many of them differ."""
    from benchmark.records.cell import Cell

    table = Table("cell and number", "recorded", "replayed", "may lie in", "", box=None)
    for one in found:
        table.add_row(escape(str(Cell.of(one.record))), style="bold")
        for number in one.compared:
            table.add_row(
                *map(escape, [f"  {number.number}", *number[1:4]]), VERDICTS[number.verdict]
            )
    wrong = sum(number.verdict == "differs" for one in found for number in one.compared)
    out.print(table)
    unknown = sum(not one.tells for one in found)
    said = f", of {counted(unknown, 'cell')} not all can be told" if unknown else ""
    out.print(f"{len(found)} cells replayed, {wrong} numbers differ{said}")
    return wrong
