"""What a board shows of the robustness game besides its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.games.columns import (
    ATTACK,
    DEFENSE,
    DIGITS,
    KEYS,
    SEEDS,
    TRUSTED,
    Column,
    Unit,
    attack_label,
    defender_label,
    joined,
    written,
)
from benchmark.games.frames import Picture, Sources
from benchmark.games.means import (
    attack_columns,
    attack_key,
    defense_key,
    defense_name,
    grouped,
    mean_columns,
    met_by_several,
    spread_columns,
)
from benchmark.games.robustness.curve import Point
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.texts import counted

#: The two results of a cell, the headline first.
READINGS = ("paper", "deployable")


class Curve(NamedTuple):
    """The trade-off curve of one cell; arrays are float32, one value per point.

    Attributes:
        points: what pages call them.
        loss, asr: lost accuracy and ASR as shares; NaN where there are no such images.
        chosen: for each of `READINGS` the index of the point that it takes, -1 for none.
    """

    points: tuple[str, ...]
    loss: NDArray[np.float32]
    asr: NDArray[np.float32]
    chosen: tuple[int, ...]


def slim(record: RobustnessRecord) -> tuple[RobustnessRecord, Curve]:
    """The record without its curve, whose points are most of it, and the curve as arrays."""
    points = record.curve
    # Points have a stage and a step each; to compare whole ones takes half of the time.
    places = {(point.stage, point.step): number for number, point in enumerate(points)}
    cda, asr = (
        np.array([getattr(point, name).value for point in points], np.float32)
        for name in ("cda", "asr")
    )
    curve = Curve(
        # Of stages without steps the name says more.
        tuple(f"step {p.step}" if p.stage == "repair" else p.stage for p in points),
        cda[:1] - cda,
        asr,
        tuple(
            places.get((chosen.stage, chosen.step), -1)
            for chosen in (left_at(record, reading) for reading in READINGS if record.metrics)
        ),
    )
    return record.model_copy(update={"curve": ()}), curve


def left_at(record: RobustnessRecord, reading: str) -> Point:
    """The point that one of `READINGS` takes."""
    assert record.metrics is not None
    found: Point = getattr(record.metrics, reading)
    return found


def measured(sources: Sources) -> list[RobustnessRecord]:
    """What means are taken over; a defense that failed has left the victim as it was."""
    return [record for record in sources.counted(RobustnessRecord) if record.metrics is not None]


def defended(records: Sequence[RobustnessRecord]) -> list[list[RobustnessRecord]]:
    """What "repairs" makes one row of each: an attack, a defense and a trusted share."""
    groups = grouped(
        (one for one in records if one.defense.stages and not one.attack.clean),
        lambda one: (*attack_key(one), *defense_key(one)),
    )
    return [group for _, group in groups]


def curves(sources: Sources) -> list[list[dict[str, Any]]]:
    """For each row of "repairs" the trade-off curve of every seed, as the page draws it."""

    def drawn(record: RobustnessRecord) -> dict[str, Any]:
        curve = sources.kept[record.key]
        numbers = {
            name: [None if np.isnan(v) else round(float(v), DIGITS) for v in getattr(curve, name)]
            for name in ("loss", "asr")
        }
        chosen = dict(zip(READINGS, curve.chosen, strict=True))
        return {"seed": record.seed, "points": curve.points} | numbers | chosen

    # Not in the order of the files, whatever they are called.
    groups = (sorted(group, key=lambda one: one.seed) for group in defended(measured(sources)))
    return [[drawn(one) for one in group if one.status == "ok"] for group in groups]


def steps(sources: Sources) -> pd.DataFrame:
    """Mean ASR and lost accuracy at every step of a repair that all seeds reached; see `STEPS`."""
    rows = []
    for group in defended(measured(sources)):
        first, kept = group[0], [sources.kept[one.key] for one in group if one.status == "ok"]
        points = [dict(zip(curve.points, range(len(curve.points)), strict=True)) for curve in kept]
        for point in kept[0].points if kept else ():
            if not all(point in own for own in points):
                continue
            at = [own[point] for own in points]
            rows.append(
                attack_columns(first, sources.name)
                | {"defense": defense_name(first.defense, sources.name)}
                | {"trusted_share": first.trusted_share, "seeds": len(kept)}
                | {"step": int(point.removeprefix("step ")) if point.startswith("step") else 0}
                | {"stage": "repair" if point.startswith("step") else point}
                | spread_columns("asr", _at([curve.asr for curve in kept], at), lowest=0.0)
                | spread_columns("loss", _at([curve.loss for curve in kept], at))
            )
    return pd.DataFrame(rows)


def _at(curves: list[NDArray[np.float32]], places: list[int]) -> list[float]:
    return [float(own[place]) for own, place in zip(curves, places, strict=True)]


def in_both_readings(
    key: str, title: str, unit: Unit, doc: str, *, brief: bool = False, **options: Any
) -> tuple[Column, ...]:
    """A column for each of `READINGS`; only the headline may be brief."""
    return tuple(
        Column(
            f"{key}_{reading}", f"{title}, {reading}", unit, f"{doc}, in the {reading} reading",
            brief=brief and reading == READINGS[0], **options,
        )
        for reading in READINGS
    )  # fmt: skip


#: Columns of `steps`, of which no board has a table: they are many.
STEPS = (
    *ATTACK,
    DEFENSE,
    TRUSTED,
    SEEDS,
    Column("stage", "stage", Unit.TEXT, "of the defense"),
    Column("step", "step", Unit.COUNT, "of the repair, 0 is the victim"),
    Column("asr", "ASR", Unit.RATE, "attack success rate, with Student's interval over seeds",
           interval=True),
    Column("loss", "CDA loss", Unit.POINTS, "lost clean accuracy in points", interval=True),
)  # fmt: skip


def epochs(sources: Sources) -> pd.DataFrame:
    """Accuracy and ASR of victims that were followed, after each epoch; see `EPOCHS`."""
    followed = (one for one in measured(sources) if one.epochs and one.status == "ok")
    return pd.DataFrame(
        attack_columns(group[0], sources.name)
        | {"seeds": len(group), "epoch": points[0].step}
        | mean_columns("cda", [point.cda for point in points])
        | mean_columns("asr", [point.asr for point in points])
        for _, group in grouped(followed, attack_key)
        for points in zip(*(one.epochs for one in group), strict=True)
    )


#: Columns of `epochs`.
EPOCHS = (
    *ATTACK,
    SEEDS,
    Column("epoch", "epoch", Unit.COUNT, "of the victim's training"),
    Column("cda", "CDA", Unit.RATE, "clean accuracy after this epoch", interval=True),
    Column("asr", "ASR", Unit.RATE, "attack success rate after this epoch", interval=True),
)


def verdict(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """What worked, who repairs most, and what nobody repairs; in the paper's reading."""
    attacks = frames["victims"][frames["victims"].worked.notna()]
    failed = attacks[~attacks.worked.astype(bool)]
    if len(attacks):
        said = (
            f"{len(attacks) - len(failed)} of {counted(len(attacks), 'attack')} worked undefended"
        )
        yield f"{said}; {_listed(failed)} did not." if len(failed) else f"{said}."
    frame = frames.get("repairs", pd.DataFrame())
    frame = frame if frame.empty else frame[frame.worked].dropna(subset="asr_paper")
    if frame.empty:
        return
    frame = met_by_several(frame, "defense")
    groups = [own for _, own in frame.groupby(["defense", "trusted_share"], dropna=False)]
    best = max(groups, key=lambda g: (g.repaired_paper.sum(), len(g), -g.asr_paper.mean()))
    worst = best.loc[best.asr_paper.idxmax()].to_dict()
    who = defender_label(worst["defense"], worst["trusted_share"])
    repaired, met = int(best.repaired_paper.sum()), counted(len(best), "attack")
    left = written(worst, "asr_paper", Unit.RATE)
    most = f"{who} repairs most: {repaired} of {met}; at worst it"
    none = f"No defense repairs any attack; {who} comes closest: at worst it"
    yield f"{most if repaired else none} leaves {left} % ASR, of {attack_label(worst)}."
    fallen = frame.groupby(KEYS).repaired_paper.transform("any").astype(bool)
    if repaired and len(standing := frame[~fallen].drop_duplicates(KEYS)):
        them = "it" if len(standing) == 1 else "them"
        yield f"Repaired by no defense that met {them}: {_listed(standing)}."
    pairs = frames.get("comparisons", pd.DataFrame())
    pairs = pairs.dropna(subset="difference_low") if len(pairs) else pairs
    if len(pairs):  # met by enough attacks to tell an order
        of = f"Of {counted(len(pairs), 'pair')} of defenses {int(pairs.holds.sum())}"
        yield f"{of} can be told apart by the ASR they leave."


def _listed(frame: pd.DataFrame) -> str:
    return joined([attack_label(row) for row in frame.to_dict("records")], "attack")


def triggers(sources: Sources) -> Sequence[Picture]:
    """Examples of every attack, where the evidence of its first model has some."""
    found: dict[str, Picture] = {}
    undefended = (one for one in sources.of(RobustnessRecord) if not one.defense.stages)
    for record in sorted(undefended, key=lambda one: (one.attack.label, one.attack.m, one.seed)):
        # The clean model has none, and only the first model of an attack carries examples.
        if record.attack.clean or record.seed or record.evidence is None:
            continue
        if file := sources.evidence(record.evidence.file):
            with np.load(file, allow_pickle=False) as arrays:
                if "examples" in arrays and arrays["examples"].size:
                    alt = "clean images, triggered images and their difference"
                    picture = Picture(str(record.attack), alt, pixels=arrays["examples"])
                    found.setdefault(record.attack.label, picture)
    return list(found.values())
