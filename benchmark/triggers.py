"""Triggers that an inversion optimises, and that a detector or inverter returns."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Generator, Tensor


class Trigger(ABC):
    """J triggers; what is optimised are its `variables`, each with the leading dimension J."""

    variables: list[Tensor]

    @abstractmethod
    def apply(self, images: Tensor) -> Tensor:
        """Put every trigger on every image: (B, C, H, W) in [0, 1] to (J, B, C, H, W).

        Where images are (J, B, C, H, W), every trigger has B images of its own.
        """

    def take(self, rows: Tensor) -> Self:
        """The triggers of some rows, int64; gradients reach the variables of all."""
        part = copy.copy(self)
        part.variables = [variable[rows] for variable in self.variables]
        return part

    @property
    @abstractmethod
    def norms(self) -> Tensor:
        """L1 norm (J,) of what a trigger changes."""

    @property
    @abstractmethod
    def pictures(self) -> dict[str, Tensor]:
        """The triggers as images, each (J, channels, H, W), by name."""


def unsquash(values: Tensor) -> Tensor:
    """The u with tanh(u) / 2 + 1/2 = values, for values in [0, 1]."""
    return torch.atanh((values - 0.5) * (2 - 1e-6))


class Patch(Trigger):
    """Mask and pattern in [0, 1]: x' = (1 - m) x + m p (Neural Cleanse, eq. 2).

    Attributes:
        mask: (J, 1, H, W).
        pattern: (J, C, H, W).
    """

    def __init__(self, mask: Tensor, pattern: Tensor) -> None:
        self.variables = [unsquash(mask), unsquash(pattern)]

    @classmethod
    def random(cls, count: int, shape: tuple[int, ...], rng: Generator) -> Patch:
        """Uniform masks and patterns for images of shape (C, H, W)."""
        c, h, w = shape
        draw = torch.rand(count, 1 + c, h, w, generator=rng, device=rng.device)
        return cls(draw[:, :1], draw[:, 1:])

    @property
    def mask(self) -> Tensor:
        return torch.tanh(self.variables[0]) / 2 + 0.5

    @property
    def pattern(self) -> Tensor:
        return torch.tanh(self.variables[1]) / 2 + 0.5

    @property
    def norms(self) -> Tensor:
        return self.mask.flatten(1).sum(1)

    @property
    def pictures(self) -> dict[str, Tensor]:
        return {"mask": self.mask, "pattern": self.pattern}

    def apply(self, images: Tensor) -> Tensor:
        mask, pattern = self.mask[:, None], self.pattern[:, None]
        return images + mask * (pattern - images)


class Additive(Trigger):
    """An image-shaped sum, clipped: x' = clip(x + t, 0, 1); t is (J, C, H, W)."""

    def __init__(self, start: Tensor) -> None:
        self.variables = [start]

    @classmethod
    def random(cls, count: int, shape: tuple[int, ...], rng: Generator) -> Additive:
        """Uniform in [0, 0.01] for images of shape (C, H, W)."""
        return cls(0.01 * torch.rand(count, *shape, generator=rng, device=rng.device))

    @property
    def sum(self) -> Tensor:
        return self.variables[0]

    @property
    def norms(self) -> Tensor:
        return self.sum.abs().flatten(1).sum(1)

    @property
    def pictures(self) -> dict[str, Tensor]:
        return {"sum": self.sum}

    def apply(self, images: Tensor) -> Tensor:
        return (images + self.sum[:, None]).clamp(0, 1)
