"""Exchanging channels between the features of two groups of images, for ExRay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.inversion import FrozenClassifier
from benchmark.memory import images_per_pass


def exchange(head: nn.Module, masks: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Logits (J, 2, n, K) after an exchange of channels between paired features.

    Args:
        masks: (J, D) in [0, 1], how much of a channel is exchanged.
        old, new: features (J, n, D). The first half of the result is of `old` with channels
            of `new`, the second the other way round.
    """
    g = masks[:, None]
    logits: Tensor = head(torch.stack([g * new + (1 - g) * old, g * old + (1 - g) * new], 1))
    return logits


def accuracies(logits: Tensor, wanted: Tensor) -> Tensor:
    """Share (J, 2) of logits (J, 2, n, K) whose largest is the wanted class, int64 (J, 2)."""
    return (logits.argmax(3) == wanted[:, :, None]).float().mean(2)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """What two masks (J, D) share, as a part of each of them: (J, 2)."""
    shared = torch.minimum(first, second).sum(1)
    return torch.stack([shared / first.sum(1), shared / second.sum(1)], 1)


@torch.no_grad()
def features_of(
    frozen: FrozenClassifier, images: Tensor, apply: Callable[[Tensor], Tensor], count: int
) -> Tensor:
    """Features (J, B, D) of images (B, C, H, W) that `apply` turns into (J, B, C, H, W).

    Args:
        count: how many copies of an image `apply` makes, some of which it may drop.
    """
    parts = []
    for part in images.split(max(1, images_per_pass(frozen, images.shape[1:]) // count)):
        copies = apply(part)
        flat = copies.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        parts.append(frozen.features(flat).view(*copies.shape[:2], -1))
    return torch.cat(parts, 1)
