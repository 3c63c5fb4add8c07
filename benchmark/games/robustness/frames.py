"""Tables of the robustness game: victims before any defense, and what repairs leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from benchmark import metrics
from benchmark.games.columns import (
    ATTACK,
    DEFENSE,
    FAILED,
    HANDED_IN,
    KEYS,
    SEEDS,
    TRUSTED,
    WORKED,
    Column,
    Row,
    Unit,
)
from benchmark.games.frames import MAGNIFIED, Chapter, Frame, Grid, Sources
from benchmark.games.means import (
    attack_columns,
    attack_key,
    average,
    defense_name,
    grouped,
    judged,
    mean_columns,
    seconds_of,
    unplayed,
)
from benchmark.games.robustness import compared
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.games.robustness.shown import (
    READINGS,
    curves,
    defended,
    in_both_readings,
    left_at,
    measured,
    slim,
    triggers,
    verdict,
)
from benchmark.games.robustness.worst import worst_cases
from benchmark.records.record import NONE


def cda_losses(records: Iterable[RobustnessRecord], reading: str) -> list[float]:
    """Accuracy that a reading lost, as shares."""
    return [
        left_at(record, "before").cda.value - left_at(record, reading).cda.value
        for record in records
    ]


def victims(sources: Sources) -> pd.DataFrame:
    """Undefended models of each attack, means over seeds; the clean model comes first."""
    found = []
    undefended = (record for record in measured(sources) if not record.defense.stages)
    lost = Counter(attack_key(one) for one in sources.unfinished if not one.defense.stages)
    for key, group in grouped(undefended, attack_key):
        results = [record.metrics for record in group if record.metrics]
        # An attack whose victim could not be had did nothing.
        nothing = [metrics.Rate(0, results[0].before.asr.total)] * lost[key]
        own = (
            attack_columns(group[0], sources.name)
            | {"seeds": len(group) + lost[key], "failed": lost[key]}
            | mean_columns("cda", (one.before.cda for one in results))
            | mean_columns("asr", (*(one.before.asr for one in results), *nothing))
            | {"asr_game": average([one.before.asr_game for one in results] + [0.0] * lost[key])}
            | mean_columns("asr_clean", (one.asr_clean_model for one in results))
        )
        found.append(
            own
            | {"worked": _worked(own)}
            | {"target_confidence": average(one.target_confidence for one in results)}
            | {"seconds": average(record.cost.victim_seconds for record in group)}
        )
    if not found:  # other tables look up what worked undefended
        return pd.DataFrame(columns=[*KEYS, *mean_columns("asr", ()), "worked"])
    frame = pd.DataFrame(found).astype({"worked": object})
    return frame.sort_values("threat", key=lambda t: t != NONE, kind="stable")


def _worked(victim: Mapping[str, Any]) -> bool | None:
    """Whether an attack worked; None where there is no ASR."""
    if pd.isna(victim["asr"]):
        return None
    # Without a clean model to compare with the bound is NaN, which nothing is below.
    hardly = victim["asr_low"] <= victim["asr_clean_high"]
    return bool(victim["asr"] > metrics.REPAIRED and not hardly)


def repairs(sources: Sources) -> pd.DataFrame:
    """Attack x defense x trusted share: what is left of the backdoor in both readings."""
    found = []
    for group in defended(measured(sources)):
        first = group[0]
        row: dict[str, Any] = attack_columns(first, sources.name) | {
            "defense": defense_name(first.defense, sources.name),
            "trusted_share": first.trusted_share,
            "seeds": len(group),
            "failed": unplayed(group),
            **sources.handed_in(group),
        }
        for name in ("before", *READINGS):
            row |= mean_columns(f"asr_{name}", (left_at(one, name).asr for one in group))
        for reading in READINGS:
            chosen = [left_at(one, reading) for one in group]
            row |= {
                f"cda_loss_{reading}": average(cda_losses(group, reading)),
                f"repaired_{reading}": bool(row[f"asr_{reading}_high"] <= metrics.REPAIRED),
                f"seeds_repaired_{reading}": sum(
                    one.asr.value <= metrics.REPAIRED for one in chosen
                ),
                f"untouched_{reading}": sum(one.stage == "victim" for one in chosen),
            }
        guards = [one.metrics.guard for one in group if one.metrics and one.metrics.guard]
        row |= {
            "guard_auc": average(guard.auc for guard in guards),
            "guard_far": average(guard.far_at_1_frr.value for guard in guards),
            "seconds": seconds_of(group),
        }
        found.append(row)
    columns = ["attack", "m", "defense", "trusted_share"]
    frame = pd.DataFrame(found) if found else pd.DataFrame(columns=columns)
    return judged(frame, sources.frames["victims"])


def mark(row: Row, key: str) -> tuple[str, str]:
    """How a cell of the grid looks, and in how many seeds it is repaired or left untouched."""
    reading = key.removeprefix("asr_")
    seeds, repaired, untouched = (
        row[name] for name in ("seeds", f"seeds_repaired_{reading}", f"untouched_{reading}")
    )
    note = f" ✓ {repaired}/{seeds}" if repaired and not row[f"repaired_{reading}"] else ""
    if not row["worked"]:
        return "dead", ""
    if untouched:
        note += " †" if untouched == seeds else f" † {untouched}/{seeds}"
    if untouched == seeds:
        return "untouched", note
    return ("repaired" if row[f"repaired_{reading}"] else ""), note


HOW = """\
ASR (attack success rate) is the share of triggered test images of other classes that the model
puts into the target class, or of the source class alone for an attack that has one; CDA is its
accuracy on clean images. A defense may lose a budget of CDA.
The paper's reading, the headline, takes the lowest ASR of any checkpoint before accuracy on test
images left the budget, as Pick your Poison does. The deployable reading takes what a defender can
really choose: the last checkpoint within the budget on trusted images that he holds out. The number
r of trusted images is a share of the training set; whatever helps the defender counts.

