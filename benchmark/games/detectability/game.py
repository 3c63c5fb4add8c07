"""The detectability game (Pick your Poison, Alg. 2), as the harness knows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.games.base import Arrays, Claim, Extra, Game, Number, Played, Wrong
from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.games.detectability.score import score
from benchmark.games.settings import LARGEST_SINGLE
from benchmark.games.shapes import SIDE, answers, fits_protocol, known, known_source, shape
from benchmark.protocol import Protocol
from benchmark.records.cell import CLEAN, Cell
from benchmark.records.record import DefenseRef
from benchmark.records.strict import Refused

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.games.answers import Labels
    from benchmark.games.detectability.play import Scan
    from benchmark.games.experiment import Progress
    from benchmark.games.frames import Chapter
    from benchmark.runs.context import RunContext
    from benchmark.runs.planner import Planner

_ARRAYS = (
    r"labels_test|target|source|scores|class_scores|flagged|norms|also_.+|reversed_answers"
    r"|reversed_\w+"
)


class DetectabilityGame(Game[DetectabilityRecord]):
    """How well a detector tells poisoned models from clean ones."""

    name = "detectability"
    stages = ("detect",)
    players = "detectors"
    record = DetectabilityRecord

    def defenses(self, protocol: Protocol) -> tuple[str, ...]:
        return protocol.detectability.detectors if protocol.detectability else ()

    def repetitions(self, protocol: Protocol) -> int:
        return protocol.detectability.models if protocol.detectability else 0

    def shares(self, defense: DefenseRef, protocol: Protocol) -> tuple[float | None, ...]:
        return (protocol.detectability.share,) if protocol.detectability else ()

    def cells(
        self, planner: Planner, attacks: Sequence[str], defenses: Sequence[str]
    ) -> list[Cell]:
        game = planner.protocol.detectability
        assert game is not None
        if attacks:
            entries = [entry for spec in attacks for entry in planner.sweep(spec, game.attacks)]
        else:
            entries = [entry for population in game.attacks for entry in population.entries()]
        refs = [planner.attack(entry) for entry in entries]
        detectors = [planner.defense(spec, game.share) for spec in defenses]
        cells: list[Cell] = []
        for seed in planner.seeds(game.models):
            cells += planner.undefended(refs, seed)
            cells += [
                Cell(self.name, planner.victim(attack, seed), detector, game.share)
                for attack in (CLEAN, *refs)
                for detector in detectors
            ]
        return cells

    def turn(self, cell: Cell, protocol: Protocol) -> int:
        return 1

    def play(self, context: RunContext, cell: Cell, progress: Progress) -> Played:
        from benchmark.api import Detector
        from benchmark.games.detectability.play import examine

        detector, asked = context.stage(cell, "detect"), context.evaluation_set(cell.victim)
        assert isinstance(detector, Detector)
        assert cell.trusted_share is not None
        scans = examine(
            context.experiment,
            asked,
            context.load(cell.victim),
            detector,
            share=cell.trusted_share,
            seed=cell.victim.seed,
            progress=progress,
        )
        return Played(
            evidence=_evidence(scans, asked.labels),
            extra={"seconds": [round(scan.seconds, 3) for scan in scans]},
            seconds=fmean(scan.seconds for scan in scans),
        )

    def score(self, evidence: Arrays, extra: Extra, protocol: Protocol) -> dict[str, Any]:
        return score(evidence, extra["seconds"])

    def extra(self, record: DetectabilityRecord) -> Extra:
        return {"seconds": [scan.seconds for scan in record.scans]}

    def check(
        self, record: DetectabilityRecord, evidence: Arrays, protocol: Protocol
    ) -> Iterator[Wrong]:
        game = protocol.detectability
        assert game is not None
        known(evidence, _ARRAYS)
        yield from fits_protocol(evidence, record, protocol)
        repeats = game.repeats
        if len(record.scans) != repeats:
            yield "scans", f"are {len(record.scans)}, the protocol examines {repeats} times"
            return
        classes, tests = len(record.scans[0].class_scores), len(evidence["labels_test"])
        if (there := int(evidence["labels_test"].max()) + 1) != classes:
            yield "scans.0.class_scores", f"are {classes}, the test images have {there} classes"
        yield from known_source(evidence, record, classes)
        wanted: dict[str, tuple[int, ...]] = {
            "scores": (),
            "flagged": (),
            "class_scores": (classes,),
        }
        wanted |= {"norms": (classes,)} if "norms" in evidence else {}
        if "reversed_answers" in evidence:
            if record.attack.clean:
                yield "scans.0.success", "is of a trigger, a clean model has none"
            # Where the true trigger covers most of an image, nothing was restricted to it.
            readings = 1 if evidence["reversed_answers"].shape[1:2] == (1,) else 2
            wanted["reversed_answers"] = (readings, tests)
            answers(evidence, "reversed_answers", classes)
        answers(evidence, "flagged", 2, -1)
        wanted |= {name: () for name in evidence if name.startswith("also_")}
        for name, rest in wanted.items():
            whole = name in ("flagged", "reversed_answers")
            shape(evidence, name, repeats, *rest, kinds="iu" if whole else "f")
        if "norms" in evidence and (least := float(evidence["norms"].min())) < 0:
            raise Refused("norms", f"hold {least:g}, which no norm is")
        _pictures(evidence, repeats)
        yield from _times(record)

    def claims(self, record: DetectabilityRecord, evidence: Arrays) -> Iterator[Claim]:
        scan = record.scans[0]
        readings = ", ".join(sorted(scan.also)) or "none"
        norms = "without" if scan.norms is None else "with"
        said = f"{len(scan.class_scores)} classes {norms} norms, other readings: {readings}"
        shown = [f"{name} {evidence[name].shape[2:]}" for name in sorted(_shown(evidence))]
        said += f", pictures: {', '.join(shown) or 'none'}"
        yield Claim("scans", record.defense.stages[0].label, said)

    def fingerprint(self, record: DetectabilityRecord, evidence: Arrays) -> np.ndarray:
        return evidence["class_scores"].astype(np.float64).ravel()

    def defended(self, record: DetectabilityRecord) -> float:
        score = fmean(scan.score for scan in record.scans)
        return -score if record.attack.clean else score

    def chapter(self) -> Chapter:
        from benchmark.games.detectability.frames import CHAPTER

        return CHAPTER

    def headline(self, record: DetectabilityRecord) -> dict[str, Number]:
        # How far examinations of one model lie apart says nothing about other models.
        return {"score": Number(fmean(scan.score for scan in record.scans), math.nan, math.nan)}


def _shown(evidence: Arrays) -> set[str]:
    """Names of reversed triggers, without their ranges."""
    names = {name for name in evidence if name.startswith("reversed_")} - {"reversed_answers"}
    return {name for name in names if not name.endswith("_range")}


def _pictures(evidence: Arrays, repeats: int) -> None:
    """Reversed triggers for the target and the guess of every examination, kept as bytes.

    Each has a range: what 0 and 255 stand for.
    """
    pictures = _shown(evidence)
    for name in pictures:
        found = evidence[name]
        fits = found.dtype == np.uint8 and found.shape[:2] == (repeats, 2) and found.ndim == 5
        if not fits or not 0 < min(found.shape[2:]) <= max(found.shape[2:]) <= SIDE:
            raise Refused(name, f"are {found.dtype} of shape {found.shape}, no triggers")
    ranges = {name for name in evidence if name.startswith("reversed_") and name.endswith("_range")}
    for name in ranges:
        shape(evidence, name, 2, kinds="f")
        low, high = map(float, evidence[name])
        if not -LARGEST_SINGLE <= low <= high <= LARGEST_SINGLE:
            raise Refused(name, f"goes from {low:g} to {high:g}, which is no range")
    if alone := sorted(ranges ^ {f"{name}_range" for name in pictures}):
        raise Refused(alone[0], "is there without its trigger, or the trigger without it")
    if pictures and "norms" not in evidence:
        raise Refused("norms", "are missing; whoever reverses triggers has their norms")


def _times(record: DetectabilityRecord) -> Iterator[Wrong]:
    """The defense took what its examinations took on average, and the cell all of them."""
    seconds, cost = [scan.seconds for scan in record.scans], record.cost
    mean, rounded = fmean(seconds), 2e-3  # all are kept in thousandths
    if cost.defense_seconds is None or abs(cost.defense_seconds - mean) > rounded:
        said = f"the examinations took {mean:.3f} on average"
        yield "cost.defense_seconds", f"is {cost.defense_seconds}, {said}"
    if sum(seconds) > cost.seconds + rounded * len(seconds):
        said = f"the examinations alone took {sum(seconds):.3f}"
        yield "cost.seconds", f"is {cost.seconds}, {said}"


def _evidence(scans: Sequence[Scan], labels: Labels) -> dict[str, np.ndarray]:
    """Scores, decisions (-1: none) and norms of every scan, reversed triggers, and answers.

    Triggers are those for the target and for the guess. They are kept as bytes, `low` and
    `high` saying what 0 and 255 stand for.
    """
    found = [scan.detection for scan in scans]
    flags = [-1 if one.flagged is None else one.flagged for one in found]
    arrays: dict[str, np.ndarray] = {
        "labels_test": labels.test,
        "target": np.array(labels.target, np.int16),
        "scores": np.array([one.score for one in found], np.float64),
        "class_scores": np.stack([_array(one.class_scores) for one in found]),
        "flagged": np.array(flags, np.int8),
    }
    if labels.source is not None:
        arrays["source"] = np.array(labels.source, np.int16)
    for name in found[0].also:
        arrays[f"also_{name}"] = np.array([one.also[name] for one in found], np.float64)
    triggers = [one.trigger for one in found if one.trigger is not None]
    if len(triggers) == len(scans):
        arrays["norms"] = np.stack([_array(trigger.norms) for trigger in triggers])
        for name in triggers[0].pictures:
            shown = [
                _array(trigger.pictures[name][[labels.target, int(one.class_scores.argmax())]])
                for one, trigger in zip(found, triggers, strict=True)
            ]
            picture = np.stack(shown)
            low, high = float(picture.min()), float(picture.max())
            scaled = (picture - low) / max(high - low, 1e-12)
            arrays[f"reversed_{name}"] = np.round(255 * scaled).astype(np.uint8)
            arrays[f"reversed_{name}_range"] = np.array([low, high])
    answers = [scan.reversed_answers for scan in scans if scan.reversed_answers is not None]
    if len(answers) == len(scans):
        arrays["reversed_answers"] = np.stack(answers)
    return arrays


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
