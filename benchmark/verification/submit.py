"""Takes the records of a run over into a board, all of them or none."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.games.all import GAMES, read
from benchmark.records import credits
from benchmark.records.cell import Cell
from benchmark.records.credits import Credits
from benchmark.records.files import StoreError, sha256, write_whole
from benchmark.records.record import NONE, Record
from benchmark.records.replays import FILE, Replay, add
from benchmark.records.strict import EVIDENCE_LIMIT, Finding, Refused, regular
from benchmark.registry import Registry
from benchmark.verification.rows import incomplete, is_of, leave_out_unfinished
from benchmark.verification.verify import Checked, Progress, verify_records


class Rejected(Exception):
    """A submission that is not taken; `findings` say why, and nothing was written."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(f"{len(findings)} findings")
        self.findings = findings


@dataclass(frozen=True)
class Submission:
    """Where records went, how many are new there, how many it had, and how many were left out."""

    folder: Path
    new: int
    known: int
    left_out: int


@dataclass(frozen=True)
class Reviewed:
    """A run that may be taken into a board.

    Attributes:
        found, there: what was checked in the run, and on the board.
        known: records that the board has already.
        sender: who is named for what is new, None where the run does not say.
    """

    run: Path
    folder: Path
    found: Checked
    there: Checked
    known: frozenset[str]
    left_out: int
    sender: Credits | None

    @cached_property
    def own(self) -> dict[str, Record]:
        """The run's records by file."""
        return _read(self.run, self.found.records)

    def all_records(self) -> list[Record]:
        """Those of the run, and of the board what else there is."""
        others = self.there.records.keys() - self.found.records.keys()
        return [*self.own.values(), *_read(self.folder, others).values()]

    def digest(self, record: Record) -> str:
        return self.found.files[f"records/{Cell.of(record).name}.json"]

    def to_replay(self, more: int) -> list[Record]:
        """What has to be played again before it is taken, and `more` random cells.

        Every cell that failed, and of every new row the repetition that flatters whoever is new
        on the board, the defense, the attack or both, and another one.
        """
        new = [record for file, record in self.own.items() if file not in self.known]
        attacks = {cell.victim.attack.label for cell in self.there.records.values()}
        defenses = {_labels(cell) for cell in self.there.records.values()}
        drawn = {record.key: record for record in new if record.status != "ok"}
        rows: defaultdict[str, list[Record]] = defaultdict(list)
        for record in new:
            if record.status == "ok" and record.defense.stages:
                rows[Cell.of(record).row].append(record)
        for row in rows.values():
            order = sorted(row, key=lambda one: GAMES[one.game].defended(one))
            old = (order[0].attack.label in attacks, _labels(order[0]) in defenses)
            if all(old) or not old[1]:
                drawn[order[-1].key] = order[-1]
            if all(old) or not old[0]:
                drawn[order[0].key] = order[0]
            # Whoever plays only the best one honestly does not know which other one is drawn.
            others = [one for one in row if one.key not in drawn]
            drawn |= {one.key: one for one in _unforeseen(others, 1)}
        rest = [one for one in new if one.key not in drawn]
        return [*drawn.values(), *_unforeseen(rest, more)]

    def write(self, replays: Mapping[str, Replay]) -> Submission:
        """Copy what is new, and note who sent it and what was played again.

        Raises:
            StoreError: the folder cannot be written.
        """
        new = [file for file in sorted(self.found.files) if not is_of(file, self.known)]
        there = {*self.found.files.values(), *self.there.files.values()}
        # Replays come first: a submission that is interrupted starts anew, and plays all again.
        add(self.folder, replays, there)
        if self.sender:
            # So does this: who sends all again brings less that is new.
            unseen = self.found.records.keys() - self.known
            sent = {self.found.records[file].key: self.found.files[file] for file in unseen}
            credits.add(self.folder, self.sender, sent, there)
        # Evidence comes first in the alphabet: every record finds its own, whatever ends this.
        for file in new:
            write_whole(self.folder / file, _checked(self.run / file, self.found.files[file]))
        count = len(self.found.records) - len(self.known)
        return Submission(self.folder, count, len(self.known), self.left_out)


