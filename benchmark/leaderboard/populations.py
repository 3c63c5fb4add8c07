"""Data frames of the detectability game: detectors over populations, norms and curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark import metrics
from benchmark.leaderboard.rows import Examined
from benchmark.leaderboard.tables import Namer, attack_columns, mean_columns
from benchmark.protocol import named_seed
from benchmark.runs.record import NONE

#: The detector's own score; others are readings of the same examinations.
SCORE = "score"

_Pair = tuple[Examined, Examined]


def populations(records: Sequence[Examined]) -> list[list[_Pair]]:
    """Pairs (clean, poisoned) of examined models of the same seed, per attack, m and detector."""
    clean = {
        (_detector(record), record.seed): record
        for record in records
        if record.attack.threat == NONE
    }
    groups: defaultdict[tuple[Any, ...], list[_Pair]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.seed):
        partner = clean.get((_detector(record), record.seed))
        if record.attack.threat != NONE and partner is not None:
            attack = record.attack
            key = (*_detector(record)[:1], attack.label, attack.m, attack.boost)
            groups[(*key, *_detector(record)[1:])].append((partner, record))
    return [groups[key] for key in sorted(groups)]


def _detector(record: Examined) -> tuple[str, str, float]:
    return record.recipe, record.defense.stages[0].label, record.trusted_share or 0.0


def detectability(records: Sequence[Examined], name: Namer) -> pd.DataFrame:
    """One row per attack, m, detector and reading of its scores."""
    rows = []
    for pairs in populations(records):
        first = pairs[0][1]
        attack, detector = first.attack, first.defense.stages[0]
        seeds = (first.protocol, attack.label, attack.m, detector.label)
        common = attack_columns(first, name) | {
            "detector": name(detector),
            "trusted_share": first.trusted_share,
        }
        for reading in (SCORE, *sorted(first.scans[0].also)):
            clean, poisoned = (_scores(column, reading) for column in zip(*pairs, strict=True))
            found = metrics.separation(clean, poisoned, named_seed(*seeds[:1], "auc", *seeds[1:]))
            row = common | {
                "reading": reading,
                "models": len(pairs),
                "repeats": clean.shape[1],
                "auc": found.auc,
                "auc_low": found.low,
                "auc_high": found.high,
                "average_precision": found.precision,
            }
            # What follows belongs to the examination, not to a reading of its score.
            rows.append(row | (_examinations(pairs, seeds) if reading == SCORE else {}))
    return pd.DataFrame(rows)


def _scores(records: Sequence[Examined], reading: str) -> np.ndarray:
    return np.array(
        [
            [scan.score if reading == SCORE else scan.also[reading] for scan in record.scans]
            for record in records
        ]
    )


def _examinations(pairs: Sequence[_Pair], seeds: tuple[Any, ...]) -> dict[str, float]:
    """Native decisions, guesses of the target, reversed triggers and seconds."""
    right, game, hits = [], [], []
    for clean, poisoned in pairs:
        answers = [
            (before.flagged, after.flagged)
            for before, after in zip(clean.scans, poisoned.scans, strict=True)
            if before.flagged is not None and after.flagged is not None
        ]
        right.append(metrics.Rate(sum((not a) + bool(b) for a, b in answers), 2 * len(answers)))
        coins = [
            named_seed(seeds[0], "coin", *seeds[1:], poisoned.seed, repeat) % 2
            for repeat in range(len(answers))
        ]
        won = sum(
            after if coin else not before
            for coin, (before, after) in zip(coins, answers, strict=True)
        )
        game.append(metrics.Rate(won, len(answers)))
        guesses = [scan.guess for scan in poisoned.scans]
        hits.append(metrics.Rate(guesses.count(poisoned.target), len(guesses)))
    poisoned_scans = [scan for _, record in pairs for scan in record.scans]
    return (
        mean_columns("native_accuracy", right)
        | mean_columns("coin_game", game)
        | mean_columns("target_found", hits)
        | {
            "reversed_asr": _mean([scan.success for scan in poisoned_scans]),
            "reasr": _mean([scan.reasr for scan in poisoned_scans]),
            "seconds": _mean([scan.seconds for scan in poisoned_scans]),
        }
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def norms(records: Sequence[Examined], name: Namer) -> pd.DataFrame:
    """Mean L1 norm of the reversed trigger per population and scanned class (Li et al.)."""
    groups: defaultdict[tuple[Any, ...], list[Examined]] = defaultdict(list)
    for record in records:
        if record.scans[0].norms is not None:
            attack = record.attack
            key = (*_detector(record), attack.threat != NONE, attack.label, attack.m, attack.boost)
            groups[key].append(record)
    rows = []
    for key in sorted(groups):
        first = groups[key][0]
        scans = [scan for record in groups[key] for scan in record.scans]
        found = [scan.norms for scan in scans if scan.norms is not None]
        per_class = np.stack(found).mean(0, dtype=np.float64)
        rows.append(
            {"detector": name(first.defense.stages[0])}
            | attack_columns(first, name)
            | {"models": len(groups[key])}
            | {f"class_{label}": norm for label, norm in enumerate(per_class)}
        )
    return pd.DataFrame(rows)


def curves(victims: pd.DataFrame, detectors: pd.DataFrame) -> pd.DataFrame:
    """ASR before any defense beside AUC, over m (Pick your Poison, Fig. 5)."""
    if detectors.empty:
        return detectors
    keys = ["attack", "m", "boost", "recipe"]
    own = detectors[detectors.reading == SCORE]
    wanted = [*keys, "threat", "detector", "auc", "auc_low", "auc_high"]
    asr = victims[[*keys, "asr", "asr_low", "asr_high"]]
    return own[wanted].merge(asr, on=keys, how="left")
