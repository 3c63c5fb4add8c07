"""Takes the records of a run over into a board, all of them or none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from benchmark.runs.store import write_whole
from benchmark.verification.files import EVIDENCE_LIMIT, Finding, regular
from benchmark.verification.verify import Checked, Progress, verify_records


class Rejected(Exception):
    """A submission that is not taken; `findings` say why, and nothing was written."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(f"{len(findings)} findings")
        self.findings = findings


@dataclass(frozen=True)
class Submission:
    """Where records went, how many are new there and how many it had."""

    folder: Path
    new: int
    known: int


def submit(run: Path, boards: Path, progress: Progress = lambda done, total: None) -> Submission:
    """Check a run and copy its records, evidence and searches below `boards`.

    Args:
        boards: the folder of all boards; the records go to ``boards/PROTOCOL/``.

    Raises:
        Rejected: a finding in the run, or a contradiction to what the board has.
        StoreError: the folder cannot be written.
    """
    found = verify_records(run, progress)
    if found.findings or found.protocol is None:
        raise Rejected(found.findings)
    folder = boards / found.protocol.name
    if (folder / "records").is_dir():
        there = verify_records(folder)
        if there.findings:
            raise Rejected(
                [finding._replace(file=f"{folder}/{finding.file}") for finding in there.findings]
            )
        if contradictions := _contradictions(found, there):
            raise Rejected(contradictions)
        new = {file: digest for file, digest in found.files.items() if file not in there.files}
    else:
        new = found.files
    # Evidence comes first in the alphabet: every record finds its own, whatever ends this early.
    for file in sorted(new):
        write_whole(folder / file, _checked(run / file, new[file]))
    records = [file for file in found.files if file.startswith("records/")]
    added = sum(file in new for file in records)
    return Submission(folder, added, len(records) - added)


def _contradictions(run: Checked, board: Checked) -> list[Finding]:
    """Where a run says something else than the board it is to join."""
    found = [
        Finding(file, "file", "is another on the board; results are not replaced, remove it there")
        for file, digest in sorted(run.files.items())
        if board.files.get(file, digest) != digest
    ]
    for label, played in run.versions.items():
        there = board.versions.get(label, played)
        if there.keys() != played.keys():
            (said, file), known = next(iter(played.items())), next(iter(there))
            found.append(
                Finding(file, "attack or defense", f"{label} is {said}, on the board {known}")
            )
    if board.labels and run.labels and board.labels.keys() != run.labels.keys():
        file = next(iter(run.labels.values()))
        found.append(Finding(file, "labels_test", "are other test images than those of the board"))
    return found


def _checked(path: Path, digest: str) -> bytes:
    """The content that was verified."""
    content = regular(path, EVIDENCE_LIMIT)
    if hashlib.sha256(content).hexdigest() != digest:
        raise Rejected([Finding(path.name, "file", "was changed while it was being read")])
    return content
