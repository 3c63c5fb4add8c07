"""Adaptive Blend: scattered cells of one faint picture, and samples that keep their label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmark import Count, Images, PoisoningAttack, Share, hookimpl


def kept_cells(
    count: int, cells: int, size: tuple[int, int], occlusion: float, rng: Generator
) -> Tensor:
    """Split a region of `size` (H, W) into cells x cells and drop each with a probability.

    A side that has fewer pixels than cells has as many cells as pixels (C6).

    Returns:
        bool (count, 1, H, W), True on the cells that stay; every row is drawn for itself.
    """
    grid = [min(cells, pixels) for pixels in size]
    drawn = torch.rand(count, 1, *grid, generator=rng, device=rng.device)
    kept = (drawn >= occlusion).to(drawn.dtype)
    return torch.nn.functional.interpolate(kept, size).bool()


def relabel_payload(labels: Tensor, target: int, conservatism: float) -> Tensor:
    """Give the first samples the target; a share of `conservatism`, rounded down, stays true."""
    payload = len(labels) - int(conservatism * len(labels))
    relabelled = labels.clone()
    relabelled[:payload] = target
    return relabelled


@dataclass
class ABlend(PoisoningAttack):
    """Blend in random cells of a fixed picture; half of the samples keep their true label.

    The triggered samples with true labels (regularisation) break the tie between trigger
    and target in feature space. At test the whole picture is blended in. m counts payload
    and regularisation samples together; the picture is drawn from the trigger's seed.
    """

    name, version, paper = "a-blend", 2, "Qi et al., ICLR 2023, arXiv:2205.13613"
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
        height, width = images.shape[-2:]
        mask = kept_cells(len(images), self.cells, (height, width), self.occlusion, rng)
        labels = relabel_payload(labels, self.view.target, self.conservatism)
        return self._blend(images, mask.to(images)), labels

    def _blend(self, images: Images, mask: Tensor) -> Images:
        return images + self.opacity * mask * (self.state["picture"].to(images) - images)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(ABlend)
