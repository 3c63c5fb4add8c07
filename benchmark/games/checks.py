"""What plugins return is checked before it counts: shapes, ranges, labels, numbers of images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from math import inf
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from benchmark.api import (
    Attack,
    Deployment,
    Detection,
    Detector,
    PoisoningAttack,
    Repair,
    Sanitizer,
    Verdict,
)
from benchmark.games.settings import LARGEST_SINGLE
from benchmark.metrics import REJECTED
from benchmark.texts import FIELD
from benchmark.triggers import Additive, Patch, Trigger

#: Rounding in a plugin's arithmetic is no offence; it ends in the next 8-bit level anyway.
TOLERANCE = 1e-4


class RuleViolation(ValueError):
    """A plugin returned what the rules of the game do not allow."""


def images(returned: object, given: Tensor, who: str) -> Tensor:
    """Pass on triggered images that have the shape of `given` and lie in [0, 1]."""
    if not isinstance(returned, Tensor):
        raise RuleViolation(f"{who} must return a tensor, got {type(returned).__name__}")
    if returned.shape != given.shape:
        raise RuleViolation(
            f"{who} must return images of shape {tuple(given.shape)}, got {tuple(returned.shape)}"
        )
    if not returned.is_floating_point():
        raise RuleViolation(f"{who} must return floats in [0, 1], got {returned.dtype}")
    returned = returned.detach().float()
    low, high = returned.min().item(), returned.max().item()
    # Written so that NaN fails too.
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise RuleViolation(f"{who} must return values in [0, 1], got [{low:.4g}, {high:.4g}]")
    return returned.clamp(0, 1)


def labels(returned: object, given: Tensor, attack: PoisoningAttack, classes: int) -> Tensor:
    """Pass on the labels of poisoned images that the attack's threat model allows."""
    who = f"{attack.name}.poison"
    if (
        not isinstance(returned, Tensor)
        or returned.ndim not in (1, 2)
        or len(returned) != len(given)
    ):
        raise RuleViolation(f"{who} must return {len(given)} labels")
    if returned.ndim == 2:
        if attack.threat != "code":
            raise RuleViolation(f"{who} returned soft labels, a {attack.threat} attack cannot")
        if returned.shape[1] != classes:
            raise RuleViolation(f"{who} must return {classes} probabilities per image")
        sums = returned.sum(1)
        if not bool(((returned >= 0).all(1) & ((sums - 1).abs() < 1e-3)).all()):
            raise RuleViolation(f"{who} returned soft labels that are no probabilities")
        return returned.detach().float()
    if returned.dtype != torch.int64:
        raise RuleViolation(f"{who} must return int64 labels, got {returned.dtype}")
    if attack.threat == "clean-label" and not torch.equal(returned, given):
        raise RuleViolation(f"{who} changed labels, a clean-label attack cannot")
    allowed = (returned == given) | (returned == attack.view.target)
    if not bool(allowed.all()):
        wrong = int(returned[~allowed][0])
        raise RuleViolation(
            f"{who} returned label {wrong}; a label stays true or becomes the target "
            f"{attack.view.target}"
        )
    return returned


def unchanged(before: Tensor, after: Tensor, who: str) -> None:
    """Refuse a plugin that wrote into the images it was lent."""
    if not torch.equal(before, after):
        raise RuleViolation(f"{who} changed its input in place; it must return a copy")


def state(attack: Attack) -> Mapping[str, Tensor]:
    """What an attack has learnt, provided that it can be saved."""
    found: object = attack.state
    got = None
    if not isinstance(found, Mapping):
        got = _kind(found)
    else:
        for name, value in found.items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                got = f"{_kind(value)} under {name!r}"
    if got is not None:
        raise RuleViolation(f"{attack.name}.state must be a dict of tensors, got {got}")
    return attack.state


def steps(repair: Repair) -> int | None:
    """How many steps a repair says that it takes, None where it has no `steps`."""
    if not hasattr(repair, "steps"):
        return None
    found: object = repair.steps
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise RuleViolation(
            f"{repair.name}.steps must be a whole number from 1 on, got {found!r}; give what is "
            "something else another name"
        )
    return found


