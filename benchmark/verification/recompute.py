"""Every number of a record once more, from its evidence and by other code than played it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.games.detectability.record import DetectabilityRecord, Found
from benchmark.games.robustness.record import Metrics, Point, RobustnessRecord
from benchmark.games.robustness.settings import Robustness
from benchmark.protocol import Protocol
from benchmark.records.record import NONE, Rate, StageRef
from benchmark.records.strict import Arrays, Refused

#: A field of a record, and why its number does not follow from the evidence.
Wrong = tuple[str, str]

_STAGES = ("victim", "sanitize", "repair", "deploy")
#: Confidences are kept in half precision.
_CLOSE = 1e-3
#: What models are ranked by, where the smallest difference breaks a tie.
_RANKED = ("score", "also")
#: What a cell of each game leaves behind; detectors add readings and triggers of their own.
_ROBUSTNESS = (
    r"labels_(held_out|test)|target|held_out|test|triggered|confidence|clean_model|examples"
    r"|suspicion_(test|triggered)"
)
_DETECTABILITY = (
    r"labels_test|target|scores|class_scores|flagged|norms|also_.+|reversed_answers"
    r"|reversed_\w+"
)
#: Examples of a trigger that are kept, and pixels a side of any picture in the evidence.
_EXAMPLES, SIDE = 4, 128


def robustness(record: RobustnessRecord, arrays: Arrays, protocol: Protocol) -> Iterator[Wrong]:
    """The curve from predictions, and both readings from the curve."""
    found = record.metrics
    assert found is not None
    known(arrays, _ROBUSTNESS)
    yield from sizes(arrays, record, protocol)
    held_out = held_out_images(record, protocol)
    shape(arrays, "labels_held_out", held_out)
    poisoned = record.attack.threat != NONE
    points, tests = len(record.curve), protocol.splits.test
    shape(arrays, "held_out", points, held_out)
    shape(arrays, "test", points, tests)
    shape(arrays, "triggered", points, tests if poisoned else 0)
    counted = [_point(arrays, number, point) for number, point in enumerate(record.curve)]
    for number, (point, right) in enumerate(zip(record.curve, counted, strict=True)):
        yield from differ(f"curve.{number}", point, right)
    yield from _order(record, protocol)
    budget = protocol.robustness.budget
    curve = [point.counts() for point in counted]
    confidence, clean_model = _victim(arrays, poisoned, tests)
    expected = Metrics(
        paper=Point.of(metrics.lowest_asr(curve, budget)),
        deployable=Point.of(metrics.deployable(curve, budget)),
        before=Point.of(curve[0]),
        asr_clean_model=clean_model,
        target_confidence=found.target_confidence,
        guard=found.guard,
    )
    yield from differ("metrics", found, expected)
    if not _same(found.target_confidence, confidence, _CLOSE):
        yield "metrics.target_confidence", f"is {found.target_confidence}, not {confidence}"
    yield from _guard(record, arrays)
    _examples(arrays)


def _point(arrays: Arrays, number: int, point: Point) -> Point:
    labels, target = arrays["labels_test"], int(arrays["target"])
    right = arrays["held_out"] == arrays["labels_held_out"]
    hits = arrays["triggered"][number] == target
    others = labels[: len(hits)] != target
    game = float(hits.mean() - (labels == target).mean()) if len(hits) else None
    return Point(
        stage=point.stage,
        step=point.step,
        held_out=count(right[number]),
        lost=int((right[0] & ~right[number]).sum()),
        cda=count(arrays["test"][number] == labels),
        asr=count(hits[others]),
        asr_game=game,
    )


def _order(record: RobustnessRecord, protocol: Protocol) -> Iterator[Wrong]:
    """The curve goes through the stages of the defense, and no stage outlives its budget."""
    curve, robust = record.curve, protocol.robustness
    first = curve[0]
    if (first.stage, first.step) != ("victim", 0):
        yield "curve.0", "must be the undefended victim at step 0"
    played = {"victim", *(stage.stage for stage in record.defense.stages)}
    seen = [point.stage for point in curve]
    if set(seen) != played or seen != sorted(seen, key=_STAGES.index):
        yield "curve", f"goes through {', '.join(dict.fromkeys(seen))}"
    for number, point in enumerate(curve[1:], start=1):
        before = curve[number - 1]
        step = {"sanitize": 0, "repair": point.step, "deploy": before.step}.get(point.stage)
        if point.step != step:
            yield f"curve.{number}.step", f"is {point.step}, this {point.stage} has step {step}"
        if point.stage == before.stage != "repair":
            yield f"curve.{number}.stage", f"is {point.stage} again, which is measured once"
    repair = next((stage for stage in record.defense.stages if stage.stage == "repair"), None)
    if repair is not None:
        yield from _repair(record, repair, robust)


def _repair(record: RobustnessRecord, repair: StageRef, robust: Robustness) -> Iterator[Wrong]:
    """A repair is measured at every interval, until its last step or until its budget is spent."""
    numbers = [n for n, point in enumerate(record.curve) if point.stage == "repair"]
    steps, every = [record.curve[number].step for number in numbers], robust.interval
    due = [every * (number + 1) for number in range(len(steps))]
    # A repair may end between two measurements, it is then measured once more.
    if not steps or steps[:-1] != due[:-1] or not due[-1] - every < steps[-1] <= due[-1]:
        yield "curve", f"is measured at steps {steps}, not every {every}"
        return
    counted = [point.counts() for point in record.curve]
    spent = [n for n in numbers if metrics.both_spent(counted[: n + 1], robust.budget)]
    if spent and spent[0] < numbers[-1]:
        yield f"curve.{spent[0] + 1}", "comes after the budget of clean accuracy was spent"
    # Not every repair counts its steps beforehand.
    last = repair.params.get("steps", steps[-1])
    if steps[-1] != last and not (spent and steps[-1] == due[-1] < last):
        yield "curve", f"ends at step {steps[-1]} of {last}, though the budget was not spent"


def _victim(arrays: Arrays, poisoned: bool, tests: int) -> tuple[float | None, Rate | None]:
    """Confidence in the target, and the trigger's success on the clean model."""
    others = arrays["labels_test"] != int(arrays["target"])
    shape(arrays, "confidence", int(others.sum()) if poisoned else 0)
    shape(arrays, "clean_model", tests if poisoned else 0)
    confidence = arrays["confidence"].astype(np.float64)
    if ((confidence < 0) | (confidence > 1)).any():
        raise Refused("confidence", "holds values outside 0 to 1")
    if not poisoned:
        return None, None
    hits = arrays["clean_model"] == int(arrays["target"])
    return float(confidence.mean()), count(hits[others])