An attack worked if its ASR is above 5 % and its interval above that of what the same trigger does
to clean models. One that did not is left out of every count, mean, worst case and front. A backdoor
that worked is repaired if the upper end of the interval of its ASR is at most 5 %. Rates are in
percent and means over seeds; brackets are 95 % intervals, the wider of Wilson's over all images and
Student's t over seeds."""

REPAIRS = """\
The attack success rate in percent that is left after every defense. ✓ is repaired; ✓ 3/5: at most
5 % are left in three of five seeds, but the interval reaches higher. † the chosen model is the
untouched victim, † 2/5 in two of five seeds. ‡ the attack did not work undefended. (2 of 3) one of
three repetitions failed, and counts as if the defense had left the victim as it was."""

VICTIM_TEXT = """\
Models before any defense: their clean accuracy, how well the backdoor works, and what the same
trigger does to a clean model of the same seed."""


VICTIM_COLUMNS = (
    *ATTACK,
    SEEDS,
    FAILED,
    Column("cda", "CDA", Unit.RATE, "accuracy on clean test images", interval=True, brief=True),
    Column("asr", "ASR", Unit.RATE, "attack success rate", interval=True, brief=True,
           favours="attacker"),
    Column("asr_clean", "ASR on clean model", Unit.RATE,
           "what the same trigger does to a clean model", interval=True, brief=True),
    replace(WORKED, brief=True),
    Column("asr_game", "ASR as in the game", Unit.RATE,
           "the literal value of the game, which counts images of the target class, too"),
    Column("target_confidence", "target confidence", Unit.AREA,
           "mean confidence of the target class on triggered images", digits=3),
    Column("seconds", "seconds", Unit.SECONDS, "of training one victim"),
)  # fmt: skip

REPAIR_COLUMNS = (
    *ATTACK,
    DEFENSE,
    TRUSTED,
    WORKED,
    SEEDS,
    FAILED,
    *HANDED_IN,
    Column("asr_before", "ASR before", Unit.RATE, "attack success rate without the defense",
           interval=True, brief=True, favours="attacker"),
    *in_both_readings("asr", "ASR left", Unit.RATE, "attack success rate after the defense",
                      interval=True, brief=True, favours="attacker"),
    *in_both_readings("cda_loss", "CDA loss", Unit.POINTS, "lost clean accuracy in points",
                      brief=True),
    *in_both_readings("repaired", "repaired", Unit.YES_NO,
                      "whether the interval of the ASR ends at 5 % or below"),
    *in_both_readings("seeds_repaired", "seeds repaired", Unit.COUNT,
                      "seeds whose ASR is 5 % or below"),
    *in_both_readings("untouched", "untouched", Unit.COUNT,
                      "seeds whose chosen model is the victim as it was"),
    Column("guard_auc", "AUC of the guard", Unit.AREA,
           "ROC AUC of a guard's score, triggered against clean images"),
    Column("guard_far", "passed by the guard", Unit.RATE,
           "triggered images that pass where 1 % of clean ones are turned away"),
    Column("seconds", "seconds", Unit.SECONDS, "of one cell"),
)  # fmt: skip

CHAPTER = Chapter(
    "Robustness",
    (
        Frame(
            "repairs",
            "Remaining ASR",
            REPAIRS,
            repairs,
            REPAIR_COLUMNS,
            grid=Grid(
                "Remaining ASR in percent, attacks down and defenses across",
                "defense",
                (("paper's reading", "asr_paper"), ("deployable reading", "asr_deployable")),
                mark=mark,
                repetitions="seeds",
                before="asr_before",
            ),
            details=curves,
        ),
        compared.FRAME,
    ),
    HOW,
    RobustnessRecord,
    worst_cases,
    slim,
    verdict,
)
#: What every other table rests on.
VICTIMS = Chapter(
    "Victims",
    (Frame("victims", "Before any defense", VICTIM_TEXT, victims, VICTIM_COLUMNS, empty=True),),
    gallery=(
        "Triggers",
        "Test images above, the same with the trigger below them, and at the bottom what the "
        f"trigger changed, times {MAGNIFIED}.",
    ),
    pictures=triggers,
)
