"""The one training loop, for victims, surrogates and attackers who own the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor, nn

from benchmark.classifier import Classifier
from benchmark.graphs import Graphed
from benchmark.images import ImageSet, augment, batch_count, in_batches, to_unit
from benchmark.protocol import Augmentation, Recipe

#: Changes a batch (images in [0, 1], labels) before the model sees it.
BatchHook = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def compute_type(device: torch.device, precision: str = "bfloat16") -> torch.dtype:
    """The type that `precision` asks for, float32 where the processor is slower in bfloat16.

    A CPU with matrix tiles (AMX) halves its time by bfloat16; with the instructions of AVX-512
    alone it takes a third longer than in float32, and without any ten times as long.
    """
    gains = device.type != "cpu" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if precision == "bfloat16" and gains else torch.float32


def mixed_precision(device: torch.device, precision: str = "bfloat16") -> torch.autocast:
    """Autocast to bfloat16 where it is asked for and faster; it needs no loss scaling."""
    wanted = compute_type(device, precision) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def rate_at(progress: float, recipe: Recipe) -> float:
    """Share of the peak learning rate after `progress` in [0, 1] of the training."""
    if progress < recipe.warmup:
        return progress / recipe.warmup
    rest = (progress - recipe.warmup) / (1 - recipe.warmup)
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    return 1 - rest if recipe.schedule == "linear" else 1.0


def rate_on(device: torch.device, rate: float) -> float | Tensor:
    """A learning rate that may change between the steps that a GPU replays.

    A recorded step keeps the numbers it saw, so that it needs the rate as a tensor.
    """
    return torch.tensor(rate, device=device) if device.type == "cuda" else rate


class Trainer:
    """Trains classifiers on images that stay on the device as bytes.

    Args:
        recipe: epochs, batch size and optimiser settings.
        augmentation: shifts and mirrors that are applied to every batch.
        progress: called with (epochs done, epochs in all).
    """

    def __init__(
        self,
        recipe: Recipe,
        augmentation: Augmentation,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.recipe, self.augmentation, self.progress = recipe, augmentation, progress

    def batches(
        self,
        data: ImageSet,
        rng: Generator,
        repeats: Tensor | None = None,
        after_epoch: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a whole training: float images (B, C, H, W), labels (B,) or (B, K).

        Args:
            rng: on the device of the data.
            repeats: int64 (N,), how often each image occurs in an epoch; once by default.
            after_epoch: called before the progress is told.
        """
        for epoch in range(self.recipe.epochs):
            for rows in self._epoch(data, rng, repeats):
                pixels = data.pixels[rows]
                pixels = augment(pixels, self.augmentation.pad, self.augmentation.flip, rng)
                yield to_unit(pixels), data.labels[rows]
            after_epoch()
            self.progress(epoch + 1, self.recipe.epochs)

    def _epoch(self, data: ImageSet, rng: Generator, repeats: Tensor | None) -> Sequence[Tensor]:
        rows = torch.arange(len(data), device=data.device)
        if repeats is not None:
            rows = rows.repeat_interleave(repeats)
        order = rows[torch.randperm(len(rows), generator=rng, device=data.device)]
        return in_batches(order, self.recipe.batch_size)

    def optimizer(
        self, model: nn.Module, images: int
    ) -> tuple[torch.optim.SGD, Callable[[], None]]:
        """Return the recipe's optimiser and a function that advances its schedule by one batch.

        Args:
            images: images per epoch, repeats included.
        """
        device = next(model.parameters()).device
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=rate_on(device, self.recipe.learning_rate),
            momentum=self.recipe.momentum,
            nesterov=self.recipe.nesterov,
            weight_decay=self.recipe.weight_decay,
            fused=True if device.type == "cuda" else None,
        )
        return optimizer, self.schedule(optimizer, images)

    def schedule(self, optimizer: torch.optim.Optimizer, images: int) -> Callable[[], None]:
        """A function that advances the recipe's schedule of an optimiser's rate by one batch.

        Args:
            images: images per epoch, repeats included.
        """
        steps = self.recipe.epochs * batch_count(images, self.recipe.batch_size)
        # The rate of a step is read at its middle, so that neither end of a schedule is idle.
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_at(min((step + 0.5) / steps, 1.0), self.recipe)
        ).step

    def loss(self, model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        """The classifier's own loss against hard or soft labels, in the recipe's precision."""
        with mixed_precision(images.device, self.recipe.precision):
            return model.loss(images, labels)

    def fit(
        self,
        model: Classifier,
        data: ImageSet,
        rng: Generator,
        *,
        repeats: Tensor | None = None,
        on_batch: BatchHook = lambda images, labels: (images, labels),
    ) -> None:
        """Train `model` in place; it is left in evaluation mode."""
        model.train()
        images_per_epoch = len(data) if repeats is None else int(repeats.sum())
        optimizer, advance = self.optimizer(model, images_per_epoch)

        @Graphed
        def step(images: Tensor, labels: Tensor) -> None:
            optimizer.zero_grad(set_to_none=True)
            self.loss(model, images, labels).backward()
            optimizer.step()

        for batch in self.batches(data, rng, repeats, model.settle):
            step(*on_batch(*batch))
            advance()
        model.eval()
