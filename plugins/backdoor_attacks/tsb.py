"""Trigger-Scattering Backdoor: one of many triggers in training, all of them at test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backdoor_attacks.badnets import patch_size
from benchmark import Count, Images, PoisoningAttack, Share, hookimpl

#: So many patches are drawn, and so many more until there are enough distinct ones.
CANDIDATES = 512


def distinct_patches(count: int, shape: tuple[int, int, int], rng: Generator) -> Tensor:
    """Random patches (count, C, h, w), picked one by one to lie far apart in L2.

    Each channel of a pixel is 0 or 1; with fewer such patches than asked for, it raises a
    ValueError.
    """
    if count > 2 ** math.prod(shape):
        raise ValueError(
            f"tsb: patches of {tuple(shape)} pixels have fewer than {count} distinct values; "
            "choose fewer triggers or a larger side"
        )
    drawn = torch.empty(0, *shape, device=rng.device)
    while len(drawn.flatten(1).unique(dim=0)) < count:
        more = torch.rand(CANDIDATES, *shape, generator=rng, device=rng.device).round()
        drawn = torch.cat([drawn, more])
    flat = drawn.flatten(1)
    chosen = [0]
    nearest = torch.full((len(drawn),), torch.inf, device=rng.device)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (flat - flat[chosen[-1]]).norm(dim=1))
        chosen.append(int(nearest.argmax()))
    return drawn[chosen]


def stamp(images: Images, patches: Tensor, rows: Tensor, columns: Tensor) -> Images:
    """Overwrite a rectangle of each image.

    Args:
        patches: (B, C, h, w), one per image.
        rows, columns: int64 (B,), the upper left corner of each patch.
    """
    height, width = patches.shape[-2:]
    image = torch.arange(len(images), device=images.device)[:, None, None]
    row = (rows[:, None] + torch.arange(height, device=images.device))[:, :, None]
    column = (columns[:, None] + torch.arange(width, device=images.device))[:, None, :]
    stamped = images.clone()
    # Indexed axes around a slice come first, hence channels go last on the right.
    stamped[image, :, row, column] = patches.permute(0, 2, 3, 1).to(images.dtype)
    return stamped


@dataclass
class TSB(PoisoningAttack):
    """Train with one of k small triggers at a random place, attack with all k at once.

    Each trigger takes `side` of the image's height and of its width. At test they take k
    different fields of a grid over the image, so that none covers another (Pick your Poison,
    Alg. 7, with i from 1..k, C12).
    """

    name, version, paper = "tsb", 2, "Lukas and Kerschbaum 2023, Alg. 7"
    triggers: Count = 8
    side: Share = 3 / 32

    def prepare(self, rng: Generator) -> None:
        channels, height, width = self.view.shape
        high, wide = patch_size(self.side, height, width)
        fields = (height // high) * (width // wide)
        if fields < self.triggers:
            raise ValueError(
                f"tsb: {self.triggers} triggers of {high}x{wide} pixels do not fit side by side "
                f"into {height}x{width} pixels, {fields} do"
            )
        self.state["patches"] = distinct_patches(self.triggers, (channels, high, wide), rng)

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        batch, _, height, width = images.shape
        patches, device = self.state["patches"].to(images), rng.device
        high, wide = patches.shape[-2:]
        which = torch.randint(len(patches), (batch,), generator=rng, device=device)
        rows = torch.randint(height - high + 1, (batch,), generator=rng, device=device)
        columns = torch.randint(width - wide + 1, (batch,), generator=rng, device=device)
        stamped = stamp(images, patches[which], rows, columns)
        return stamped, torch.full_like(labels, self.view.target)

    def trigger(self, images: Images, rng: Generator) -> Images:
        return self.stamp_some(images, rng, len(self.state["patches"]))

    def stamp_some(self, images: Images, rng: Generator, count: int) -> Images:
        """Stamp the first `count` triggers at random, non-overlapping places."""
        batch, _, height, width = images.shape
        patches = self.state["patches"].to(images)
        high, wide = patches.shape[-2:]
        across = width // wide
        noise = torch.rand(batch, (height // high) * across, generator=rng, device=rng.device)
        fields = noise.argsort(1)[:, :count]
        for number in range(count):
            rows, columns = fields[:, number] // across * high, fields[:, number] % across * wide
            images = stamp(images, patches[number].expand(batch, -1, -1, -1), rows, columns)
        return images


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(TSB)
