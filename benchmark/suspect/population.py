"""Clean models of the same kind, among the records of runs and boards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmark.api import Detector
from benchmark.games.all import records
from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.leaderboard.board import played
from benchmark.specs import label


@dataclass(frozen=True)
class Comparison:
    """Where a score stands among those of clean models.

    Attributes:
        below: how many of them have a lower score.
        clean: how many there are.
        protocol: what they were trained by.
    """

    below: int
    clean: int
    protocol: str

    @property
    def sentence(self) -> str:
        return (
            f"The score is above that of {self.below} of {self.clean} clean models of "
            f"{self.protocol} ({self.below / self.clean:.0%})."
        )


def compare(
    detector: Detector, score: float, architecture: str, classes: int, folders: Sequence[Path]
) -> Comparison | None:
    """Compare a score with those of clean models of an architecture and number of classes.

    Only examinations by the very detector count, its version and settings included; None
    where there are none.
    """
    name = label(detector)
    found: dict[str, list[float]] = {}
    for folder in folders:
        for record in records(folder, f"*-{detector.name}-*.json"):
            if not isinstance(record, DetectabilityRecord) or not record.attack.clean:
                continue
            stage = record.defense.stages[0]
            protocol = played(record.protocol)
            if (stage.label, stage.version) != (name, detector.version) or protocol is None:
                continue
            if protocol.architecture != architecture or not record.scans:
                continue
            if len(record.scans[0].class_scores) == classes:
                mean = fmean(scan.score for scan in record.scans)
                found.setdefault(protocol.name, []).append(mean)
    if not found:
        return None
    largest = max(found, key=lambda protocol: len(found[protocol]))
    scores = found[largest]
    return Comparison(sum(one < score for one in scores), len(scores), largest)
