"""Inversions that failed: no trigger was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmark.games.inversion.record import InversionRecord
from benchmark.games.means import attack_key
from benchmark.metrics import Rate
from benchmark.records.record import Record


def worst_cases(
    unfinished: Sequence[InversionRecord], measured: Sequence[Record]
) -> Iterator[InversionRecord]:
    """Inversions that failed, as one of the same kind whose triggers for the target do nothing.

    A model that was not measured by itself is none that an inverter failed on.
    """
    trained = {(*attack_key(one), one.seed) for one in measured if not one.defense.stages}
    like = {_kind(one): one for one in measured if isinstance(one, InversionRecord)}
    for record in unfinished:
        other = like.get(_kind(record))
        known = (*attack_key(record), record.seed) in trained
        if other is not None and known:
            own = {name: getattr(record, name) for name in ("key", "seed", "status", "cost")}
            yield _nothing(other).model_copy(update=own)


def _kind(record: InversionRecord) -> tuple[object, ...]:
    stage = record.defense.stages[0]
    return *attack_key(record), stage.label, stage.version


def _nothing(record: InversionRecord) -> InversionRecord:
    none = (0,) * len(record.starts)
    unknown = dict.fromkeys(("overlap", "distance", "norm", "reasr", "on_clean_model"))
    return record.model_copy(
        update={
            "tried": tuple(
                one.model_copy(update={"selection": none, "evaluation": none})
                for one in record.tried
            ),
            "starts": tuple(one.model_copy(update=unknown) for one in record.starts),
            "swept": tuple(
                level.model_copy(
                    update={
                        "classes": tuple(
                            tuple(
                                Rate(0, rate.total) if label == record.target else rate
                                for label, rate in enumerate(rates)
                            )
                            for rates in level.classes
                        )
                    }
                )
                for level in record.swept
            ),
        }
    )
