"""Data frames of the detectability game: detectors over populations, norms and curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark import metrics
from benchmark.leaderboard.costs import false_alarms
from benchmark.leaderboard.rows import Examined
from benchmark.leaderboard.tables import KEYS, Namer, attack_columns, average, mean_columns
from benchmark.protocol import named_seed
from benchmark.records.record import NONE

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
    """One row per attack, m, detector and reading of its scores.

    Two columns know what no detector does: `oracle_auc` is the AUC of the score of the attack's
    own target, on the clean model of the same seed that of the same class; `best_accuracy` takes
    the threshold that is best for these very models.
    """
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
            row = (
                common
                | {
                    "reading": reading,
                    "models": len(pairs),
                    "repeats": clean.shape[1],
                    "auc": found.auc,
                    "auc_low": found.low,
                    "auc_high": found.high,
                    "average_precision": found.precision,
                    "average_precision_low": found.precision_low,
                    "average_precision_high": found.precision_high,
                }
                | _best_accuracy(clean, poisoned)
            )
            # What follows belongs to the examination, not to a reading of its score.
            rows.append(
                row
                | (_oracle(pairs, seeds) | _examinations(pairs, seeds) if reading == SCORE else {})
            )
    return pd.DataFrame(rows)


def _oracle(pairs: Sequence[_Pair], seeds: tuple[Any, ...]) -> dict[str, float]:
    """AUC of the score of the class that was the target in each pair."""
    clean, poisoned = (
        np.array(
            [[scan.class_scores[pair[1].target] for scan in pair[side].scans] for pair in pairs]
        )
        for side in (0, 1)
    )
    found = metrics.separation(clean, poisoned, named_seed(seeds[0], "oracle", *seeds[1:]))
    return {"oracle_auc": found.auc, "oracle_auc_low": found.low, "oracle_auc_high": found.high}


def _best_accuracy(clean: np.ndarray, poisoned: np.ndarray) -> dict[str, float]:
    """Accuracy at the one threshold that is best for these scores (models, repeats).

    At or above it a model is called poisoned; its interval takes the threshold for given.
    """
    thresholds = np.r_[np.unique(np.r_[clean, poisoned]), np.inf]
    right = [np.sum(poisoned >= t) + np.sum(clean < t) for t in thresholds]
    best = thresholds[int(np.argmax(right))]
    hits = (poisoned >= best).sum(1) + (clean < best).sum(1)
    return mean_columns(
        "best_accuracy", (metrics.Rate(int(own), 2 * clean.shape[1]) for own in hits)
    )


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
        | false_alarms(clean for clean, _ in pairs)
        | mean_columns("coin_game", game)
        | mean_columns("target_found", hits)
        | {
            "reversed_asr": average(scan.success for scan in poisoned_scans),
            "reasr": average(scan.reasr for scan in poisoned_scans),
            "seconds": average(scan.seconds for scan in poisoned_scans),
        }
    )


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


def class_scores(records: Sequence[Examined], name: Namer) -> pd.DataFrame:
    """Mean score of every class on clean models, and on poisoned ones when it is the target and
    when it is not (Fig. 9 of Pick your Poison); NaN where it never is.

    Returns:
        One row per population and class; `targets` of its `models` have the class for target.
    """
    rows = []
    for pairs in populations(records):
        first = pairs[0][1]
        # (models, classes), over repeats
        clean, poisoned = (
            np.array([np.mean([s.class_scores for s in r.scans], 0, np.float64) for r in column])
            for column in zip(*pairs, strict=True)
        )
        target = np.array([record.target for _, record in pairs])
        common = {"detector": name(first.defense.stages[0]), "trusted_share": first.trusted_share}
        for label in range(clean.shape[1]):
            own = target == label
            rows.append(
                common
                | attack_columns(first, name)
                | {"class": label, "models": len(pairs), "targets": int(own.sum())}
                | {"score_clean": float(clean[:, label].mean())}
                | {"score_target": average(poisoned[own, label])}
                | {"score_other": average(poisoned[~own, label])}
            )
    return pd.DataFrame(rows)


def curves(victims: pd.DataFrame, detectors: pd.DataFrame) -> pd.DataFrame:
    """ASR before any defense beside AUC, over m (Pick your Poison, Fig. 5)."""
    if detectors.empty:
        return detectors
    own = detectors[detectors.reading == SCORE]
    wanted = [*KEYS, "threat", "worked", "detector", "auc", "auc_low", "auc_high"]
    asr = victims[[*KEYS, "asr", "asr_low", "asr_high"]]
    return own[wanted].merge(asr, on=KEYS, how="left")
