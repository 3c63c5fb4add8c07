"""Populations of models, and tables of what detectors say of single classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.games.columns import ATTACK, TRUSTED, Column, Unit, attack_label
from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.games.frames import Frame, Line, Plot, Sources
from benchmark.games.means import attack_columns, attack_key, average, defense_key, grouped

Pair = tuple[DetectabilityRecord, DetectabilityRecord]


def populations(records: Sequence[DetectabilityRecord]) -> list[list[Pair]]:
    """Pairs (clean, poisoned) of examined models of the same seed, per attack, m and detector."""
    clean = {
        (defense_key(record), record.seed): record for record in records if record.attack.clean
    }
    groups: defaultdict[tuple[Any, ...], list[Pair]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.seed):
        partner = clean.get((defense_key(record), record.seed))
        if not record.attack.clean and partner is not None:
            groups[*attack_key(record), *defense_key(record)].append((partner, record))
    return [groups[key] for key in sorted(groups)]


def readings(records: Iterable[DetectabilityRecord]) -> list[str]:
    """Names of the readings beside the score that all examinations have."""
    return sorted(set.intersection(*(set(scan.also) for one in records for scan in one.scans)))


def scores_of_classes(record: DetectabilityRecord) -> NDArray[np.float32]:
    """(repeats, classes)."""
    return np.array([scan.class_scores for scan in record.scans], np.float32)


def norms(sources: Sources) -> pd.DataFrame:
    """Mean L1 norm of the reversed trigger per population and scanned class (Li et al.)."""
    rows = []
    for _, group in grouped(
        (record for record in sources.of(DetectabilityRecord) if record.scans[0].norms is not None),
        lambda one: (*defense_key(one), not one.attack.clean, *attack_key(one)),
    ):
        first = group[0]
        found = [scan.norms for one in group for scan in one.scans if scan.norms is not None]
        per_class = np.array(found, np.float32).mean(0, dtype=np.float64)
        rows.append(
            {"detector": sources.name(first.defense.stages[0])}
            | attack_columns(first, sources.name)
            | {"models": len(group)}
            | {f"class_{label}": norm for label, norm in enumerate(per_class)}
        )
    return pd.DataFrame(rows)


def class_scores(sources: Sources) -> pd.DataFrame:
    """Mean score of every class on clean models, and on poisoned ones when it is the target and
    when it is not (Fig. 9 of Pick your Poison); NaN where it never is.

    One row per population and class; `targets` of its `models` have the class for target.
    """
    rows = []
    for pairs in populations(sources.of(DetectabilityRecord)):
        first = pairs[0][1]
        # (models, classes), over repeats
        clean, poisoned = (
            np.array([scores_of_classes(record).mean(0, dtype=np.float64) for record in column])
            for column in zip(*pairs, strict=True)
        )
        target = np.array([record.target for _, record in pairs])
        detector = sources.name(first.defense.stages[0])
        common = {"detector": detector, "trusted_share": first.trusted_share}
        for label in range(clean.shape[1]):
            own = target == label
            rows.append(
                common
                | attack_columns(first, sources.name)
                | {"class": label, "models": len(pairs), "targets": int(own.sum())}
                | {"score_clean": float(clean[:, label].mean())}
                | {"score_target": average(poisoned[own, label])}
                | {"score_other": average(poisoned[~own, label])}
            )
    return pd.DataFrame(rows)


SCORES = """\
Mean score of every class: on clean models, and on poisoned models where the class is the target
and where it is not."""

NORMS = """\
Mean L1 norm of what a detector reversed, per scanned class (as Li et al. tabulate it). The target's
own column is where an attack shows."""

DETECTOR = Column(
    "detector", "detector", Unit.TEXT, "the detector with its trusted share r",
    brief=True, menu=True, names="defender", share="trusted_share",
)  # fmt: skip
MODELS = Column("models", "models", Unit.COUNT, "poisoned models, and as many clean ones")

FRAMES = (
    Frame(
        "norms",
        "Norms of reversed triggers",
        NORMS,
        norms,
        (*ATTACK, replace(DETECTOR, share=""), MODELS),
        rest="mean L1 norm of the trigger reversed for this class",
        readme=False,
    ),
    Frame(
        "classscores",
        "Scores of classes",
        SCORES,
        class_scores,
        (
            *ATTACK, DETECTOR, TRUSTED,
            Column("class", "class", Unit.COUNT, "number of the class", brief=True),
            MODELS,
            Column("targets", "targets", Unit.COUNT, "of the models, whose target it is"),
            Column("score_clean", "clean models", Unit.NUMBER, "mean score on clean models",
                   brief=True),
            Column("score_target", "poisoned, the target", Unit.NUMBER,
                   "mean score on poisoned models with this target", brief=True),
            Column("score_other", "poisoned, another class", Unit.NUMBER,
                   "mean score on poisoned models with another target", brief=True),
        ),
        plot=Plot(
            "class", lambda row: f"{attack_label(row)}\n{row['detector']}",
            (
                Line("score_clean", "clean models", "o"),
                Line("score_other", "poisoned, another class", "s"),
                Line("score_target", "poisoned, the target", "^"),
            ),
            ("class", "mean score"), "Mean scores of classes", shares=False,
        ),
        readme=False,
    ),
)  # fmt: skip
