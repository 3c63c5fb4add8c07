"""An attack and a repair as a stranger would write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator

from benchmark import (
    Classifier,
    Count,
    Images,
    PoisoningAttack,
    Repair,
    Share,
    TrustedData,
    hookimpl,
)


@dataclass
class Checkerboard(PoisoningAttack):
    """Blend a checkerboard into the whole image and relabel."""

    name, version, paper = "checkerboard", 1, "none, made for a test"
    opacity: Share = 0.4

    def trigger(self, images: Images, rng: Generator) -> Images:
        height, width = images.shape[2:]
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        board = ((rows + columns) % 2).to(images)
        return images + self.opacity * (board - images)


@dataclass
class Noise(Repair):
    """Add a little noise to every weight, step by step."""

    name, version, paper = "weight-noise", 1, "none, made for a test"
    steps: Count = 4
    scale: Share = 0.001

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        for _ in range(self.steps):
            with torch.no_grad():
                for weight in model.parameters():
                    noise = torch.randn(weight.shape, generator=rng, device=rng.device)
                    weight += self.scale * noise
            yield


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(Checkerboard)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(Noise)
