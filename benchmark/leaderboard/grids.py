"""Grids of attacks against defenders, as README.md and the page show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.games.columns import KEYS, Column, Row, attack_label, share_key
from benchmark.games.frames import Frame
from benchmark.leaderboard.cells import UNFINISHED
from benchmark.leaderboard.chapters import UNDEFENDED_ASR

#: What tells an attack, and a defender at a trusted share; never what they are called.
AttackKey = tuple[Any, ...]
DefenderKey = tuple[str, float]


@dataclass(frozen=True)
class Filled:
    """A grid with what stands in it.

    Attributes:
        attacks: label of each line, marked where the attack did not work.
        defenders: name and trusted share of each column, None where it has no trusted images.
        before: for each line the row that says what the attack did undefended, where that was
            measured, and in which column: of the cell that met most models, if cells say so.
        cells: number and content of the frame's row behind a cell.
        failed: why nothing was measured for a cell.
    """

    attacks: dict[AttackKey, str]
    defenders: dict[DefenderKey, tuple[str, float | None]]
    before: dict[AttackKey, tuple[Column, Row]]
    cells: dict[tuple[AttackKey, DefenderKey], tuple[int, Row]]
    failed: dict[tuple[AttackKey, DefenderKey], str]


def fill(frame: Frame, frames: Mapping[str, pd.DataFrame]) -> Filled:
    """The grid of a frame that has one."""
    assert frame.grid is not None
    grid, column = frame.grid, frame.column(frame.grid.defender)
    table = frames[frame.name]
    attacks: dict[AttackKey, str] = {}
    cells = {}
    defenders = {}
    rows = table.reset_index(drop=True).pipe(grid.rows)
    for index, row in zip(rows.index, rows.to_dict("records"), strict=True):
        who = _defender(row, column.key, column.share)
        attack = _attack(row)
        attacks[attack] = attack_label(row) + ("" if row.get("worked", True) else " ‡")
        defenders[who] = (who[0], row[column.share] if who[1] else None)
        if row["failed"] < row[grid.repetitions]:
            cells[attack, who] = (int(index), row)
    failed = {}
    for row in frames.get(UNFINISHED.name, pd.DataFrame()).to_dict("records"):
        who, attack = _defender(row, "defense", "trusted_share"), _attack(row)
        if attack in attacks and who in defenders and (attack, who) not in cells:
            failed[attack, who] = f"{row['status']}: {row['reason']}"
    victims = frames["victims"].to_dict("records")
    before = {_attack(row): (UNDEFENDED_ASR, row) for row in victims}
    if grid.before:
        met = sorted((row for _, row in cells.values()), key=lambda row: row[grid.repetitions])
        before |= {_attack(row): (frame.column(grid.before), row) for row in met}  # the last stays
    across = {key: defenders[key] for key in sorted(defenders)}
    return Filled(attacks, across, before, cells, failed)


def _attack(row: Row) -> AttackKey:
    return tuple(row[key] for key in KEYS)


def _defender(row: Row, name: str, share: str) -> DefenderKey:
    return row[name], share_key(row[share] if share else None)