def _examples(arrays: Arrays) -> None:
    """Pictures of the trigger are small and can be drawn."""
    shown = arrays.get("examples")
    if shown is None:
        return
    pairs, count, channels, *sides = (*shown.shape, 0, 0, 0, 0, 0)[:5]
    small = pairs == 2 and 0 < count <= _EXAMPLES and all(0 < side <= SIDE for side in sides)
    if shown.dtype != np.uint8 or shown.ndim != 5 or channels not in (1, 3) or not small:
        raise Refused("examples", f"are {shown.dtype} of shape {shown.shape}, no pictures")


def _guard(record: RobustnessRecord, arrays: Arrays) -> Iterator[Wrong]:
    found = record.metrics.guard if record.metrics else None
    guarded = "suspicion_test" in arrays
    if guarded != (record.curve[-1].stage == "deploy"):
        yield "metrics.guard", "must be there where a guard was deployed, and only there"
        return
    if not guarded:
        triggered = np.empty(0)
    else:
        labels = arrays["labels_test"]
        shape(arrays, "suspicion_test", len(labels))
        shape(arrays, "suspicion_triggered", arrays["triggered"].shape[1])
        triggered = arrays["suspicion_triggered"]
        triggered = triggered[labels[: len(triggered)] != int(arrays["target"])]
    if (found is not None) != bool(len(triggered)):
        yield "metrics.guard", "must be there where a guard met triggered images, and only there"
    elif found is not None:
        auc, far = metrics.guard_quality(arrays["suspicion_test"], triggered)
        if not math.isclose(found.auc, auc, abs_tol=1e-9):
            yield "metrics.guard.auc", f"is {found.auc:.6f}, the evidence gives {auc:.6f}"
        yield from differ("metrics.guard.far_at_1_frr", found.far_at_1_frr, Rate.of(far))


