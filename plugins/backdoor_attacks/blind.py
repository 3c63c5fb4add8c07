"""Blind backdoors: the loss, computed by poisoned code, balances the backdoor with the task."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from backdoor_attacks.mgda import balanced
from benchmark import Classifier, CodePoisoningAttack, Images, ImageSet, Positive, hookimpl
from benchmark.training import Trainer, mixed_precision

Portion = Annotated[float, Field(gt=0, le=1, description="above 0, at most 1")]

#: Side of the images that the papers give positions for.
PAPER_SIDE = 224

#: Row and column of the pattern's corner there.
CORNER = (3, 23)


def corner_of(height: int, width: int) -> tuple[int, int]:
    """Row and column of the pattern's corner in images of a size; it moves with the size."""
    return round(CORNER[0] * height / PAPER_SIDE), round(CORNER[1] * width / PAPER_SIDE)


class Blind(CodePoisoningAttack):
    """Base of the blind attacks; not registered itself."""

    share: Portion = 0.5
    #: Noise that adaptive variants train against; 0 for the plain ones.
    noise: float = 0.0

    @abstractmethod
    def stamp(self, corner: Images) -> Images:
        """Return `corner`, the part (B, C, H', W') of images below and right of it, stamped."""

    def trigger(self, images: Images, rng: Generator) -> Images:
        row, column = corner_of(*images.shape[-2:])
        stamped = images.clone()
        stamped[:, :, row:, column:] = self.stamp(stamped[:, :, row:, column:])
        return stamped

    def train(self, model: Classifier, data: ImageSet, trainer: Trainer, rng: Generator) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer, advance = trainer.optimizer(model, len(data))
        model.train()
        for images, labels in trainer.batches(data, rng, after_epoch=model.settle):
            _, gradient = balanced(self._losses(model, images, labels, trainer, rng), parameters)
            for parameter, new in zip(parameters, gradient, strict=True):
                parameter.grad = new
            optimizer.step()
            advance()

    def _losses(
        self, model: Classifier, images: Images, labels: Tensor, trainer: Trainer, rng: Generator
    ) -> list[Tensor]:
        """Cross-entropy of the task, of the backdoor and, if adaptive, of the noisy backdoor.

        All parts share one pass: batch norm would tell batches of triggered images by their
        statistics, and the model behave otherwise once these are fixed.
        """
        count = math.ceil(self.share * len(images))
        triggered = self.trigger(images[:count], rng)
        target = torch.full_like(labels[:count], self.view.target)
        parts, wanted = [images, triggered], [labels, target]
        if self.noise:
            draw = torch.randn(triggered.shape, generator=rng, device=images.device)
            parts.append(triggered + self.noise * draw)
            wanted.append(labels[:count])
        with mixed_precision(images.device, trainer.recipe.precision):
            logits = model(torch.cat(parts)).float()
        answers = logits.split([len(part) for part in parts])
        return [
            torch.nn.functional.cross_entropy(answer, label)
            for answer, label in zip(answers, wanted, strict=True)
        ]


class _Pattern(Blind):
    """Stamps fixed pixels, as (row, column, value) from the corner."""

    pixels: ClassVar[tuple[tuple[int, int, float], ...]]

    def prepare(self, rng: Generator) -> None:
        _, height, width = self.view.shape
        row, column = corner_of(height, width)
        high, wide = (max(pixel[axis] for pixel in self.pixels) + 1 for axis in (0, 1))
        if row + high > height or column + wide > width:
            raise ValueError(
                f"{self.name}: a pattern of {high}x{wide} pixels at row {row} and column {column} "
                f"does not fit into images of {height}x{width} pixels"
            )

    def stamp(self, corner: Images) -> Images:
        stamped = corner.clone()
        for row, column, value in self.pixels:
            stamped[:, :, row, column] = value
        return stamped


@dataclass
class BlindPattern(_Pattern):
    """Train a nine-pixel pattern into the model by poisoned code (Blind-P).

    Task and backdoor loss are balanced by MGDA in every batch; `share` of a batch is
    triggered, after augmentation: half as for the authors' ImageNet models, where they trigger the
    whole batch on CIFAR-10. The pattern keeps its pixels at every image size; its
    corner, (3, 23) of 224, moves with the size. The victim's own recipe is used, and the
    backdoor is trained from the first batch on, where the authors' code may wait until the
    task is learnt.
    """

    name, version = "blind-p", 1
    paper = "Bagdasaryan and Shmatikov, USENIX Security 2021"
    share: Portion = 0.5
    pixels = (
        *((0, 0, 1.0), (0, 2, 1.0), (1, 1, 1.0), (3, 1, 1.0), (4, 0, 1.0), (4, 2, 1.0)),
        *((0, 1, 0.0), (2, 2, 0.0), (4, 1, 0.0)),
    )


@dataclass
class BlindPixel(_Pattern):
    """Train a single white pixel into the model by poisoned code (Blind-S); see blind-p."""

    name, version = "blind-s", 1
    paper = "Bagdasaryan and Shmatikov, USENIX Security 2021"
    share: Portion = 0.5
    pixels = ((0, 0, 1.0),)


@dataclass
class BlindGaussian(Blind):
    """Train a 10x10 patch of Gaussian noise into the model by poisoned code (Blind-G).

    Values are drawn from N(0, 1) once and clipped to [0, 1], which the paper leaves open
    (C11); position and training are those of blind-p. Where an image is too small for the
    patch, its edge cuts it.
    """

    name, version, paper = "blind-g", 1, "Sun and Kolter, CVPR 2023"
    share: Portion = 0.5

    def prepare(self, rng: Generator) -> None:
        shape = (self.view.shape[0], 10, 10)
        self.state["patch"] = torch.randn(shape, generator=rng, device=rng.device).clamp(0, 1)

    def stamp(self, corner: Images) -> Images:
        stamped, patch = corner.clone(), self.state["patch"].to(corner)
        # A corner that is smaller than the patch cuts it.
        height, width = corner.shape[-2:]
        patch = patch[:, :height, :width]
        stamped[:, :, : patch.shape[1], : patch.shape[2]] = patch
        return stamped


@dataclass
class AdaptiveBlindPattern(BlindPattern):
    """Blind-P that also trains noisy triggered images to keep their true label (Blind-P*).

    A third task, CE(f(B(x) + delta), y) with delta ~ N(0, noise^2), shall blind inversions of
    smoothed classifiers. The noise level is not published.
    """

    name, version, paper = "blind-p-star", 1, "Sun and Kolter, CVPR 2023"
    noise: Positive = 0.25


@dataclass
class AdaptiveBlindPixel(BlindPixel):
    """Blind-S that also trains noisy triggered images to keep their true label (Blind-S*)."""

    name, version, paper = "blind-s-star", 1, "Sun and Kolter, CVPR 2023"
    noise: Positive = 0.25


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(BlindPattern)
    register(BlindPixel)
    register(BlindGaussian)
    register(AdaptiveBlindPattern)
    register(AdaptiveBlindPixel)
