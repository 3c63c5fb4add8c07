"""Examinations that failed: the detector was then wrong about the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from benchmark.games.detectability.record import DetectabilityRecord, Found
from benchmark.games.means import attack_key, defense_key
from benchmark.records.record import Record


def worst_cases(
    unfinished: Sequence[DetectabilityRecord], measured: Sequence[Record]
) -> Iterator[DetectabilityRecord]:
    """Examinations that failed, with a poisoned model below and a clean one above all others.

    A poisoned model that could not be had is found: the attack failed. What readings there are is
    taken from the same detector's other examinations; without any there is no row either, nor is
    there one for an attack of which no model could be had.
    """
    trained = {(*attack_key(one), one.seed) for one in measured if not one.defense.stages}
    attacks = {model[:-1] for model in trained}
    like = {defense_key(one): one for one in measured if isinstance(one, DetectabilityRecord)}
    for record in unfinished:
        other = like.get(defense_key(record))
        there = (*attack_key(record), record.seed) in trained
        known = there or (not record.attack.clean and attack_key(record) in attacks)
        if other is not None and known:
            scans = tuple(_said(scan, record, found=not there) for scan in other.scans)
            yield record.model_copy(update={"scans": scans})


def _said(scan: Found, record: DetectabilityRecord, found: bool) -> Found:
    """An answer that is as wrong as can be, or right about a poisoned model."""
    clean, classes = record.attack.clean, len(scan.class_scores)
    score = inf if clean or found else -inf
    return scan.model_copy(
        update={
            "score": score,
            "class_scores": (score,) * classes,
            "guess": record.target if found else (record.target + 1) % classes,
            "flagged": None if scan.flagged is None else clean or found,
            "also": dict.fromkeys(scan.also, score),
            "norms": None,
            "success": None,
            "reasr": None,
        }
    )
