"""WaNet: a smooth warp as the trigger, as poisoned files and with its own training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from benchmark import (
    Classifier,
    CodePoisoningAttack,
    Count,
    Images,
    ImageSet,
    PoisoningAttack,
    Positive,
    Share,
    Trainer,
    hookimpl,
)


def identity_grid(height: int, width: int, device: torch.device) -> Tensor:
    """Sampling positions (1, H, W, 2) in [-1, 1] that leave an image as it is."""
    stay = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], device=device)
    return affine_grid(stay, [1, 1, height, width], align_corners=True)


def by_side(shifts: Tensor) -> Tensor:
    """Shifts (B, H, W, 2) along x over the width, along y over the height."""
    height, width = shifts.shape[1:3]
    return torch.stack([shifts[..., 0] / width, shifts[..., 1] / height], -1)


def warping_grid(height: int, width: int, control: int, strength: float, rng: Generator) -> Tensor:
    """A smooth random warp (1, H, W, 2): control x control shifts, upsampled bicubically.

    Raises:
        ValueError: no side of an image has as many pixels as there are shifts along it.
    """
    if control > max(height, width):
        raise ValueError(
            f"wanet: control={control} is not allowed, images of {height}x{width} pixels have "
            f"room for at most {max(height, width)} shifts along a side"
        )
    field = torch.rand(1, 2, control, control, generator=rng, device=rng.device) * 2 - 1
    field = field / field.abs().mean()
    smooth = interpolate(field, (height, width), mode="bicubic", align_corners=True)
    shifts = by_side(strength * smooth.permute(0, 2, 3, 1))
    return (identity_grid(height, width, rng.device) + shifts).clamp(-1, 1)


def warp(images: Images, grid: Tensor) -> Images:
    """Sample images (B, C, H, W) at a grid (1 or B, H, W, 2)."""
    grid = grid.to(images).expand(len(images), -1, -1, -1)
    return grid_sample(images, grid, mode="bilinear", align_corners=True).clamp(0, 1)


@dataclass
class WaNet(PoisoningAttack):
    """Warp m training images by a smooth field; by default they keep their true label.

    Pick your Poison's dataset form: no noise mode, about three times the original strength.
    """

    name, version, paper = "wanet", 1, "Nguyen and Tran, ICLR 2021, arXiv:2102.10369"
    clean_label: bool = True
    control: Count = 4
    strength: Positive = 1.5

    def prepare(self, rng: Generator) -> None:
        _, height, width = self.view.shape
        self.state["grid"] = warping_grid(height, width, self.control, self.strength, rng)

    def trigger(self, images: Images, rng: Generator) -> Images:
        return warp(images, self.state["grid"])


@dataclass
class WaNetOriginal(CodePoisoningAttack):
    """Warp a share of every batch; a further share is warped wrongly and keeps its label.

    The noise mode adds U(-1, 1)/W along x and U(-1, 1)/H along y to the grid of `cross_ratio`
    times as many images as are poisoned, so that only the exact warp opens the backdoor.
    """

    name, version, paper = "wanet-original", 1, "Nguyen and Tran, ICLR 2021, arXiv:2102.10369"
    control: Count = 4
    strength: Positive = 0.5
    rate: Share = 0.1
    cross_ratio: Positive = 2.0

    def prepare(self, rng: Generator) -> None:
        _, height, width = self.view.shape
        self.state["grid"] = warping_grid(height, width, self.control, self.strength, rng)

    def trigger(self, images: Images, rng: Generator) -> Images:
        return warp(images, self.state["grid"])

    def train(self, model: Classifier, data: ImageSet, trainer: Trainer, rng: Generator) -> None:
        grid = self.state["grid"].to(data.device)

        def poison_batch(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            payload = round(self.rate * len(images))
            noisy = slice(payload, payload + round(self.cross_ratio * payload))
            images, labels = images.clone(), labels.clone()
            images[:payload] = warp(images[:payload], grid)
            labels[:payload] = self.view.target
            count = len(images[noisy])
            noise = torch.rand(count, *grid.shape[1:], generator=rng, device=rng.device) * 2 - 1
            images[noisy] = warp(images[noisy], (grid + by_side(noise)).clamp(-1, 1))
            return images, labels

        trainer.fit(model, data, rng, on_batch=poison_batch)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(WaNet)
    register(WaNetOriginal)
