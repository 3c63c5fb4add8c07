"""Tables of the detectability game: detectors over populations, scores and norms of classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.games.columns import (
    ATTACK,
    FAILED,
    HANDED_IN,
    KEYS,
    TRUSTED,
    WORKED,
    Column,
    Unit,
    attack_label,
)
from benchmark.games.detectability.classes import (
    DETECTOR,
    FRAMES,
    MODELS,
    Pair,
    populations,
    readings,
    scores_of_classes,
)
from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.games.detectability.shown import DETECTORS, SCORE, scored, verdict
from benchmark.games.detectability.trend import FRAME as TREND
from benchmark.games.detectability.worst import worst_cases
from benchmark.games.frames import Chapter, Frame, Grid, Line, Plot, Sources
from benchmark.games.means import attack_columns, average, judged, mean_columns, unplayed
from benchmark.protocol import named_seed


def detectability(sources: Sources) -> pd.DataFrame:
    """One row per attack, m, detector and reading of its scores.

    Some columns know what no detector does: `oracle_auc` is the AUC of the score of the attack's
    own target, on the clean model of the same seed that of the same class, and `target_score` its
    mean; `best_accuracy` takes the threshold that is best for these very models.
    """
    rows = []
    for pairs in populations(sources.counted(DetectabilityRecord)):
        first = pairs[0][1]
        attack, detector = first.attack, first.defense.stages[0]
        seeds = (first.protocol.name, attack.label, attack.m, detector.label)
        common = attack_columns(first, sources.name) | {
            "detector": sources.name(detector),
            "trusted_share": first.trusted_share,
        }
        for reading in (SCORE, *readings(one for pair in pairs for one in pair)):
            clean, poisoned = (_scores(column, reading) for column in zip(*pairs, strict=True))
            found = metrics.separation(clean, poisoned, named_seed(*seeds[:1], "auc", *seeds[1:]))
            row = (
                common
                | {
                    "reading": reading,
                    "models": len(pairs),
                    "failed": sum(unplayed(pair) > 0 for pair in pairs),
                    "repeats": clean.shape[1],
                    "auc": found.auc,
                    "auc_low": found.low,
                    "auc_high": found.high,
                    "average_precision": found.precision,
                    "average_precision_low": found.precision_low,
                    "average_precision_high": found.precision_high,
                }
                | sources.handed_in(one for pair in pairs for one in pair)
                | _best_accuracy(clean, poisoned)
            )
            # What follows belongs to the examination, not to a reading of its score.
            own = _oracle(pairs, seeds) | _examinations(pairs, seeds) if reading == SCORE else {}
            rows.append(row | own)
    return judged(pd.DataFrame(rows), sources.frames["victims"])


def _scores(records: Sequence[DetectabilityRecord], reading: str) -> NDArray[np.float64]:
    """(models, repeats)."""
    return np.array(
        [
            [scan.score if reading == SCORE else scan.also[reading] for scan in record.scans]
            for record in records
        ]
    )


def _oracle(pairs: Sequence[Pair], seeds: tuple[Any, ...]) -> dict[str, float]:
    """AUC of the score of the class that was the target in each pair; means without failed ones."""
    clean, poisoned = (
        np.array([scores_of_classes(pair[side])[:, pair[1].target] for pair in pairs])
        for side in (0, 1)
    )
    found = metrics.separation(clean, poisoned, named_seed(seeds[0], "oracle", *seeds[1:]))
    return {
        "oracle_auc": found.auc,
        "oracle_auc_low": found.low,
        "oracle_auc_high": found.high,
        "target_score": average(poisoned[np.isfinite(poisoned)].tolist()),
        "target_score_clean": average(clean[np.isfinite(clean)].tolist()),
    }


def _best_accuracy(clean: NDArray[Any], poisoned: NDArray[Any]) -> dict[str, float]:
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


def _examinations(pairs: Sequence[Pair], seeds: tuple[Any, ...]) -> dict[str, float]:
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
    scans = [scan for _, record in pairs for scan in record.scans]
    return (
        mean_columns("native_accuracy", right)
        | false_alarms(clean for clean, _ in pairs)
        | mean_columns("coin_game", game)
        | mean_columns("target_found", hits)
        | {
            "reversed_asr": average(scan.success.value for scan in scans if scan.success),
            "reasr": average(scan.reasr.value for scan in scans if scan.reasr),
            "seconds": average(
                scan.seconds
                for pair in pairs
                for one in pair
                if one.status == "ok"
                for scan in one.scans
            ),
        }
    )


def false_alarms(clean: Iterable[DetectabilityRecord]) -> dict[str, float]:
    """How often a detector flags clean models at its native threshold, with an interval."""
    answers = [[scan.flagged for scan in one.scans if scan.flagged is not None] for one in clean]
    return mean_columns("false_alarms", (metrics.Rate(sum(own), len(own)) for own in answers))


def curves(sources: Sources) -> pd.DataFrame:
    """ASR before any defense beside AUC, over m (Pick your Poison, Fig. 5)."""
    detectors = sources.frames[DETECTORS]
    if detectors.empty:
        return detectors
    own = detectors[detectors.reading == SCORE]
    wanted = [*KEYS, "threat", "worked", "detector", "auc", "auc_low", "auc_high"]
    asr = sources.frames["victims"][[*KEYS, "asr", "asr_low", "asr_high"]]
    return own[wanted].merge(asr, on=KEYS, how="left")


HOW = """\
A population has as many clean as poisoned models, whose targets differ. A detector sees one model
and the trusted images; it is told nothing else. ROC AUC is the chance that it finds a poisoned
model more suspicious than a clean one, averaged over repetitions with other trusted images and
randomness: 1 finds all, 0.5 is guessing. Its brackets are 95 % intervals, the wider of a bootstrap
over pairs of models, repetitions kept together, and Newcombe's score interval."""

