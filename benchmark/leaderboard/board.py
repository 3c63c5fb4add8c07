"""All that the pages of one folder show, made from its records in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import protocol as protocols
from benchmark.games.all import records
from benchmark.games.robustness import searches as tuned
from benchmark.leaderboard import deviations, inversions, published
from benchmark.leaderboard.costs import costs
from benchmark.leaderboard.fronts import attack_points, defense_points, front_table, in_both
from benchmark.leaderboard.populations import class_scores, curves, detectability, norms
from benchmark.leaderboard.rows import Curve, Played, Reversed, Rows, Unfinished
from benchmark.leaderboard.tables import (
    Namer,
    defended,
    judged,
    repairs,
    share_text,
    short_names,
    victims,
)
from benchmark.protocol import Protocol
from benchmark.records.record import NONE, PluginRef, ProtocolRef
from benchmark.records.store import StoreError


@dataclass(frozen=True)
class Picture:
    """A picture beside the records; `file` is its name in evidence/."""

    title: str
    file: str


@dataclass(frozen=True)
class Trigger:
    """A few test images, uint8 (2, n, C, H, W): clean ones, and the same with the trigger."""

    title: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Board:
    """What a page shows.

    Attributes:
        cells, seeds: how many there are.
        frames: tables by name; those without rows are left out, but for "victims".
        curves: for each row of the table "repairs", the trade-off curve of every seed.
        problems: cells that failed or that the sanity gate refused, with the reason.
        plugins: every attack and defense that was played, in all its settings.
        triggers: examples of every attack, where the evidence has some.
        inverted: the first model's picture of each attack and inverter.
        used: what inverters used besides the models: name, SHA-256, label of the inverter.
        searches: what defenders found when they tuned themselves.
    """

    folder: Path
    protocol: ProtocolRef
    cells: int
    seeds: int
    frames: dict[str, pd.DataFrame]
    curves: tuple[tuple[tuple[int, Curve], ...], ...]
    problems: tuple[dict[str, str], ...]
    plugins: tuple[PluginRef, ...]
    triggers: tuple[Trigger, ...]
    inverted: tuple[Picture, ...]
    used: tuple[tuple[str, str, str], ...]
    searches: tuple[tuned.Search, ...]


def read_board(folder: Path) -> Board:
    """Read and average all records of a folder.

    Raises:
        StoreError: no records, damaged ones, or records of more than one protocol; explanations
            that cannot be shown or that explain nothing.
    """
    rows = read_rows(folder)
    protocol = next(iter(rows.protocols.values()))
    searches = tuned.load(folder / "tuning")
    name = short_names(rows)
    frames = _frames(rows, searches, name)
    compared = published.comparison(played(protocol), rows, frames, searches, name)
    compared = deviations.explained(compared, folder)
    return Board(
        folder=folder,
        protocol=protocol,
        cells=rows.count,
        seeds=len(rows.seeds),
        frames=frames if compared.empty else {**frames, "comparison": compared},
        curves=tuple(
            tuple((row.seed, row.curve) for row in group) for group in defended(rows.played)
        ),
        problems=tuple(map(_problem, rows.unfinished)),
        plugins=_plugins(rows),
        triggers=_triggers(folder, rows.played),
        inverted=_inverted(rows.reversed),
        used=tuple(sorted(_used(rows.reversed))),
        searches=tuple(searches),
    )


def load_results(folder: str | Path) -> dict[str, pd.DataFrame]:
    """The tables of a board or of a run, by the names of their CSV files.

    Raises:
        StoreError: as `read_board`.
    """
    return read_board(Path(folder)).frames


def played(protocol: ProtocolRef) -> Protocol | None:
    """What was played, where it is a released protocol, which never changes."""
    known = protocols.released().get(protocol.name) == protocol.sha256
    return protocols.load(protocol.name) if known else None


def read_rows(folder: Path) -> Rows:
    """Reduce all records of a folder, of which there are some, of one protocol.

    Raises:
        StoreError: as `read_board`.
    """
    rows = Rows.of(records(folder))
    if not rows.count:
        raise StoreError(
            f"{folder / 'records'} holds no records; play a protocol with `poisongames run` first"
        )
    if len(rows.protocols) > 1:
        names = ", ".join(f"{p.name} {p.sha256[:12]}" for _, p in sorted(rows.protocols.items()))
        raise StoreError(f"{folder}: records of different protocols share no table: {names}")
    return rows


def games(rows: Rows, name: Namer) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables "victims", and "repairs" and "detectability" with what worked undefended."""
    undefended = victims(rows.played, name)
    played = repairs(defended(rows.played), name), detectability(rows.examined, name)
    return undefended, judged(played[0], undefended), judged(played[1], undefended)


