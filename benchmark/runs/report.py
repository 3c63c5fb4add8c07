"""Turns what was measured into a record."""

from __future__ import annotations

import platform
import re
import resource
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import benchmark
from benchmark import metrics
from benchmark.classifier import tensors_sha256
from benchmark.games.detectability.play import Scan, reversed_success
from benchmark.games.detectability.record import DetectabilityRecord, Found
from benchmark.games.evaluation import AnswerKey
from benchmark.games.inversion.record import InversionRecord
from benchmark.games.robustness.play import Outcome
from benchmark.games.robustness.record import Guard, Metrics, Point, RobustnessRecord
from benchmark.protocol import Protocol
from benchmark.records.cell import Cell
from benchmark.records.record import MESSAGE_LIMIT, Cost, Error, Evidence, ProtocolRef, Rate, Record


@dataclass(frozen=True)
class About:
    """What a record is about, however the cell went."""

    protocol: Protocol
    cell: Cell
    target: int
    data_sha256: str
    device: torch.device

    def fields(
        self,
        seconds: float,
        facts: dict[str, Any] | None = None,
        defense_seconds: float | None = None,
    ) -> dict[str, Any]:
        """What the records of all games say.

        Args:
            seconds: wall-clock time of the cell.
            facts: those that were saved with the victim, where it could be trained.
            defense_seconds: what the defense took of them.
        """
        victim = self.cell.victim
        return {
            "key": self.cell.key,
            "protocol": protocol_ref(self.protocol, victim.recipe),
            "game": self.cell.game,
            "attack": victim.attack,
            "defense": self.cell.defense,
            "trusted_share": self.cell.trusted_share,
            "seed": victim.seed,
            "target": self.target,
            "data_sha256": self.data_sha256,
            "cost": Cost(
                seconds=round(seconds, 3),
                defense_seconds=None if defense_seconds is None else round(defense_seconds, 3),
                victim_seconds=None if facts is None else round(facts["seconds"], 3),
                peak_memory_mb=round(_peak_memory_mb(self.device), 1),
                device=_device_name(self.device),
            ),
            "env": environment(),
        } | ({} if facts is None else {"victim_sha256": facts["model_sha256"]})


def measured(
    about: About,
    outcome: Outcome,
    evidence: Evidence,
    *,
    undefended: dict[str, Any],
    trained: dict[str, Any],
    seconds: float,
) -> RobustnessRecord:
    """The record of a robustness cell that was played.

    Args:
        undefended: facts that were saved with the undefended victim.
        trained: facts of the victim that the defense worked on: the same one, unless a
            sanitizer cleaned its training data.
        seconds: wall-clock time of the cell.
    """
    budget, key = about.protocol.robustness.budget, outcome.key
    others = key.test != key.target
    guard = None
    if outcome.suspicion is not None and len(triggered := outcome.suspicion[1]) and others.any():
        auc, far = metrics.guard_quality(outcome.suspicion[0], triggered[others])
        guard = Guard(auc=auc, far_at_1_frr=Rate.of(far))
    reason = distrust(outcome, undefended)
    clean_hits = trained["asr_clean_model"]
    seconds_of_defense = outcome.seconds if about.cell.trusted_share is not None else None
    found = about.fields(seconds, trained, seconds_of_defense) | {
        "curve": tuple(Point.of(point) for point in outcome.curve),
        "model_sha256": tensors_sha256(outcome.model.state_dict()),
        "evidence": evidence,
        "status": "invalid" if reason else "ok",
        "reason": reason,
        "metrics": Metrics(
            paper=Point.of(metrics.lowest_asr(outcome.curve, budget)),
            deployable=Point.of(metrics.deployable(outcome.curve, budget)),
            before=Point.of(outcome.curve[0]),
            asr_clean_model=clean_hits and Rate.of(metrics.Rate(*clean_hits)),
            target_confidence=trained["target_confidence"],
            guard=guard,
        ),
    }
    return RobustnessRecord(**found)


def examined(
    about: About,
    scans: Sequence[Scan],
    key: AnswerKey,
    evidence: Evidence,
    *,
    facts: dict[str, Any],
    seconds: float,
) -> DetectabilityRecord:
    """The record of a suspect that was examined.

    Args:
        facts: those that were saved with the suspect.
        seconds: wall-clock time of the cell.
    """
    return DetectabilityRecord(
        **about.fields(seconds, facts, sum(scan.seconds for scan in scans) / len(scans)),
        scans=tuple(_found(scan, key) for scan in scans),
        evidence=evidence,
        status="ok",
    )


def _found(scan: Scan, key: AnswerKey) -> Found:
    detection = scan.detection
    trigger = detection.trigger
    success = reasr = None
    if scan.reversed_answers is not None:
        success, reasr = (*map(Rate.of, reversed_success(scan.reversed_answers, key)), None)[:2]
    scores = [float(score) for score in detection.class_scores]
    return Found(
        score=float(detection.score),
        class_scores=tuple(scores),
        guess=int(np.argmax(scores)),
        flagged=None if detection.flagged is None else bool(detection.flagged),
        also={name: float(value) for name, value in detection.also.items()},
        norms=None if trigger is None else tuple(float(norm) for norm in trigger.norms),
        success=success,
        reasr=reasr,
        seconds=round(scan.seconds, 3),
    )