DETECTABILITY = """\
ROC AUC of every detector against every attack. Low is good for the attacker. ‡ the attack did not
work undefended, so that there is nothing to find. (9 of 10) of one pair of models an examination
failed; the detector counts as wrong about it.

An oracle knows what nobody is told. Where the AUC of the target is high and the AUC is not, the
attack shows but other classes hide it. A reading other than "score" is another published score of
the same examinations."""

CURVES = "How well attacks work, and how well they are found, over the number of poisoned images."

_AUC = Column("auc", "AUC", Unit.AREA, "ROC AUC", interval=True, brief=True, favours="defender")
COLUMNS = (
    *ATTACK,
    DETECTOR,
    TRUSTED,
    Column("reading", "reading", Unit.TEXT, "which score of the examination", brief=True,
           menu=True),
    WORKED,
    MODELS,
    FAILED,
    *HANDED_IN,
    Column("repeats", "repeats", Unit.COUNT, "examinations of each model"),
    _AUC,
    Column("average_precision", "AP", Unit.AREA, "average precision", interval=True),
    Column("oracle_auc", "AUC of the target (oracle)", Unit.AREA,
           "ROC AUC of the score of the true target alone", interval=True, brief=True),
    Column("target_score", "score of the target", Unit.NUMBER,
           "mean score of the true target on poisoned models"),
    Column("target_score_clean", "the same on clean models", Unit.NUMBER,
           "mean score of these classes on clean models"),
    Column("target_found", "target found", Unit.RATE,
           "how often the class that the detector suspects most is the target",
           interval=True, brief=True),
    Column("native_accuracy", "native accuracy", Unit.RATE,
           "how often the detector's own yes or no is right", interval=True),
    Column("best_accuracy", "best accuracy (oracle)", Unit.RATE,
           "likewise at the threshold that is best for these very models", interval=True),
    Column("false_alarms", "false alarms", Unit.RATE,
           "how often the detector's own answer to a clean model is yes", interval=True),
    Column("coin_game", "coin game", Unit.RATE,
           "Alg. 2 of Pick your Poison, played with seeded coins", interval=True),
    Column("reversed_asr", "reversed ASR", Unit.RATE,
           "what the trigger reversed for the true target does to test images"),
    Column("reasr", "ReASR", Unit.RATE, "the same on the true trigger's pixels only"),
    Column("seconds", "seconds", Unit.SECONDS, "of one examination"),
)  # fmt: skip

CHAPTER = Chapter(
    "Detectability",
    (
        Frame(
            DETECTORS,
            "Detectors",
            DETECTABILITY,
            detectability,
            COLUMNS,
            grid=Grid(
                "ROC AUC, attacks down and detectors across",
                "detector",
                (("ROC AUC", "auc"), ("of the true target's score (oracle)", "oracle_auc")),
                rows=scored,
            ),
        ),
        *FRAMES,
        Frame(
            "curves",
            "Over the number of poisoned images",
            CURVES,
            curves,
            tuple(
                replace(column, hidden=True)
                for column in (*ATTACK, WORKED, DETECTOR, _AUC, replace(_AUC, key="asr"))
            ),
            plot=Plot(
                "m", partial(attack_label, with_m=False),
                (Line("asr", "ASR", "--", alone=True), Line("auc", "AUC")),
                ("poisoned images m", "rate"), "ASR and ROC AUC over m",
                lambda row: str(row["detector"]), even=True, chance=True,
            ),
        ),
        TREND,
    ),
    HOW,
    DetectabilityRecord,
    worst_cases,
    verdict=verdict,
)  # fmt: skip
