"""What a robustness record must be like, its numbers aside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from benchmark import metrics
from benchmark.games.base import Arrays, Wrong
from benchmark.games.robustness.curve import both_spent, deployable
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.games.shapes import SIDE, answers, fits_protocol, known, known_source, shape
from benchmark.hooks import STAGES
from benchmark.protocol import Protocol
from benchmark.records.record import StageRef
from benchmark.records.strict import Refused

#: A repair with more than `MOST_EQUAL` checkpoints that all give the same answers is refused if
#: these differ from the victim's in more than a share `DIFFERENT`.
MOST_EQUAL, DIFFERENT = 3, 0.05
#: What a victim that was followed answers after each epoch.
PARTS = ("test", "triggered")
#: What is measured at every point of the curve.
_MEASURED = ("held_out", *PARTS)
#: Confidence is kept, and perhaps was computed, in half precision.
ROUNDED = 0.02
#: Examples of a trigger that are kept.
EXAMPLES = 4
_ARRAYS = (
    r"labels_(held_out|test)|target|source|held_out|test|triggered|confidence|clean_model|examples"
    r"|suspicion_(test|triggered)|epochs_(test|triggered)"
)


def check(record: RobustnessRecord, arrays: Arrays, protocol: Protocol) -> Iterator[Wrong]:
    """Sizes of all arrays, the order of the curve, and the sanity gate's accuracy near chance."""
    known(arrays, _ARRAYS)
    yield from fits_protocol(arrays, record, protocol)
    tests, points = protocol.splits.test, len(record.curve)
    triggered = 0 if record.attack.clean else tests
    held_out = _held_out(record, protocol)
    classes = int(arrays["labels_test"].max()) + 1
    source = yield from known_source(arrays, record, classes)
    counted = metrics.attacked(arrays["labels_test"], int(arrays["target"]), source)
    shape(arrays, "labels_held_out", held_out)
    shape(arrays, "held_out", points, held_out)
    shape(arrays, "test", points, tests)
    shape(arrays, "triggered", points, triggered)
    shape(arrays, "clean_model", triggered)
    shape(arrays, "confidence", int(counted.sum()) if triggered else 0, kinds="f")
    if ((arrays["confidence"] < 0) | (arrays["confidence"] > 1)).any():
        raise Refused("confidence", "holds values outside 0 to 1")
    if triggered and not record.defense.sanitizes:
        _confidence(arrays, counted, classes)
    yield from _examples(record, arrays)
    yield from _epochs(record, arrays, protocol, triggered)
    guards = [point.stage == "deploy" for point in record.curve]
    for name in _MEASURED:
        answers({name: arrays[name][np.logical_not(guards)]}, name, classes)
        answers({name: arrays[name][guards]}, name, classes, metrics.REJECTED)
    for name in ("labels_held_out", "clean_model", *(n for n in arrays if n.startswith("epochs"))):
        answers(arrays, name, classes)
    yield from _order(record, protocol)
    yield from _flat(record, arrays)
    yield from _model(record, arrays, protocol.budget)
    if (record.cost.defense_seconds is None) != (record.trusted_share is None):
        said = "must be there where a defender trusts images, and only there"
        yield "cost.defense_seconds", f"is {record.cost.defense_seconds}; it {said}"
    guarded = record.curve[-1].stage == "deploy"
    if guarded:
        shape(arrays, "suspicion_test", tests, kinds="f")
        shape(arrays, "suspicion_triggered", triggered, kinds="f")
    elif any(name.startswith("suspicion") for name in arrays):
        yield "curve", "has no deployed guard, the evidence holds its suspicion"
    right = metrics.accuracy(arrays["test"][0], arrays["labels_test"])
    near = metrics.near_chance(right, arrays["labels_test"])
    if near != (record.reason == "near-chance"):
        what = "near chance" if near else "not near chance"
        yield "status", f"is {record.status}, but the victim's clean accuracy is {what}"


def _epochs(
    record: RobustnessRecord, arrays: Arrays, protocol: Protocol, triggered: int
) -> Iterator[Wrong]:
    """An undefended victim that was followed has answers after each epoch, all others have none."""
    recipe = protocol.recipes[record.protocol.recipe]
    due = recipe.epochs if recipe.followed and not record.defense.stages else 0
    if due:
        shape(arrays, "epochs_test", due, protocol.splits.test)
        shape(arrays, "epochs_triggered", due, triggered)
        # Who owns the training may change the model once more.
        last = all((arrays[f"epochs_{part}"][-1] == arrays[part][0]).all() for part in PARTS)
        if not last and record.attack.threat != "code":
            yield (
                f"epochs.{due - 1}",
                "has other answers than the victim, which is the last epoch's",
            )
    elif any(name.startswith("epochs") for name in arrays):
        yield "epochs", "are those of a victim that was not followed"


def _confidence(arrays: Arrays, counted: np.ndarray, classes: int) -> None:
    """The victim's confidence in the target is the largest of all classes where it answers so."""
    sure, hit = arrays["confidence"], arrays["triggered"][0][counted] == arrays["target"]
    if (sure[hit] < 1 / classes - ROUNDED).any() or (sure[~hit] > 1 / 2 + ROUNDED).any():
        raise Refused("confidence", "does not fit the answers to triggered images")


