"""Repetitions that failed: a defense has then left the victim as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmark.games.means import attack_key
from benchmark.games.robustness.record import Guard, Metrics, RobustnessRecord
from benchmark.metrics import Rate
from benchmark.records.record import Record


def worst_cases(
    unfinished: Sequence[RobustnessRecord], measured: Sequence[Record]
) -> Iterator[RobustnessRecord]:
    """Cells that failed, with the numbers of the undefended victim; a guard has guessed.

    Where the victim was not measured undefended either, it is not the defense that failed: the
    attack did nothing, before and after.
    """
    undefended = {
        (*attack_key(one), one.seed): one.metrics
        for one in measured
        if isinstance(one, RobustnessRecord) and not one.defense.stages
    }
    others = {key[:-1]: found for key, found in undefended.items()}
    for record in unfinished:
        if not record.defense.stages or record.attack.clean:
            continue
        found = undefended.get((*attack_key(record), record.seed))
        if found is None:
            like = others.get(attack_key(record))
            found = None if like is None else _nothing(like)
        if found is None:
            continue
        guards = any(stage.stage == "deploy" for stage in record.defense.stages)
        numbers = {
            "paper": found.before,
            "deployable": found.before,
            "guard": Guard(auc=0.5, far_at_1_frr=Rate(1, 1)) if guards else None,
        }
        yield record.model_copy(update={"metrics": found.model_copy(update=numbers)})


def _nothing(other: Metrics) -> Metrics:
    """Those of another repetition, with a trigger that does nothing."""
    total = other.before.asr.total
    before = other.before.model_copy(update={"asr": Rate(0, total), "asr_game": 0.0})
    return other.model_copy(update={"before": before})