def kept(returned: object, count: int, classes_left: Tensor, sanitizer: Sanitizer) -> Tensor:
    """Pass on a sanitizer's mask, provided that something is left to train on."""
    who = f"{sanitizer.name}.sanitize"
    if not isinstance(returned, Tensor) or returned.dtype != torch.bool:
        raise RuleViolation(f"{who} must return a bool tensor of length {count}")
    if returned.shape != (count,):
        raise RuleViolation(f"{who} must return {count} values, got {tuple(returned.shape)}")
    if len(classes_left[returned].unique()) < 2:
        raise RuleViolation(f"{who} left fewer than two classes to train on")
    return returned


def guarded(returned: object, deployment: Deployment) -> Callable[[Tensor], object]:
    """Pass on a guarded model; what it answers is checked by `verdict`."""
    if not callable(returned):
        raise RuleViolation(
            f"{deployment.name}.deploy must return the guarded model, a function from images to a "
            f"Verdict, got {_kind(returned)}"
        )
    return returned


def verdict(returned: object, count: int, classes: int, deployment: Deployment) -> Verdict:
    """A private copy of a guarded model's answer to `count` images: it may use a buffer again."""
    who = f"{deployment.name}.deploy"
    if not isinstance(returned, Verdict):
        raise RuleViolation(f"{who}: the guarded model must return a Verdict")
    for name, value in (("predictions", returned.predictions), ("suspicion", returned.suspicion)):
        if not isinstance(value, Tensor):
            raise RuleViolation(f"{who}: {name} must be a tensor, got {_kind(value)}")
    if returned.predictions.shape != (count,) or returned.suspicion.shape != (count,):
        raise RuleViolation(f"{who}: expected {count} predictions and suspicions")
    if returned.predictions.dtype != torch.int64:
        raise RuleViolation(f"{who}: predictions must be int64, got {returned.predictions.dtype}")
    if returned.suspicion.is_complex():
        raise RuleViolation(f"{who}: suspicions must be real, got {returned.suspicion.dtype}")
    suspicion = _private(returned.suspicion).float()
    if not bool(torch.isfinite(suspicion).all()):
        wrong = returned.suspicion[~torch.isfinite(suspicion)][0].item()
        raise RuleViolation(
            f"{who}: suspicions must be finite in single precision, got {wrong:.4g}"
        )
    low, high = int(returned.predictions.min()), int(returned.predictions.max())
    if low < REJECTED or high >= classes:
        raise RuleViolation(
            f"{who}: predictions must lie in {REJECTED}..{classes - 1}, got {low}..{high}"
        )
    return Verdict(_private(returned.predictions), suspicion)


def detection(
    returned: object, shape: tuple[int, int, int], classes: int, detector: Detector
) -> Detection:
    """A private copy of what a detector found, provided that its numbers are finite and per class.

    A detector may use what it returns again, in its next examination.
    """
    who = f"{detector.name}.detect"
    if not isinstance(returned, Detection):
        raise RuleViolation(f"{who} must return a Detection, got {type(returned).__name__}")
    if not isinstance(returned.class_scores, Tensor):
        raise RuleViolation(
            f"{who} must return class scores as a tensor, got "
            f"{type(returned.class_scores).__name__}"
        )
    if returned.class_scores.shape != (classes,):
        raise RuleViolation(
            f"{who} must return {classes} class scores, got {tuple(returned.class_scores.shape)}"
        )
    if not isinstance(returned.also, Mapping):
        raise RuleViolation(f"{who} must return its readings as a dict, got {_kind(returned.also)}")
    if returned.flagged is not None and not isinstance(returned.flagged, bool | np.bool_):
        raise RuleViolation(
            f"{who} must return True, False or None as flagged, got {returned.flagged!r}"
        )
    for name in returned.also:
        if not isinstance(name, str) or not FIELD.fullmatch(name) or name == "score":
            raise RuleViolation(
                f"{who}: {name!r} is no name of a reading; choose English letters, digits and "
                "spaces, at most 60, and not 'score'"
            )
    score = _number(returned.score, who)
    for number in returned.class_scores.tolist():
        _number(number, who)
    also = {name: _number(number, who) for name, number in returned.also.items()}
    flagged = None if returned.flagged is None else bool(returned.flagged)
    class_scores, trigger = _private(returned.class_scores).float(), None
    if returned.trigger is not None:
        if not isinstance(returned.trigger, Trigger):
            raise RuleViolation(
                f"{who} must return a Trigger or None as trigger, got {_kind(returned.trigger)}"
            )
        trigger = _private_trigger(returned.trigger)
        triggered = trigger.apply(torch.zeros(1, *shape, device=trigger.variables[0].device))
        if triggered.shape != (classes, 1, *shape):
            raise RuleViolation(
                f"{who} must return a trigger for each of {classes} classes, got images of "
                f"shape {tuple(triggered.shape)}"
            )
        norms, finite = trigger.norms, bool(triggered.isfinite().all())
        if norms.shape != (classes,) or not (finite and ((norms >= 0) & (norms < inf)).all()):
            raise RuleViolation(
                f"{who} must return triggers of finite values with a finite norm from 0 on for "
                f"each of {classes} classes, got norms {norms.tolist()!r:.60}"
            )
    return Detection(score, class_scores, flagged, trigger, also)