def review(
    run: Path,
    boards: Path,
    registry: Registry | None = None,
    progress: Progress = lambda done, total: None,
    *,
    whole_rows: bool = False,
) -> Reviewed:
    """Check a run, and whether the board below `boards` may take its records; writes nothing.

    Args:
        boards: the folder of all boards; the records go to ``boards/PROTOCOL/``.
        registry: as for `verify`.
        whole_rows: leave out rows that lack a seed, as a run that was stopped early has them.

    Raises:
        Rejected: a finding in the run, or a contradiction to what the board has.
    """
    found = verify_records(run, registry, progress)
    if found.findings or found.protocol is None:
        raise Rejected(found.findings)
    folder, there, sender = boards / found.protocol.name, Checked(), credits.of_run(run)
    if (folder / "records").is_dir() or (folder / "evidence").is_dir():
        there = verify_records(folder, registry)
        # What an interrupted submission left is written again.
        again = {*found.files, "records", FILE}  # replays of what is gone are left out, too
        again |= {credits.place(sender.title)} if sender else set()
        kept = [one for one in there.findings if one.file not in again]
        if kept:
            raise Rejected([one._replace(file=f"{folder}/{one.file}") for one in kept])
    left_out = leave_out_unfinished(found, there, found.protocol) if whole_rows else 0
    known = found.records.keys() & there.records.keys()
    wrong = [
        *_other_results(run, folder, sorted(known)),
        *found.claims.contradictions(there.claims),
        *found.likeness.findings(there.likeness),
    ]
    wrong += [*incomplete(found, there, found.protocol), *_other_models(run, found)]
    wrong += _other_sender(folder, sender)
    if wrong:
        raise Rejected(wrong)
    return Reviewed(run, folder, found, there, frozenset(known), left_out, sender)


def _unforeseen(records: Sequence[Record], count: int) -> list[Record]:
    """Some of the records; no seed tells beforehand which."""
    return random.SystemRandom().sample(records, min(count, len(records)))


def _labels(of: Record | Cell) -> tuple[str, ...]:
    return tuple(stage.label for stage in of.defense.stages)


def _read(folder: Path, files: Iterable[str]) -> dict[str, Record]:
    return {file: read((folder / file).read_bytes()) for file in sorted(files)}


def _other_results(run: Path, folder: Path, known: list[str]) -> Iterator[Finding]:
    """Cells that the board has with another result; what a run only rests on may differ.

    Clean models, defended or not, and undefended ones are part of every run, and other hardware
    trains others.
    """
    for file in known:
        own, other = (json.loads((place / file).read_bytes()) for place in (run, folder))
        rests = own["attack"]["threat"] == NONE or not own["defense"]["stages"]
        if not rests and _result(own) != _result(other):
            yield Finding(
                file,
                "file",
                "has another result on the board; results are not replaced, remove the board's "
                "record and evidence in the same change and say why",
            )


def _result(value: Any) -> Any:
    """A record, or a part of one, without what differs from one run to the next."""
    if isinstance(value, list):
        return [_result(part) for part in value]
    if isinstance(value, dict):
        free = {"cost", "env", "seconds"}
        return {key: _result(part) for key, part in value.items() if key not in free}
    return value


def _other_models(run: Path, found: Checked) -> Iterator[Finding]:
    """A run trains every victim once; results on other models of the same name are foreign."""
    models: dict[str, tuple[str, str]] = {}
    for file, cell in found.records.items():
        sha = json.loads((run / file).read_bytes())["victim_sha256"]
        victim = cell.defended.key
        if sha is not None and models.setdefault(victim, (sha, file))[0] != sha:
            yield Finding(file, "victim_sha256", f"is another model than in {models[victim][1]}")


def _other_sender(folder: Path, sender: Credits | None) -> Iterator[Finding]:
    """Nobody submits under the title of others."""
    path = folder / credits.place(sender.title) if sender else None
    if sender is None or path is None or not path.exists():
        return
    try:
        there = credits.kept(path).model_dump(exclude={"records"})
    except Refused as refused:
        yield Finding(str(path), refused.field, refused.reason)
        return
    for field, value in sender.model_dump().items():
        if value != there[field]:
            reason = f"is another one in {path}, which has this title; choose another title"
            yield Finding(credits.FILE, field, reason)


def _checked(path: Path, digest: str) -> bytes:
    """The content that was verified."""
    content = regular(path, EVIDENCE_LIMIT)
    if sha256(content) != digest:
        raise StoreError(f"{path} was changed while it was read; run the same command again")
    return content
