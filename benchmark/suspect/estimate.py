"""How long a detector will take, told before it begins, and how far it has come."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor, nn

from benchmark import clock
from benchmark.api import Detector, Plugin
from benchmark.classifier import Classifier
from benchmark.images import ImageSet, TrustedData
from benchmark.inversion import FrozenClassifier, logits_of
from benchmark.memory import activation_bytes, images_per_pass
from benchmark.suspect.adapter import ModelError, told
from benchmark.triggers import Patch

P = TypeVar("P", bound=Plugin)

#: Side of the images that a detector rehearses on.
SIDE = 8
#: A model is timed on so many images, and on four times as many until that takes long enough: a
#: small one is several times as fast in large batches, which detectors have.
TIMED, SECONDS = 16, 0.1


def fitted(plugin: P, model: Classifier, shape: torch.Size, classes: int) -> P:
    """The plugin with batches that fit into memory, where its parameters say how large they are.

    Args:
        classes: whose triggers share a batch; 1 for a repair.

    Raises:
        ModelError: not even one image of each class fits.
    """
    each, free = activation_bytes(model, shape), psutil.virtual_memory().available
    most = max(1, images_per_pass(model, shape) // classes)
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(plugin):  # type: ignore[arg-type]
        value = getattr(plugin, field.name)
        if isinstance(value, Plugin):
            changes[field.name] = fitted(value, model, shape, 1)
        elif field.name == "batch_size":
            if model.mean.device.type == "cpu" and classes * each > free:
                raise ModelError(
                    f"{plugin.name} needs {classes * each / 2**30:.0f} GB for one image with the "
                    f"triggers of all {classes} classes, and {free / 2**30:.0f} GB are free; "
                    "examine fewer, --only NAME,NAME,..., or take a larger machine"
                )
            changes[field.name] = min(value, most)
    return dataclasses.replace(plugin, **changes)  # type: ignore[type-var]


@contextmanager
def counting(model: Classifier, count: Callable[[int], None]) -> Iterator[None]:
    """Tell `count` how many images pass through the model, and through every copy of it."""

    # A function is not copied with the model that it is hooked to, so that copies count too.
    def hook(module: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> None:
        count(len(returned))

    handle = model.head.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def passes(detector: Detector, labels: Tensor, classes: int) -> int | None:
    """How many images a detector sends through a model, at most; None if it cannot be told.

    It is rehearsed on a stand-in, tiny and of as many classes, with a single step wherever a
    parameter says how many there are, and with one more of each in turn.
    """
    pixels = torch.zeros(len(labels), 1, SIDE, SIDE, dtype=torch.uint8)
    trusted = TrustedData(pixels.random_(generator=torch.Generator().manual_seed(0)), labels.cpu())
    model = Classifier(
        OrderedDict(stage1=nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(4, classes),
        1,
    )
    wanted = _steps(detector)

    def seen(steps: dict[tuple[str, ...], int]) -> int:
        total = 0

        def count(images: int) -> None:
            nonlocal total
            total += images

        rng = torch.Generator().manual_seed(0)
        with counting(model, count), torch.random.fork_rng(devices=[]):
            _with_steps(detector, steps).detect(model.eval(), trusted, rng)
        return total

    try:
        once = dict.fromkeys(wanted, 1)
        least = seen(once)
        return least + sum((seen(once | {at: 2}) - least) * (n - 1) for at, n in wanted.items())
    except Exception:  # a plugin that cannot do with so little says nothing of its time
        return None


def _steps(plugin: Plugin) -> dict[tuple[str, ...], int]:
    """All parameters that count steps, with those of inner plugins, by the way to them."""
    found: dict[tuple[str, ...], int] = {}
    for field in dataclasses.fields(plugin):  # type: ignore[arg-type]
        value = getattr(plugin, field.name)
        if isinstance(value, Plugin):
            found |= {(field.name, *at): steps for at, steps in _steps(value).items()}
        elif field.name.endswith("steps") and isinstance(value, int):
            found[field.name,] = value
    return found


def _with_steps(plugin: P, steps: dict[tuple[str, ...], int]) -> P:
    changes: dict[str, Any] = {at[0]: value for at, value in steps.items() if len(at) == 1}
    for name in {at[0] for at in steps if len(at) > 1}:
        inner = {at[1:]: value for at, value in steps.items() if at[0] == name and len(at) > 1}
        changes[name] = _with_steps(getattr(plugin, name), inner)
    return dataclasses.replace(plugin, **changes)  # type: ignore[type-var]


def check_gradient(model: Classifier, data: ImageSet) -> None:
    """See that the logits of a few images, plain and with noise, have a gradient.

    Raises:
        ModelError: there is none, or it is exactly 0 for all of them.
    """
    count = max(1, min(TIMED, images_per_pass(model, data.pixels.shape[1:])) // 2)
    rows = torch.linspace(0, len(data) - 1, count).long().to(data.device)
    plain, rng = data.pixels[rows].float() / 255, torch.Generator(data.device).manual_seed(0)
    # Pixels at the ends of their range alone would have none behind a clipping.
    noise = torch.rand(plain.shape, generator=rng, device=data.device)
    images = torch.stack([plain, (plain + noise) / 2]).requires_grad_(True)
    why = ""
    try:
        with torch.enable_grad():
            logits = logits_of(FrozenClassifier(model), images)
            # Not their plain sum, which may be the same for all images.
            total = (logits * torch.linspace(1, 2, model.classes, device=data.device)).sum()
            (gradient,) = torch.autograd.grad(total, images)
        reached = bool(gradient.any())
    except Exception as error:  # somebody's code, and what torch says of it
        reached, why = False, f" ({told(error)})"
    if not reached:
        raise ModelError(
            f"no gradient of the model reaches its images{why}, and triggers are reversed by it; "
            "let its forward leave out torch.no_grad, detach and rounding"
        )


def seconds_per_image(model: Classifier, data: ImageSet) -> float:
    """What one image with a trigger takes there and back through the model."""
    frozen, shape = FrozenClassifier(model), data.pixels.shape[1:]
    rng = torch.Generator(data.device).manual_seed(0)
    trigger = Patch.random(1, tuple(shape), rng)
    for variable in trigger.variables:
        variable.requires_grad_(True)

    def seconds(count: int) -> float:
        images = data.pixels[torch.arange(count) % len(data)].float() / 255
        started = clock.seconds(data.device)
        logits_of(frozen, trigger.apply(images)).sum().backward()
        return clock.seconds(data.device) - started

    most = images_per_pass(model, shape)
    count = min(TIMED, most)
    seconds(count)  # the first time is slower than any other
    while (taken := seconds(count)) < SECONDS and count < most:
        count = min(4 * count, most)
    return taken / count
