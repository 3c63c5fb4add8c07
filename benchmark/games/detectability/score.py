"""The numbers of a detectability record, made of its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmark import metrics
from benchmark.games.base import Arrays
from benchmark.games.detectability.record import Found
from benchmark.games.shapes import source_of


def score(evidence: Arrays, seconds: Sequence[float]) -> dict[str, Any]:
    """Scores, decisions and guesses as they were returned, and reversed triggers' success.

    Args:
        evidence: of R examinations `scores` and `flagged` (R,), -1 for no decision;
            `class_scores` and perhaps `norms` (R, K); `also_NAME` (R,); perhaps
            `reversed_answers` (R, 1 or 2, N), see `benchmark.games.detectability.play.Scan`;
            `labels_test` (N,) and `target`, and `source` where the attack is for one class.
        seconds: what each took.
    """
    return {"scans": tuple(_found(evidence, n, taken) for n, taken in enumerate(seconds))}


def _found(evidence: Arrays, number: int, seconds: float) -> Found:
    rates: list[metrics.Rate] = []
    if "reversed_answers" in evidence:
        labels, target = evidence["labels_test"], int(evidence["target"])
        source = source_of(evidence)
        answers = evidence["reversed_answers"][number]
        rates = [metrics.attack_success(row, labels, target, source) for row in answers]
    success, reasr = (*rates, None, None)[:2]
    scores, flagged = evidence["class_scores"][number], int(evidence["flagged"][number])
    also = sorted(name for name in evidence if name.startswith("also_"))
    return Found(
        score=float(evidence["scores"][number]),
        class_scores=tuple(scores.tolist()),
        guess=int(np.argmax(scores)),
        flagged=None if flagged < 0 else bool(flagged),
        also={name.removeprefix("also_"): float(evidence[name][number]) for name in also},
        norms=tuple(evidence["norms"][number].tolist()) if "norms" in evidence else None,
        success=success,
        reasr=reasr,
        seconds=seconds,
    )
