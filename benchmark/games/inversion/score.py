"""The numbers of an inversion record, made of its evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.games.base import Arrays
from benchmark.games.inversion.record import Inverted, Smoothed, Swept, Tried
from benchmark.games.shapes import source_of, unpacked
from benchmark.metrics import Rate, attacked

#: A true trigger on more than this share of an image leaves no pixel to tell it from.
MOST_COVERED = 0.5

Run = tuple[Mapping[str, float], int]


def score(evidence: Arrays, runs: Sequence[Run], radii: Sequence[float | None]) -> dict[str, Any]:
    """Successes of every run and class from bits, fidelity from the inverted images.

    Args:
        evidence: see `benchmark.games.inversion.evidence.arrays`.
        runs: parameters and number of the restart of each.
        radii: that all classes were tried at, None for an inverter's own.
    """
    target, scale = int(evidence["target"]), float(evidence["scale"])
    source = source_of(evidence)
    labels = evidence["labels_evaluation"]
    others = attacked(labels, target, source)
    selecting = attacked(evidence["labels_selection"], target, source)
    selection_hits = unpacked(evidence, "selection", len(selecting))
    selection = selection_hits[:, :, selecting].sum(2)
    evaluation = unpacked(evidence, "evaluation", len(labels))[:, :, others].sum(2)
    first = [number for number, (_, restart) in enumerate(runs) if not restart]
    chosen = [first[number] for number in best(selection_hits[first], selecting)]
    classes = unpacked(evidence, "classes", len(labels))
    restricted = unpacked(evidence, "restricted", len(labels)) if "restricted" in evidence else None
    clean = unpacked(evidence, "on_clean_model", len(labels))
    return {
        "scale": scale,
        "selection": int(selecting.sum()),
        "evaluation": int(others.sum()),
        "tried": tuple(
            Tried(
                params=dict(params),
                restart=restart,
                selection=tuple(selection[number].tolist()),
                evaluation=tuple(evaluation[number].tolist()),
            )
            for number, (params, restart) in enumerate(runs)
        ),
        "starts": tuple(
            Inverted(
                label=int(evidence["labels_starts"][row]),
                chosen=number,
                **_fidelity(evidence, row, scale),
                overlap=None if restricted is None else _overlap(evidence, row),
                reasr=None if restricted is None else _rate(restricted[row, others]),
                on_clean_model=_rate(clean[row, others]),
            )
            for row, number in enumerate(chosen)
        ),
        "swept": tuple(
            Swept(
                radius=radius,
                classes=tuple(
                    tuple(
                        _rate(hits[others if label == target else labels != label])
                        for label, hits in enumerate(start)
                    )
                    for start in classes[number]
                ),
            )
            for number, radius in enumerate(radii)
        ),
        "smoothed": tuple(
            Smoothed(
                sigma=float(sigma),
                clean=_rate(plain == labels),
                asr=_rate(triggered[others] == target),
                untriggered=_rate(plain[others] == target),
            )
            for sigma, (plain, triggered) in zip(
                evidence.get("sigmas", ()), evidence.get("smoothed", ()), strict=True
            )
        ),
    }


def best(hits: NDArray[np.bool_], selecting: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each start image the run that works best on the selection images, the first of equals.

    Args:
        hits: (runs, starts, images), which images get the target.
        selecting: (images,), those that the ASR counts.
    """
    numbers: NDArray[np.int64] = hits[:, :, selecting].sum(2).argmax(0)
    return numbers


def _rate(hits: NDArray[np.bool_]) -> Rate:
    return Rate(int(hits.sum()), len(hits))


def _fidelity(evidence: Arrays, row: int, scale: float) -> dict[str, float]:
    """L2 distance of the inverted from the truly triggered start image, and norm of what the
    reversed trigger changes on the start image, as shares of the true trigger's scale."""
    begin, inverted, triggered = (
        evidence[name][row].astype(np.float64) / 255 for name in ("starts", "inverted", "triggered")
    )
    gap, change = np.linalg.norm(inverted - triggered), np.linalg.norm(inverted - begin)
    return {"distance": float(gap) / scale, "norm": float(change) / scale}


def _overlap(evidence: Arrays, row: int) -> float | None:
    """Intersection over union of the pixels that the true trigger changes on the start image and
    as many that the reversed one changes most; None where the former are none.

    A pixel counts with its largest channel, not at all where nothing changes; of equals those
    that come first count.
    """
    begin, inverted, triggered = (
        evidence[name][row].astype(np.int16) for name in ("starts", "inverted", "triggered")
    )
    mask, strength = (triggered != begin).any(0).ravel(), np.abs(inverted - begin).max(0).ravel()
    if not mask.any():
        return None
    most = np.argsort(-strength, kind="stable")[: mask.sum()]
    changed = np.zeros_like(mask)
    changed[most[strength[most] > 0]] = True
    return float((changed & mask).sum() / (changed | mask).sum())


def covers(evidence: Arrays) -> bool:
    """Whether the true trigger covers so much of the images that its pixels say nothing."""
    pixels = math.prod(evidence["starts"].shape[2:])
    return bool(unpacked(evidence, "masks", pixels).mean() > MOST_COVERED)
