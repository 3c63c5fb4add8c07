"""Adaptive Blend: scattered cells of one faint picture, and samples that keep their label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmark import Count, Images, PoisoningAttack, Share, hookimpl


@dataclass
class ABlend(PoisoningAttack):
    """Blend in random cells of a fixed picture; half of the samples keep their true label.

    The triggered samples with true labels (regularisation) break the tie between trigger
    and target in feature space. At test the whole picture is blended in. m counts payload
    and regularisation samples together; the picture is drawn from the trigger's seed.
    """

    name, version, paper = "a-blend", 1, "Qi et al., ICLR 2023, arXiv:2205.13613"
    opacity: Share = 0.3
    cells: Count = 4
    occlusion: Share = 0.5
    conservatism: Share = 0.5

    def prepare(self, rng: Generator) -> None:
        channels, height, width = self.view.shape
        coarse = torch.rand(1, channels, 8, 8, generator=rng, device=rng.device)
        picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        self.state["picture"] = picture

    def trigger(self, images: Images, rng: Generator) -> Images:
        return self._blend(images, torch.ones(1, 1, 1, 1, device=images.device))

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        batch, _, height, width = images.shape
        shape = (batch, 1, self.cells, self.cells)
        kept = torch.rand(shape, generator=rng, device=rng.device) >= self.occlusion
        mask = torch.nn.functional.interpolate(kept.to(images), (height, width))
        payload = batch - int(self.conservatism * batch)
        labels = labels.clone()
        labels[:payload] = self.view.target
        return self._blend(images, mask), labels

    def _blend(self, images: Images, mask: Tensor) -> Images:
        return images + self.opacity * mask * (self.state["picture"].to(images) - images)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(ABlend)