def failed(about: About, error: Error, seconds: float) -> Record:
    """The record of a cell that a plugin's error ended."""
    kinds: dict[str, Callable[..., Record]] = {
        "robustness": RobustnessRecord,
        "detectability": DetectabilityRecord,
        "inversion": InversionRecord,
    }
    found = about.fields(seconds) | {"status": "failed", "error": error}
    return kinds[about.cell.game](**found)


def protocol_ref(protocol: Protocol, recipe: str) -> ProtocolRef:
    return ProtocolRef(name=protocol.name, sha256=protocol.sha256, recipe=recipe)


def distrust(outcome: Outcome, facts: dict[str, Any]) -> str | None:
    """The sanity gate: a reason to distrust what was measured, or None.

    Args:
        facts: what the victim answered before it was saved and loaded again.
    """
    before = outcome.curve[0]
    again = int(np.sum(outcome.answers[0].triggered == outcome.key.target))
    if reason := distrust_victim(before.cda, outcome.key.test, again, facts):
        return reason
    if any(not bool(tensor.isfinite().all()) for tensor in outcome.model.state_dict().values()):
        return "the measured model has weights that are not finite"
    return None


def distrust_victim(
    cda: metrics.Rate, labels: metrics.Labels, target_hits: int, facts: dict[str, Any]
) -> str | None:
    """A reason to distrust a victim that was loaded again, or None.

    Args:
        cda, labels: its accuracy on test images, and their true classes.
        target_hits: its target answers to the triggered test images.
        facts: what it answered before it was saved.
    """
    if metrics.near_chance(cda, labels):
        return f"the victim's clean accuracy {cda.value:.3f} is near chance"
    if (cda.hits, target_hits) != (facts["test_hits"], facts["target_hits"]):
        return (
            f"the saved victim does not reproduce its numbers: {cda.hits} right and "
            f"{target_hits} target answers, {facts['test_hits']} and {facts['target_hits']} "
            "before it was saved"
        )
    return None


def describe(error: Exception) -> Error:
    """What was raised, and in which line, in characters that a record may have."""
    message = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))", "", str(error))
    plain = "".join(c if c.isprintable() or c in "\n\t" else " " for c in message)
    frames, where = traceback.extract_tb(error.__traceback__), ""
    if frames:
        # Code without a file is called <string>, which would be markup.
        file = re.sub(r"[^\w.-]", "_", Path(frames[-1].filename).name.strip("<>"))
        where = f"{file}:{frames[-1].lineno}"
    return Error(kind=type(error).__name__, message=plain[:MESSAGE_LIMIT], where=where)


def evidence_of(
    outcome: Outcome, trained: Mapping[str, torch.Tensor], examples: torch.Tensor | None
) -> dict[str, np.ndarray]:
    """Predictions at every point of the curve, with the labels to judge them by.

    Args:
        trained: what was saved of the victim's answers.
        examples: uint8 (2, E, C, H, W), test images without and with the trigger.
    """
    arrays: dict[str, np.ndarray] = {
        "labels_held_out": outcome.key.held_out,
        "labels_test": outcome.key.test,
        "target": np.array(outcome.key.target, np.int16),
    }
    for part in ("held_out", "test", "triggered"):
        arrays[part] = np.stack([getattr(answers, part) for answers in outcome.answers])
    # Half precision: a mean of thousands keeps four digits, and the files stay small.
    arrays["confidence"] = _array(trained["confidence"]).astype(np.float16)
    arrays["clean_model"] = trained["clean_model"].numpy()
    if examples is not None:
        arrays["examples"] = examples.cpu().numpy()
    if outcome.suspicion is not None:
        arrays["suspicion_test"], arrays["suspicion_triggered"] = outcome.suspicion
    return arrays


def evidence_of_scans(scans: Sequence[Scan], key: AnswerKey) -> dict[str, np.ndarray]:
    """Scores, decisions (-1: none) and norms of every scan, reversed triggers, and answers.

    Triggers are those for the target and for the guess. They are kept as bytes, `low` and
    `high` saying what 0 and 255 stand for.
    """
    arrays: dict[str, np.ndarray] = {
        "labels_test": key.test,
        "target": np.array(key.target, np.int16),
        "scores": np.array([scan.detection.score for scan in scans], np.float64),
        "class_scores": np.stack([_array(scan.detection.class_scores) for scan in scans]),
        "flagged": np.array(
            [-1 if scan.detection.flagged is None else scan.detection.flagged for scan in scans],
            np.int8,
        ),
    }
    for name in scans[0].detection.also:
        arrays[f"also_{name}"] = np.array([scan.detection.also[name] for scan in scans], np.float64)
    triggers = [scan.detection.trigger for scan in scans if scan.detection.trigger is not None]
    if len(triggers) == len(scans):
        guesses = [int(scan.detection.class_scores.argmax()) for scan in scans]
        arrays["norms"] = np.stack([_array(trigger.norms) for trigger in triggers])
        for name in triggers[0].pictures:
            shown = [
                _array(trigger.pictures[name][[key.target, guess]])
                for trigger, guess in zip(triggers, guesses, strict=True)
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


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array


def environment() -> dict[str, str]:
    """Versions of what ran."""
    return {
        "poisongames": benchmark.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} thread"
