"""Checks a folder of records against its evidence, in seconds and without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import protocol as protocols
from benchmark.games.all import GAMES, read
from benchmark.games.base import Wrong
from benchmark.leaderboard import deviations
from benchmark.leaderboard.build import generated, stale
from benchmark.leaderboard.index import has_index
from benchmark.protocol import Protocol
from benchmark.records import credits, replays
from benchmark.records.cell import Cell
from benchmark.records.evidence import Arrays, check_picture, read_evidence
from benchmark.records.files import StoreError, sha256
from benchmark.records.record import Record
from benchmark.records.strict import (
    RECORD_LIMIT,
    Finding,
    Refused,
    is_unfinished,
    plain_json,
    read_record,
    regular,
    strangers,
)
from benchmark.verification import identity
from benchmark.verification.claims import Claims, claims_of
from benchmark.verification.compare import differences
from benchmark.verification.likeness import Likeness
from benchmark.verification.rows import incomplete

if TYPE_CHECKING:
    from benchmark.registry import Registry

Progress = Callable[[int, int], None]

#: Folders that a run has and a board has not.
OF_RUNS = {"artifacts", "experiments"}
#: What a run's folder has besides what is generated, and the files that are written there.
FOLDERS = {"records", "evidence", "tuning", credits.FOLDER} | OF_RUNS
WRITTEN = {deviations.FILE, replays.FILE, credits.FILE}


@dataclass
class Checked:
    """What was found in a folder.

    Attributes:
        findings: what is wrong; empty where all is well.
        protocol: that of the records.
        records: every record that is right, by its file, as the cell that it is of.
        files: SHA-256 of every file that belongs to a right record or search, by its path.
        claims: what records say of things that they share.
        likeness: what they may not share.
    """

    findings: list[Finding] = field(default_factory=list)
    protocol: Protocol | None = None
    records: dict[str, Cell] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    claims: Claims = field(default_factory=Claims)
    likeness: Likeness = field(default_factory=Likeness)


def verify(
    folder: Path,
    registry: Registry | None = None,
    progress: Progress = lambda done, total: None,
) -> Checked:
    """Check every record, its evidence, the searches, and the board if one was built.

    Args:
        registry: plugins that are installed in the version of the records are compared with
            what the records say of them.
        progress: called with (records done, records in all).
    """
    found = verify_records(folder, registry, progress)
    if not found.findings and found.protocol is not None and has_index(folder.parent):
        # Models that were played before any defense may wait for the others of their row.
        found.findings += [
            finding
            for finding in incomplete(found, Checked(), found.protocol)
            if found.records[finding.file].defense.stages
        ]
    built = any((folder / name).exists() for name in generated())
    if not found.findings and built:
        try:
            found.findings += [
                Finding(name, "file", "is not what the records make; run `poisongames board build`")
                for name in stale(folder)
            ]
        except StoreError as error:  # all records hold, so it is what people wrote
            found.findings.append(Finding(deviations.FILE, "file", str(error)))
    return found


def verify_records(
    folder: Path,
    registry: Registry | None = None,
    progress: Progress = lambda done, total: None,
) -> Checked:
    """The same without the board."""
    if wrong := list(_of_other_kinds(folder)):
        return Checked(wrong)
    inside = sorted(path.parent for path in folder.glob("*/records") if path.is_dir())
    if inside and not (folder / "records").exists():
        reason = f"there are none; name one of the folders in it, such as {inside[0]}"
        return Checked([Finding("records", "file", reason)])
    found = Checked()
    for name in sorted(OF_RUNS):
        if (folder / name).exists() and has_index(folder.parent):
            reason = "is a run's; a board has none, remove it"
            found.findings.append(Finding(name, "file", reason))
    there = sorted((folder / "records").glob("*")) if (folder / "records").is_dir() else []
    paths = [path for path in there if not is_unfinished(path)]
    if not paths:
        found.findings.append(Finding("records", "file", "there are none; is this a run's folder?"))
    for number, path in enumerate(paths):
        progress(number, len(paths))
        found.findings += _record(path, folder, found)
    progress(len(paths), len(paths))
    found.findings += strangers(folder, generated() | FOLDERS | WRITTEN)
    named = {f"{path.stem}.{ending}" for path in paths for ending in ("npz", "png")}
    found.findings += strangers(folder / "evidence", named, "evidence/")
    found.findings += found.claims.contradictions()
    found.findings += found.likeness.findings()
    held = {cell.key: found.files[file] for file, cell in found.records.items()}
    found.findings += _replays(folder, held)
    found.findings += _credits(folder, held)
    if registry is not None:
        found.findings += found.claims.unlike_installed(registry)
    if found.protocol is not None:
        found.findings += _searches(folder, found.protocol, found.files)
    return found


def _of_other_kinds(folder: Path) -> Iterator[Finding]:
    """Folders that are none, and files that are none; whoever opens a pipe waits for ever."""
    for name in sorted(FOLDERS):
        path = folder / name
        if path.is_symlink():
            yield Finding(name, "file", "is a link; a board has folders of its own")
        elif path.exists() and not path.is_dir():
            yield Finding(name, "file", "is no folder; a board has one of that name, or none")
    for name in sorted(generated() | WRITTEN):
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            reason = "is no plain file; links, folders and pipes are not taken"
            yield Finding(name, "file", reason)


def _record(path: Path, folder: Path, found: Checked) -> Iterator[Finding]:
    """Everything about one record; what is right goes into `found`."""
    place = f"records/{path.name}"
    arrays: Arrays | None = None
    try:
        record, content = read_record(path, read)
        protocol = identity.protocol_of(record)
        if found.protocol is not None and protocol.sha256 != found.protocol.sha256:
            raise Refused("protocol.name", f"is {protocol.name}, others are {found.protocol.name}")
        found.protocol = protocol
        wrong = list(identity.check(record, path.name, protocol))
        files = {place: sha256(content)}
        # Numbers are compared only where it is clear what they belong to.
        if not wrong and record.evidence is not None:
            place = f"evidence/{record.evidence.file}"
            files[place] = record.evidence.sha256
            arrays = read_evidence(folder / "evidence", record.evidence)
            if (picture := record.picture) is not None:
                files[f"evidence/{picture.file}"] = picture.sha256
                check_picture(folder / "evidence", picture)
            wrong = list(wrong_numbers(record, arrays, protocol))
    except Refused as refused:
        yield Finding(place, refused.field, refused.reason)
        return
    place = f"records/{path.name}"
    for field_name, reason in wrong:
        yield Finding(place, field_name, reason)
    if not wrong:
        found.records[place] = cell = Cell.of(record)
        found.files |= files
        found.claims.add(claims_of(record, arrays), place)
        if arrays is not None:
            found.likeness.add(record, cell, arrays, place)
            found.claims.answered(record, arrays, place)


def wrong_numbers(record: Record, arrays: Arrays, protocol: Protocol) -> Iterator[Wrong]:
    """Whether a record is as its game leaves it, and its numbers are those of the evidence."""
    game = GAMES[record.game]
    try:
        wrong = list(game.check(record, arrays, protocol))
        if not wrong:
            numbers = game.score(arrays, game.extra(record), protocol)
            for field_name, right in numbers.items():
                wrong += differences(getattr(record, field_name), right, game.close, field_name)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        # Arrays of kinds and sizes that no game writes.
        raise Refused("file", f"does not fit its record: {error}") from None
    yield from wrong


def _replays(folder: Path, there: Mapping[str, str]) -> Iterator[Finding]:
    """What was played again are records that are there, as they are."""
    try:
        if (folder / replays.FILE).exists():
            plain_json(regular(folder / replays.FILE, RECORD_LIMIT))
        noted = replays.read(folder)
    except Refused as refused:
        yield Finding(replays.FILE, refused.field, refused.reason)
        return
    except StoreError as error:
        yield Finding(replays.FILE, "file", str(error))
        return
    for key, one in noted.items():
        if one.record != there.get(key):
            reason = f"{one.record[:12]}… is of no record here; remove it, or play it again"
            yield Finding(replays.FILE, f"{key[:12]}….record", reason)


def _credits(folder: Path, there: Mapping[str, str]) -> Iterator[Finding]:
    """Whoever is named has sent records that are there, as they are, and nobody else has."""
    place = credits.FILE
    senders: dict[str, str] = {}
    try:
        credits.of_run(folder)
    except Refused as refused:
        yield Finding(place, refused.field, refused.reason)
    own = folder / credits.FOLDER
    paths = sorted(own.iterdir()) if own.is_dir() else []
    for path in (one for one in paths if not is_unfinished(one)):
        place = f"{credits.FOLDER}/{path.name}"
        try:
            one = credits.kept(path)
        except Refused as refused:
            yield Finding(place, refused.field, refused.reason)
            continue
        for key, digest in one.records.items():
            where = f"records.{key[:12]}…"
            if there.get(key) != digest:
                yield Finding(place, where, "is of no record here, or of one that was replaced")
            elif senders.setdefault(key, place) != place:
                yield Finding(place, where, f"came with {senders[key]} already")


def _searches(folder: Path, protocol: Protocol, files: dict[str, str]) -> Iterator[Finding]:
    """Searches are those that the protocol brings."""
    released = protocols.tuned_folder(protocol.name)
    for path in sorted((folder / "tuning").glob("*")) if (folder / "tuning").is_dir() else ():
        place = f"tuning/{path.name}"
        try:
            content = regular(path, RECORD_LIMIT)
        except Refused as refused:
            yield Finding(place, refused.field, refused.reason)
            continue
        own = released / path.name
        if not own.is_file() or own.read_bytes() != content:
            yield Finding(place, "file", f"is no search of {protocol.name}; it brings its own")
            continue
        files[place] = sha256(content)
