"""Blend: one faint picture over the whole image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator

from benchmark import Images, PoisoningAttack, Share, hookimpl


@dataclass
class Blend(PoisoningAttack):
    """Blend one fixed picture of random pixels into the whole image, and relabel.

    x' = (1 - opacity) x + opacity T (Chen et al.'s blended injection with a random pattern: every
    pixel and channel of T is uniform in [0, 1], drawn once from the trigger's seed). LSP plays it
    on a tenth of the images and publishes neither picture nor opacity; 0.2 is the original's usual
    one. The opacity is the same in training and at test.
    """

    name, version = "blend", 1
    paper = (
        "Chen et al. 2017, arXiv:1712.05526, blended injection; Li et al., LSP Framework, Tab. 1"
    )
    opacity: Share = 0.2

    def prepare(self, rng: Generator) -> None:
        self.state["picture"] = torch.rand(1, *self.view.shape, generator=rng, device=rng.device)

    def trigger(self, images: Images, rng: Generator) -> Images:
        return images.lerp(self.state["picture"].to(images), self.opacity)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(Blend)