def _held_out(record: RobustnessRecord, protocol: Protocol) -> int:
    """How many trusted images a defender holds out."""
    if record.trusted_share is None:
        return 0
    trusted = protocol.splits.share_of_train(record.trusted_share)
    return metrics.held_out_count(trusted, protocol.robustness.held_out)


def _order(record: RobustnessRecord, protocol: Protocol) -> Iterator[Wrong]:
    """The curve goes through the stages of the defense, and no stage outlives its budget."""
    curve = record.curve
    if (curve[0].stage, curve[0].step) != ("victim", 0):
        yield "curve.0", "must be the undefended victim at step 0"
    order = ("victim", *STAGES)
    seen = [point.stage for point in curve]
    played = {"victim", *(stage.stage for stage in record.defense.stages)}
    if set(seen) != played or seen != sorted(seen, key=order.index):
        yield "curve", f"goes through {', '.join(dict.fromkeys(seen))}"
    for number, (before, point) in enumerate(pairwise(curve), start=1):
        step = {"sanitize": 0, "repair": point.step, "deploy": before.step}.get(point.stage)
        if point.step != step:
            yield f"curve.{number}.step", f"is {point.step}, this {point.stage} has step {step}"
        if point.stage == before.stage != "repair":
            yield f"curve.{number}.stage", f"is {point.stage} again, which is measured once"
    repair = next((stage for stage in record.defense.stages if stage.stage == "repair"), None)
    if repair is not None:
        yield from _repair(record, repair, protocol)


def _repair(record: RobustnessRecord, repair: StageRef, protocol: Protocol) -> Iterator[Wrong]:
    """A repair is measured at every interval, until its last step or until its budget is spent."""
    curve, every = record.curve, protocol.robustness.interval
    numbers = [n for n, point in enumerate(curve) if point.stage == "repair"]
    steps = [curve[number].step for number in numbers]
    due = [every * (number + 1) for number in range(len(steps))]
    # A repair may end between two measurements, it is then measured once more.
    if not steps or steps[:-1] != due[:-1] or not due[-1] - every < steps[-1] <= due[-1]:
        yield "curve", f"is measured at steps {steps}, not every {every}"
        return
    spent = [n for n in numbers if both_spent(curve[: n + 1], protocol.budget)]
    if spent and spent[0] < numbers[-1]:
        yield f"curve.{spent[0] + 1}", "comes after the budget of clean accuracy was spent"
    # Not every repair counts its steps beforehand.
    last = repair.params.get("steps", steps[-1])
    if steps[-1] != last and not (spent and steps[-1] == due[-1] < last):
        yield "curve", f"ends at step {steps[-1]} of {last}, though the budget was not spent"


def _flat(record: RobustnessRecord, arrays: Arrays) -> Iterator[Wrong]:
    """What differs much from the victim goes on to change, if only by an answer."""
    rows = [number for number, point in enumerate(record.curve) if point.stage == "repair"]
    answers = np.concatenate([arrays[part] for part in _MEASURED], axis=1)
    same = len(rows) > MOST_EQUAL and bool((answers[rows] == answers[rows[0]]).all())
    if same and float(np.mean(answers[rows[0]] != answers[0])) > DIFFERENT:
        yield "curve", f"has {len(rows)} checkpoints that give the very same answers to everything"


def _model(record: RobustnessRecord, arrays: Arrays, budget: float) -> Iterator[Wrong]:
    """The model that is left is the victim where nothing changed it, and another where it did."""
    same = record.model_sha256 == record.victim_sha256
    if record.model_sha256 is None:
        yield "model_sha256", "is missing; a cell that was measured leaves a model"
    elif not record.defense.sanitizes:
        # A guard changes no model; the victim is the undefended one, at the first point.
        points = [record.curve[0], *(one for one in record.curve[1:] if one.stage != "deploy")]
        left = points.index(deployable(points, budget))
        changed = any((arrays[part][left] != arrays[part][0]).any() for part in _MEASURED)
        if not left and not same:
            yield "model_sha256", f"is {record.model_sha256[:12]}…, the victim itself is left"
        elif changed and same:
            said = f"the model of step {points[left].step} answers otherwise"
            yield "model_sha256", f"is {record.model_sha256[:12]}…, that of the victim; {said}"


def _examples(record: RobustnessRecord, arrays: Arrays) -> Iterator[Wrong]:
    """Pictures of the trigger are small and can be drawn; an attack shows them once."""
    shown = arrays.get("examples")
    if shown is None:
        return
    if record.defense.stages or record.seed or record.attack.clean:
        yield "examples", "are kept with the first undefended model of an attack, and only there"
    pairs, count, channels, *sides = (*shown.shape, 0, 0, 0, 0, 0)[:5]
    small = pairs == 2 and 0 < count <= EXAMPLES and all(0 < side <= SIDE for side in sides)
    if shown.dtype != np.uint8 or shown.ndim != 5 or channels not in (1, 3) or not small:
        raise Refused("examples", f"are {shown.dtype} of shape {shown.shape}, no pictures")
