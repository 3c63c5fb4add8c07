"""The classifier that every plugin meets: it takes pixels in [0, 1] and normalises them itself."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark.images import rows_at_once


class Classifier(nn.Module):
    """Stages, a neck that flattens, and a linear head.

    Args:
        stages: named parts in order; their outputs (B, C, H, W) serve attention maps.
        neck: turns the last stage's output into features (B, D).
        head: turns features into logits (B, K).
        channels: colour channels C of the images.

    Attributes:
        mean, std: (1, C, 1, 1), part of the saved weights; set with `normalise_by`.
        class_names: what the classes are called; empty where nobody said.
    """

    mean: Tensor
    std: Tensor
    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        stages: OrderedDict[str, nn.Module],
        neck: nn.Module,
        head: nn.Linear,
        channels: int,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, channels, 1, 1), 0.25))
        self.stages = nn.Sequential(stages)
        self.neck = neck
        self.head = head
        self._frozen: list[str] = []

    def normalise_by(self, mean: Tensor, std: Tensor) -> None:
        """Set the first layer from statistics per channel, each (C,)."""
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.view_as(self.std).clamp(min=1e-3))

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The stages by name, then neck and head."""
        return {**dict(self.stages.named_children()), "neck": self.neck, "head": self.head}

    def train_only(self, names: Sequence[str]) -> None:
        """Freeze all other parts: no gradients, and evaluation mode whatever `train` is told."""
        self._frozen = [name for name in self.parts if name not in names]
        for name in self._frozen:
            self.parts[name].eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self._frozen:
            self.parts[name].eval()
        return self

    def private_copy(self) -> Self:
        """A copy in evaluation mode, all of whose weights may be changed."""
        return copy.deepcopy(self).requires_grad_(True).eval()

    @property
    def classes(self) -> int:
        return self.head.out_features

    def normalised(self, images: Tensor) -> Tensor:
        """What the stages are given for images (B, C, H, W) in [0, 1]."""
        return (images - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (B, D) of images (B, C, H, W) in [0, 1]."""
        hidden: Tensor = self.neck(self.stages(self.normalised(images)))
        return hidden

    def stage_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Output (B, C, H, W) of every named stage."""
        maps, hidden = {}, self.normalised(images)
        for name, stage in self.stages.named_children():
            maps[name] = hidden = stage(hidden)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """What a training makes small, for labels (B,) or soft ones (B, K): mean cross-entropy."""
        return cross_entropy(self(images), labels)

    def settle(self) -> None:
        """Update what is computed from the weights, after they were loaded or trained for an epoch.

        Most models have nothing of the kind; CLIP's zero-shot head is one.
        """


def channel_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel, each (C,) in [0, 1], of uint8 pixels (N, C, H, W)."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        # Part by part, since what is counted is copied.
        parts = pixels[:, channel].split(rows_at_once(pixels))
        counts = torch.zeros(256, dtype=torch.int64)
        for part in parts:
            counts += torch.bincount(part.flatten(), minlength=256).cpu()
        share = counts / counts.sum()
        means.append((share * values).sum())
        deviations.append((share * (values - means[-1]) ** 2).sum().sqrt())
    return torch.stack(means).float(), torch.stack(deviations).float()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