def _frames(rows: Rows, searches: Sequence[tuned.Search], name: Namer) -> dict[str, pd.DataFrame]:
    undefended, *played = games(rows, name)
    frames = {"victims": undefended, "repairs": played[0], "detectability": played[1]}
    frames["norms"] = norms(rows.examined, name)
    frames["classscores"] = class_scores(rows.examined, name)
    frames["curves"] = curves(undefended, played[1])
    frames["costs"] = costs(rows, undefended, played[0], searches, name)
    points = front_table(attack_points(*played))
    if not in_both(points).empty:
        frames["pareto"] = points
    frames["defenders"] = defense_points(*played)
    if rows.reversed:
        frames["inversions"] = inversions.inversions(rows.reversed, name)
        frames["radii"] = inversions.radii(rows.reversed, name)
        frames["configurations"] = inversions.configurations(rows.reversed, name)
        frames["smoothed"] = inversions.smoothed(rows.reversed, name)
    shown = {title: frame for title, frame in frames.items() if not frame.empty}
    return {"victims": frames["victims"], **shown}


def _problem(row: Unfinished) -> dict[str, str]:
    return {
        "attack": row.attack.label,
        "defense": row.defense.name,
        "r": share_text(row.trusted_share),
        "seed": str(row.seed),
        "status": row.status,
        "reason": row.reason,
    }


def _plugins(rows: Rows) -> tuple[PluginRef, ...]:
    """Attacks first, then defenses by stage."""
    found: dict[tuple[int, str, str], PluginRef] = {}
    for row in rows:
        if row.attack.threat != NONE:
            found[0, "", row.attack.label] = row.attack
        for stage in row.defense.stages:
            found[1, stage.stage, stage.label] = stage
    return tuple(found[key] for key in sorted(found))


def _triggers(folder: Path, rows: Sequence[Played]) -> tuple[Trigger, ...]:
    found: dict[str, Trigger] = {}
    undefended = (row for row in rows if not row.defense.stages and row.evidence is not None)
    for row in sorted(undefended, key=lambda row: (row.attack.label, row.attack.m, row.seed)):
        file = folder / "evidence" / str(row.evidence)
        # The clean model has none, and only the first model of an attack carries examples.
        if row.attack.threat == NONE or row.seed or not file.is_file():
            continue
        with np.load(file, allow_pickle=False) as arrays:
            if "examples" in arrays and arrays["examples"].size:
                found.setdefault(row.attack.label, Trigger(str(row.attack), arrays["examples"]))
    return tuple(found.values())


def _inverted(rows: Sequence[Reversed]) -> tuple[Picture, ...]:
    found: dict[tuple[str, str], Picture] = {}
    for row in sorted(rows, key=lambda row: row.seed):
        if row.picture is not None:
            title = f"{row.attack}: {row.defense.name}"
            found.setdefault((row.defense.stages[0].label, title), Picture(title, row.picture))
    return tuple(sorted(found.values(), key=lambda picture: (picture.title, picture.file)))


def _used(rows: Sequence[Reversed]) -> set[tuple[str, str, str]]:
    return {
        (what, sha, row.defense.stages[0].label) for row in rows for what, sha in row.uses.items()
    }