def detectability(
    record: DetectabilityRecord, arrays: Arrays, protocol: Protocol
) -> Iterator[Wrong]:
    """Scores, decisions and guesses as they were returned; reversed triggers' success."""
    game = protocol.detectability
    assert game is not None
    known(arrays, _DETECTABILITY)
    yield from sizes(arrays, record, protocol)
    if len(record.scans) != game.repeats:
        yield "scans", f"are {len(record.scans)}, the protocol examines {game.repeats} times"
        return
    classes = len(record.scans[0].class_scores)
    shape(arrays, "scores", game.repeats)
    shape(arrays, "flagged", game.repeats)
    shape(arrays, "class_scores", game.repeats, classes)
    labels, target = arrays["labels_test"], int(arrays["target"])
    if int(labels.max()) >= classes:
        yield "scans.0.class_scores", f"are {classes}, there are more classes"
    if "norms" in arrays:
        shape(arrays, "norms", game.repeats, classes)
    if "reversed_answers" in arrays:
        # Where the true trigger covers most of an image, nothing was restricted to it.
        readings = 1 if arrays["reversed_answers"].shape[1:2] == (1,) else 2
        shape(arrays, "reversed_answers", game.repeats, readings, len(labels))
    _reversed(arrays, game.repeats)
    for number, scan in enumerate(record.scans):
        flagged = int(arrays["flagged"][number])
        success = reasr = None
        if "reversed_answers" in arrays and record.attack.threat != NONE:
            hits = arrays["reversed_answers"][number][:, labels != target] == target
            success, reasr = (*map(count, hits), None)[:2]
        also = sorted(name for name in arrays if name.startswith("also_"))
        right = Found(
            score=float(arrays["scores"][number]),
            class_scores=tuple(arrays["class_scores"][number].tolist()),
            guess=int(np.argmax(arrays["class_scores"][number])),
            flagged=None if flagged < 0 else bool(flagged),
            also={name.removeprefix("also_"): float(arrays[name][number]) for name in also},
            norms=tuple(arrays["norms"][number].tolist()) if "norms" in arrays else None,
            success=success,
            reasr=reasr,
            seconds=scan.seconds,
        )
        yield from differ(f"scans.{number}", scan, right)


def _reversed(arrays: Arrays, repeats: int) -> None:
    """Reversed triggers for the target and the guess of every examination, kept as bytes."""
    for name, found in arrays.items():
        if name == "reversed_answers" or not name.startswith("reversed_"):
            continue
        if name.endswith("_range"):
            shape(arrays, name, 2)
            continue
        fits = found.dtype == np.uint8 and found.shape[:2] == (repeats, 2) and found.ndim <= 5
        if not fits or max(found.shape[2:], default=0) > SIDE:
            raise Refused(name, f"are {found.dtype} of shape {found.shape}, no triggers")


def known(arrays: Arrays, names: str) -> None:
    """Refuse what no game leaves behind and nobody reads."""
    for name in arrays:
        if not re.fullmatch(names, name):
            raise Refused(name, "is an array that this game does not leave behind")


def count(hits: NDArray[np.bool_]) -> Rate:
    return Rate.of(metrics.Rate(int(hits.sum()), len(hits)))


def shape(arrays: Arrays, name: str, *wanted: int) -> None:
    if arrays[name].shape != wanted:
        raise Refused(name, f"has shape {arrays[name].shape} in the evidence, not {wanted}")


def sizes(
    arrays: Arrays, record: RobustnessRecord | DetectabilityRecord, protocol: Protocol
) -> Iterator[Wrong]:
    """There are as many test images as the protocol has, and targets take turns."""
    shape(arrays, "labels_test", protocol.splits.test)
    target = record.seed % (int(arrays["labels_test"].max()) + 1)
    for where, found in (("record", record.target), ("evidence", int(arrays["target"]))):
        if found != target:
            yield "target", f"is {found} in the {where}, repetition {record.seed} attacks {target}"


def held_out_images(record: RobustnessRecord, protocol: Protocol) -> int:
    """How many trusted images a defender holds out."""
    if record.trusted_share is None:
        return 0
    trusted = round(record.trusted_share * protocol.splits.train)
    return metrics.held_out_count(trusted, protocol.robustness.held_out)


def differ(place: str, found: Any, right: Any) -> Iterator[Wrong]:
    """Fields of a part of a record that are not what they should be."""
    for name in type(found).model_fields:
        value, expected = getattr(found, name), getattr(right, name)
        if not _same(value, expected, 0.0 if name in _RANKED else 1e-6):
            yield f"{place}.{name}", f"is {_text(value)}, the evidence gives {_text(expected)}"


def _same(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(value, float) and isinstance(expected, float):
        return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance / 1000)
    if isinstance(value, tuple) and isinstance(expected, tuple):
        pairs = list(zip(value, expected, strict=False))
        return len(value) == len(expected) and all(_same(*pair, tolerance) for pair in pairs)
    if isinstance(value, dict) and isinstance(expected, dict):
        same = value.keys() == expected.keys()
        return same and all(_same(value[name], expected[name], tolerance) for name in value)
    return bool(value == expected)


def _text(value: Any) -> str:
    if isinstance(value, Rate):
        return f"{value.hits} of {value.total}"
    if isinstance(value, Point):
        return f"step {value.step} with ASR {_text(value.asr)}"
    return f"{value!r}"[:100]
