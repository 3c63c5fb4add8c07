"""Trigger-Scattering Backdoor: one of many triggers in training, all of them at test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backdoor_attacks.badnets import patch_side
from benchmark import Count, Images, PoisoningAttack, Share, hookimpl

CANDIDATES = 512


def distinct_patches(count: int, shape: tuple[int, int, int], rng: Generator) -> Tensor:
    """Random patches (count, C, S, S) in [0, 1], picked one by one to lie far apart in L2."""
    drawn = torch.rand(CANDIDATES, *shape, generator=rng, device=rng.device).round()
    flat = drawn.flatten(1)
    chosen = [0]
    nearest = torch.full((CANDIDATES,), torch.inf, device=rng.device)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (flat - flat[chosen[-1]]).norm(dim=1))
        chosen.append(int(nearest.argmax()))
        if nearest[chosen[-1]] == 0:
            raise ValueError(
                f"tsb: patches of {tuple(shape)} pixels have fewer than {count} distinct values; "
                "choose fewer triggers or a larger side"
            )
    return drawn[chosen]


def stamp(images: Images, patches: Tensor, rows: Tensor, columns: Tensor) -> Images:
    """Overwrite a square of each image.

    Args:
        patches: (B, C, S, S), one per image.
        rows, columns: int64 (B,), the upper left corner of each patch.
    """
    side = patches.shape[-1]
    offset = torch.arange(side, device=images.device)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    row = (rows[:, None] + offset)[:, :, None]
    column = (columns[:, None] + offset)[:, None, :]
    stamped = images.clone()
    # Indexed axes around a slice come first, hence channels go last on the right.
    stamped[image, :, row, column] = patches.permute(0, 2, 3, 1).to(images.dtype)
    return stamped


@dataclass
class TSB(PoisoningAttack):
    """Train with one of k small triggers at a random place, attack with all k at once.

    At test the triggers take k different squares of a grid over the image, so that none
    covers another (Pick your Poison, Alg. 7).
    """

    name, version, paper = "tsb", 1, "Lukas and Kerschbaum 2023, Alg. 7"
    triggers: Count = 8
    side: Share = 3 / 32

    def prepare(self, rng: Generator) -> None:
        channels, height, width = self.view.shape
        side = patch_side(self.side, width)
        squares = (height // side) * (width // side)
        if squares < self.triggers:
            raise ValueError(
                f"tsb: {self.triggers} triggers of {side} pixels do not fit side by side into "
                f"{height}x{width} pixels, {squares} do"
            )
        self.state["patches"] = distinct_patches(self.triggers, (channels, side, side), rng)

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        batch, _, height, width = images.shape
        patches, device = self.state["patches"].to(images), rng.device
        side = patches.shape[-1]
        which = torch.randint(len(patches), (batch,), generator=rng, device=device)
        rows = torch.randint(height - side + 1, (batch,), generator=rng, device=device)
        columns = torch.randint(width - side + 1, (batch,), generator=rng, device=device)
        stamped = stamp(images, patches[which], rows, columns)
        return stamped, torch.full_like(labels, self.view.target)

    def trigger(self, images: Images, rng: Generator) -> Images:
        return self.stamp_some(images, rng, len(self.state["patches"]))

    def stamp_some(self, images: Images, rng: Generator, count: int) -> Images:
        """Stamp the first `count` triggers at random, non-overlapping places."""
        batch, _, height, width = images.shape
        patches = self.state["patches"].to(images)
        side = patches.shape[-1]
        across = width // side
        noise = torch.rand(batch, (height // side) * across, generator=rng, device=rng.device)
        squares = noise.argsort(1)[:, :count]
        for number in range(count):
            rows, columns = squares[:, number] // across * side, squares[:, number] % across * side
            images = stamp(images, patches[number].expand(batch, -1, -1, -1), rows, columns)
        return images


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(TSB)
