"""Repetitions that failed: a defense has then left the victim as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmark.games.means import attack_key
from benchmark.games.robustness.record import Guard, RobustnessRecord
from benchmark.metrics import Rate
from benchmark.records.record import NONE, Record


def worst_cases(
    unfinished: Sequence[RobustnessRecord], measured: Sequence[Record]
) -> Iterator[RobustnessRecord]:
    """Cells that failed, with the numbers of the undefended victim; a guard has guessed.

    Where the victim was not measured undefended either, it is not the defense that failed.
    """
    undefended = {
        (*attack_key(one), one.seed): one.metrics
        for one in measured
        if isinstance(one, RobustnessRecord) and not one.defense.stages
    }
    for record in unfinished:
        found = undefended.get((*attack_key(record), record.seed))
        if not record.defense.stages or record.attack.threat == NONE or found is None:
            continue
        guards = any(stage.stage == "deploy" for stage in record.defense.stages)
        numbers = {
            "paper": found.before,
            "deployable": found.before,
            "guard": Guard(auc=0.5, far_at_1_frr=Rate(1, 1)) if guards else None,
        }
        yield record.model_copy(update={"metrics": found.model_copy(update=numbers)})
