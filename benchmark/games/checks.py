"""What plugins return is checked before it counts: shapes, ranges, labels, numbers of images."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Deployment, Detection, Detector, PoisoningAttack, Sanitizer, Verdict
from benchmark.metrics import REJECTED
from benchmark.records.record import LARGEST_SINGLE
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


def verdict(returned: object, count: int, classes: int, deployment: Deployment) -> Verdict:
    """Pass on a guarded model's answer to `count` images."""
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
    if not bool(torch.isfinite(returned.suspicion).all()):
        raise RuleViolation(f"{who}: suspicions must be finite")
    low, high = int(returned.predictions.min()), int(returned.predictions.max())
    if low < REJECTED or high >= classes:
        raise RuleViolation(
            f"{who}: predictions must lie in {REJECTED}..{classes - 1}, got {low}..{high}"
        )
    return returned


def detection(
    returned: object, shape: tuple[int, int, int], classes: int, detector: Detector
) -> Detection:
    """Pass on what a detector found, provided that its numbers are finite and per class."""
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
    numbers = [returned.score, *returned.class_scores.tolist(), *returned.also.values()]
    for number in numbers:
        scalar = isinstance(number, Tensor) and number.numel() == 1
        if not isinstance(number, Real) and not scalar:
            raise RuleViolation(f"{who} must return numbers as scores, got {_kind(number)}")
        if not abs(number) <= LARGEST_SINGLE:  # written so that NaN fails too
            raise RuleViolation(f"{who} must return finite scores, got {float(number):g}")
    if returned.trigger is not None:
        blank = torch.zeros(1, *shape, device=returned.class_scores.device)
        triggered = returned.trigger.apply(blank)
        if triggered.shape != (classes, 1, *shape):
            raise RuleViolation(
                f"{who} must return a trigger for each of {classes} classes, got images of "
                f"shape {tuple(triggered.shape)}"
            )
    return returned


def reversed_trigger(returned: object, starts: Tensor, who: str) -> Trigger:
    """A private copy of a trigger for each of the J start images (J, C, H, W).

    Only the two kinds that `benchmark.triggers` defines are allowed: a trigger's own code
    would see the images it is judged on, and could change with them.
    """
    if type(returned) not in (Patch, Additive):
        raise RuleViolation(f"{who} must yield a Patch or an Additive, got {_kind(returned)}")
    trigger = copy.copy(returned)
    assert isinstance(trigger, Trigger)
    trigger.variables = [variable.detach().clone() for variable in trigger.variables]
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
