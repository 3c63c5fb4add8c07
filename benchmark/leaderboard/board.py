"""All that the files of a board show, made from its records in one pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import protocol as protocols
from benchmark.games.all import records
from benchmark.games.frames import Chapter, Picture, Sources
from benchmark.games.means import short_names
from benchmark.games.robustness import searches as tuned
from benchmark.leaderboard import chapters
from benchmark.protocol import Protocol
from benchmark.records import credits, replays
from benchmark.records.credits import Kept
from benchmark.records.files import StoreError
from benchmark.records.record import PluginRef, ProtocolRef, Record


@dataclass(frozen=True)
class Board:
    """What pages show.

    Attributes:
        cells, seeds: how many there are.
        frames: by name; those without rows are left out, but for those that may be empty.
        details: by the name of a frame, what cells of its grid explain, for each of its rows.
        pictures: by the title of a chapter.
        plugins: every attack and defense that was played, in all its settings.
        submissions: who handed in records, as far as the board knows.
        sources: what the frames were made of.
    """

    protocol: ProtocolRef
    cells: int
    seeds: int
    frames: dict[str, pd.DataFrame]
    details: Mapping[str, Sequence[Any]]
    pictures: Mapping[str, Sequence[Picture]]
    plugins: tuple[PluginRef, ...]
    submissions: tuple[Kept, ...]
    sources: Sources


def read_board(
    folder: Path, beside: Path | None = None, *, only: Collection[str] | None = None
) -> Board:
    """Read and average all records of a folder, together with those of a board beside it.

    Args:
        only: keys of records; the others are left aside.

    Raises:
        StoreError: no records, damaged ones, or records of more than one protocol; explanations
            that cannot be shown; submissions or replays that are no lists.
    """
    sources, protocol = read_sources(folder, beside, only)
    submissions = [one for place in sources.folders for one in credits.read(place)]
    sources.titles = {key: one.title for one in submissions for key in one.records}
    build(sources)
    built = sources.frames
    shown = {f.name: built[f.name] for f in chapters.frames() if f.empty or len(built[f.name])}
    every = [*sources.records, *sources.unfinished]
    return Board(
        protocol=protocol,
        cells=len(every),
        seeds=len({record.seed for record in every}),
        frames=shown,
        details={f.name: f.details(sources) for f in chapters.frames() if f.details},
        pictures={c.title: found for c in chapters.BUILT if (found := _pictures(c, sources))},
        plugins=_plugins(every),
        submissions=tuple(submissions),
        sources=sources,
    )


def load_results(folder: str | Path) -> dict[str, pd.DataFrame]:
    """The frames of a board or of a run, by the names of their CSV files.

    Raises:
        StoreError: as `read_board`.
    """
    return read_board(Path(folder)).frames


def played(protocol: ProtocolRef) -> Protocol | None:
    """What was played, where it is a released protocol, which never changes."""
    known = protocols.released().get(protocol.name) == protocol.sha256
    return protocols.load(protocol.name) if known else None


def read_sources(
    folder: Path, beside: Path | None = None, only: Collection[str] | None = None
) -> tuple[Sources, ProtocolRef]:
    """Records and searches, and the protocol of all of them. Of a cell that both folders hold,
    that of the board `beside` counts.

    Raises:
        StoreError: as `read_board`.
    """
    folders = [folder] if beside is None else [beside, folder]
    slim = {chapter.record: chapter.slim for chapter in chapters.PLAYED}
    seen: dict[str, ProtocolRef] = {}
    kept: dict[str, Any] = {}
    found: dict[str, list[Record]] = {"ok": [], "unfinished": []}
    for one in folders:
        others = set(seen)
        for record in records(one):
            if record.key in others or (only is not None and record.key not in only):
                continue
            seen[record.key] = record.protocol
            if take := slim.get(type(record)):
                record, kept[record.key] = take(record)
            found["ok" if record.status == "ok" else "unfinished"].append(record)
        if not any((one / "records").glob("*.json")):
            raise StoreError(
                f"{one / 'records'} holds no records; play a protocol with `poisongames run` first"
            )
    for group in found.values():
        # Sums depend on the order of what is summed; it shall not be that of the files' names.
        group.sort(key=lambda record: (record.seed, record.key))
    named = {protocol.sha256: protocol for protocol in seen.values()}
    if len(named) > 1:
        names = ", ".join(f"{p.name} {p.sha256[:12]}" for _, p in sorted(named.items()))
        where = " and ".join(map(str, folders))
        raise StoreError(f"{where}: records of different protocols share no table: {names}")
    searches = {
        (search.defense, search.trusted_share): search
        for one in reversed(folders)
        for search in tuned.load(one / "tuning")
    }
    protocol = next(iter(seen.values()))
    measured, unfinished = found["ok"], found["unfinished"]
    sources = Sources(
        measured, kept, unfinished, list(searches.values()), short_names([*measured, *unfinished]),
        played(protocol), folders,
        list(chapters.worst_cases(unfinished, measured)),
        {key: one for place in folders for key, one in replays.read(place).items()},
    )  # fmt: skip
    return sources, protocol


def build(sources: Sources) -> None:
    """Fill `sources.frames` with all frames, those without rows among them."""
    for frame in chapters.frames():
        sources.frames[frame.name] = frame.build(sources)


def _pictures(chapter: Chapter, sources: Sources) -> Sequence[Picture]:
    return chapter.pictures(sources) if chapter.pictures else ()


def _plugins(records: Sequence[Record]) -> tuple[PluginRef, ...]:
    """Attacks first, then defenses by stage."""
    found: dict[tuple[int, str, str], PluginRef] = {}
    for record in records:
        if not record.attack.clean:
            found[0, "", record.attack.label] = record.attack
        for stage in record.defense.stages:
            found[1, stage.stage, stage.label] = stage
    return tuple(found[key] for key in sorted(found))
