"""Trigger inversion: all classes' triggers are optimised in one batch, on a frozen model.

J triggers meet B images in one forward pass of J x B images. Every loss is kept per trigger,
(J,), and Adam works entry by entry, so that a batch of J inversions takes exactly the steps
of J separate ones.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.fx.experimental.optimization import fuse

from benchmark.classifier import Classifier
from benchmark.images import TrustedData
from benchmark.memory import images_per_pass
from benchmark.training import compute_type
from benchmark.triggers import Trigger


class FrozenClassifier(Classifier):
    """A private copy of a classifier for inversion: no gradients of weights, batch norms folded.

    Args:
        model: the suspect, which stays as it is.
        precision: of the stages and the neck; logits are always float32. A processor that
            is slower in bfloat16 takes float32 instead.

    Each stage is folded for itself, so that `stage_maps` still works.
    """

    def __init__(self, model: Classifier, precision: str = "bfloat16") -> None:
        stages: OrderedDict[str, nn.Module] = OrderedDict(
            (name, _folded(stage)) for name, stage in model.stages.named_children()
        )
        super().__init__(
            stages, copy.deepcopy(model.neck), copy.deepcopy(model.head), model.mean.shape[1]
        )
        self.normalise_by(model.mean.flatten(), model.std.flatten())
        self.dtype = compute_type(model.mean.device, precision)
        self.to(model.mean.device).to(memory_format=torch.channels_last)
        self.stages.to(self.dtype)
        self.neck.to(self.dtype)
        self.eval().requires_grad_(False)

    def normalised(self, images: Tensor) -> Tensor:
        return super().normalised(images).to(self.dtype)

    def features(self, images: Tensor) -> Tensor:
        return super().features(images).float()


def _folded(stage: nn.Module) -> nn.Module:
    """A copy with folded batch norms; as it is where torch.fx cannot follow or would be wrong."""
    stage = copy.deepcopy(stage).eval()
    try:
        layers = {name for name, layer in stage.named_modules() if isinstance(layer, nn.Conv2d)}
        calls = [node.target for node in symbolic_trace(stage).graph.nodes if node.target in layers]
        # A convolution that is used twice has no single batch norm behind it.
        once = len(calls) == len(set(calls))
        folded: nn.Module = fuse(stage) if once else stage
    except Exception:  # a plugin's code meets symbols instead of tensors and may raise anything
        return stage
    return folded


def logits_of(model: Classifier, triggered: Tensor) -> Tensor:
    """Logits (J, B, K) of images (J, B, C, H, W), in one pass."""
    flat = triggered.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    logits: Tensor = model(flat)
    return logits.float().view(*triggered.shape[:2], -1)


def cross_entropy_to(logits: Tensor, classes: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean cross-entropy (J,) of logits (J, B, K) against one class per trigger.

    Args:
        classes: int64 (J,), or (J, B) where every image has its own.
        counted: bool (J, B), which images the mean is over; all by default.
    """
    wanted = classes[:, None].expand(logits.shape[:2]) if classes.ndim == 1 else classes
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), reduction="none"
    ).view(wanted.shape)
    return average(losses, counted)


def average(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean (J,) of values (J, B) over the images that are counted, 0 where none is."""
    if counted is None:
        return values.float().mean(1)
    return (values * counted).sum(1) / counted.sum(1).clamp(min=1)


def hit_rate(logits: Tensor, classes: Tensor, counted: Tensor | None = None) -> Tensor:
    """Share (J,) of images that are put into the trigger's class; arguments as above."""
    wanted = classes[:, None] if classes.ndim == 1 else classes
    return average((logits.argmax(2) == wanted).float(), counted)


def adam_steps(
    variables: list[Tensor],
    losses: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.5, 0.9),
    falling: bool = False,
) -> Iterator[int]:
    """Take Adam steps on J triggers at once, yielding the number of each, from 1 on.

    Args:
        losses: draws a batch and returns one loss per trigger, (J,).
        falling: let the learning rate fall in equal steps, to zero after the last one. At a
            constant rate a variable that belongs at zero swings around it as far as the rate.
    """
    optimizer = torch.optim.Adam(variables, learning_rate, betas)
    for step in range(1, steps + 1):
        if falling:
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - (step - 1) / steps)
        for variable in variables:
            variable.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        losses().sum().backward()
        for variable in variables:
            variable.requires_grad_(False)
        optimizer.step()
        yield step


def minimise(
    trigger: Trigger,
    losses: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.5, 0.9),
    falling: bool = False,
    after: Callable[[int], bool | None] = lambda step: None,
) -> None:
    """Take all Adam steps on the variables of a trigger; see `adam_steps`.

    Args:
        after: called with the number of every finished step, from 1 on; True ends it.
    """
    for step in adam_steps(
        trigger.variables,
        losses,
        steps=steps,
        learning_rate=learning_rate,
        betas=betas,
        falling=falling,
    ):
        if after(step):
            return


def success(model: Classifier, trigger: Trigger, classes: Tensor, data: TrustedData) -> Tensor:
    """Share (J,) of the images of other classes that each trigger puts into its class."""
    return _share_of_others(model, trigger, classes, data, lambda labels: classes[:, None])


def true_answers(model: Classifier, trigger: Trigger, classes: Tensor, data: TrustedData) -> Tensor:
    """Share (J,) of the images of other classes that keep their true label under the trigger."""
    return _share_of_others(model, trigger, classes, data, lambda labels: labels[None])


@torch.no_grad()
def _share_of_others(
    model: Classifier,
    trigger: Trigger,
    classes: Tensor,
    data: TrustedData,
    wanted: Callable[[Tensor], Tensor],
) -> Tensor:
    hits = torch.zeros(len(classes), device=classes.device)
    total = torch.zeros_like(hits)
    size = max(1, images_per_pass(model, data.pixels.shape[1:]) // len(classes))
    for rows in torch.arange(len(data), device=data.device).split(size):
        part = data.subset(rows)
        others = part.labels[None] != classes[:, None]
        answers = logits_of(model, trigger.apply(part.images)).argmax(2)
        hits += ((answers == wanted(part.labels)) & others).sum(1)
        total += others.sum(1)
    return hits / total.clamp(min=1)
