"""The numbers of a robustness record, made of its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmark import metrics
from benchmark.games.answers import Answers, Labels
from benchmark.games.base import Arrays
from benchmark.games.robustness.curve import Point, deployable, lowest_asr
from benchmark.games.robustness.record import Guard, Metrics
from benchmark.games.shapes import source_of


def score(evidence: Arrays, points: Sequence[tuple[str, int]], budget: float) -> dict[str, Any]:
    """The curve from predictions, and both readings from the curve.

    Args:
        evidence: `labels_held_out` (H,), `labels_test` (N,) and `target`; `held_out`, `test` and
            `triggered`, answers (points, images), the last without images for a clean model;
            `source`, the only class that the attack is for, where there is one; `confidence`,
            the victim's in the target on the triggered images that the ASR counts;
            `clean_model` (N,), the clean model's answers to triggered images; of a guard
            `suspicion_test` and `suspicion_triggered` (N,); of a victim that was followed
            `epochs_test` and `epochs_triggered`, answers (epochs, images).
        points: stage and step of each point.
        budget: accuracy that a defense may cost, as a share.
    """
    target, test = int(evidence["target"]), evidence["labels_test"]
    source = source_of(evidence)
    labels = Labels(evidence["labels_held_out"], test, target, source)
    answers = [
        Answers(evidence["held_out"][n], evidence["test"][n], evidence["triggered"][n])
        for n in range(len(points))
    ]
    curve = tuple(
        Point.of(labels, own, stage, step, answers[0])
        for own, (stage, step) in zip(answers, points, strict=True)
    )
    poisoned = bool(len(answers[0].triggered))
    clean, confidence = evidence["clean_model"], evidence["confidence"]
    found = Metrics(
        paper=lowest_asr(curve, budget),
        deployable=deployable(curve, budget),
        before=curve[0],
        asr_clean_model=(metrics.attack_success(clean, test, target, source) if poisoned else None),
        target_confidence=float(confidence.mean(dtype=np.float64)) if len(confidence) else None,
        guard=_guard(evidence, metrics.attacked(test, target, source)) if poisoned else None,
    )
    return {"curve": curve, "epochs": _epochs(evidence, labels, answers[0]), "metrics": found}


def _epochs(evidence: Arrays, labels: Labels, victim: Answers) -> tuple[Point, ...]:
    """A point for each epoch of a victim that was followed; of others there is none."""
    if "epochs_test" not in evidence:
        return ()
    rows = zip(evidence["epochs_test"], evidence["epochs_triggered"], strict=True)
    return tuple(
        Point.of(labels, Answers(victim.held_out, *row), "train", epoch, victim)
        for epoch, row in enumerate(rows, start=1)
    )


def _guard(evidence: Arrays, counted: metrics.Labels) -> Guard | None:
    """Quality of a guard's score on images that the ASR counts; None where no guard met any."""
    if "suspicion_test" not in evidence or not counted.any():
        return None
    triggered = evidence["suspicion_triggered"][counted]
    auc, far = metrics.guard_quality(evidence["suspicion_test"], triggered)
    return Guard(auc=auc, far_at_1_frr=far)