def same_readings(found: Sequence[Detection], detector: Detector) -> None:
    """Refuse a detector whose repeats have other readings than one another."""
    first, *others = (sorted(one.also) for one in found)
    for other in others:
        if other != first:
            raise RuleViolation(
                f"{detector.name}.detect must return the same readings in every repeat and for "
                f"every model, got {_names(other)} after {_names(first)}"
            )


def _names(readings: list[str]) -> str:
    return ", ".join(map(repr, readings)) or "none"


def _number(value: object, who: str) -> float:
    """One score, which may be a tensor of one element."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.detach().item()
    if not isinstance(value, Real):
        raise RuleViolation(f"{who} must return numbers as scores, got {_kind(value)}")
    try:
        number = float(value)
    except OverflowError:  # whole numbers know no limit
        number = inf
    if not abs(number) <= LARGEST_SINGLE:  # written so that NaN fails too
        raise RuleViolation(f"{who} must return finite scores, got {number:g}")
    return number


def _private(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().as_subclass(Tensor)  # not one with code of a plugin's


def _private_trigger(returned: Trigger) -> Trigger:
    trigger = copy.copy(returned)
    trigger.variables = [_private(variable) for variable in trigger.variables]
    return trigger


def reversed_trigger(returned: object, starts: Tensor, who: str) -> Trigger:
    """A private copy of a trigger for each of the J start images (J, C, H, W).

    Only the two kinds that `benchmark.triggers` defines are allowed: a trigger's own code
    would see the images it is judged on, and could change with them.
    """
    if type(returned) not in (Patch, Additive):
        raise RuleViolation(f"{who} must yield a Patch or an Additive, got {_kind(returned)}")
    assert isinstance(returned, Trigger)
    trigger = object.__new__(type(returned))  # a copy would keep what replaces its methods
    trigger.variables = [_private(variable) for variable in returned.variables]
    shape = trigger.apply(starts[:1]).shape
    if shape != (len(starts), 1, *starts.shape[1:]):
        raise RuleViolation(
            f"{who} must yield a trigger for each of {len(starts)} start images, got images of "
            f"shape {tuple(shape)}"
        )
    return trigger


def probabilities(returned: object, count: int, classes: int, who: str) -> Tensor:
    """Pass on what a smoothed classifier says of `count` images."""
    if not isinstance(returned, Tensor) or returned.shape != (count, classes):
        found = tuple(returned.shape) if isinstance(returned, Tensor) else _kind(returned)
        raise RuleViolation(f"{who} must return probabilities ({count}, {classes}), got {found}")
    if not bool(returned.isfinite().all()):
        raise RuleViolation(f"{who} must return finite probabilities")
    return returned


def _kind(value: object) -> str:
    return type(value).__name__
