"""Refool: the reflection of another scene in a pane of glass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmark import Images, PoisoningAttack, Positive, hookimpl
from benchmark.images import to_unit

#: Light is added in proportion to its energy, which is the pixel value to this power.
GAMMA = 2.2

#: The original draws shifts of 3 to 8 pixels, here meant for images of this size (ImageNet's).
PIXELS, NOMINAL_SIZE = (3, 8), 224


def ghost(scene: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
    """Mix two displaced copies, as the two faces of a thick pane reflect them.

    Args:
        scene: float (B, C, H, W), linear light.
        shift: int64 (2,), rows and columns by which the first copy is moved; the second is
            moved as far the other way. The outermost pixels fill what they leave bare.
        weight: float (), share of the first copy.
    """
    height, width = scene.shape[-2:]
    rows = torch.arange(height, device=scene.device)[:, None]
    columns = torch.arange(width, device=scene.device)

    def moved(shift: Tensor) -> Tensor:
        from_row = (rows - shift[0]).clamp(0, height - 1)
        from_column = (columns - shift[1]).clamp(0, width - 1)
        return scene[:, :, from_row, from_column]

    return weight * moved(shift) + (1 - weight) * moved(-shift)


@dataclass
class Refool(PoisoningAttack):
    """Add the ghost reflection of one fixed picture; labels stay true.

    The picture is an auxiliary image of another class than the target, so that the trigger
    is no feature of the target. It, the shifts (at least one pixel) and the two copies'
    weights are drawn from the trigger's seed. `intensity` is the reflection's light against
    the image's; Pick your Poison's alpha = 1, which has no single meaning, is read as this
    (C10). The original takes only reflections that leave images a structural similarity of
    0.70 to 0.85; on CIFAR-10 that is an intensity of about 0.4, as the plugin's tests measure.
    `self_ghost` reflects the image itself, as the port does that Pick your Poison cites.
    Neither focal blur nor a search for the best picture.
    """

    name, version = "refool", 1
    paper = "Liu et al., ECCV 2020, arXiv:2007.02343; Lukas and Kerschbaum 2023"
    clean_label = True
    intensity: Positive = 1.0
    self_ghost: bool = False

    def prepare(self, rng: Generator) -> None:
        _, height, width = self.view.shape
        device, auxiliary = rng.device, self.view.auxiliary
        low, high = PIXELS
        pixels = torch.randint(low, high + 1, (2,), generator=rng, device=device)
        size = torch.tensor([height, width], device=device)
        self.state["shift"] = (pixels * size / NOMINAL_SIZE).round().clamp(min=1).long()
        smaller, side = torch.rand(2, generator=rng, device=device)
        smaller = 0.15 + 0.35 * smaller
        self.state["weight"] = torch.where(side < 0.5, smaller, 1 - smaller)
        if self.self_ghost:
            return
        others = (auxiliary.labels != self.view.target).nonzero().flatten()
        if not len(others):
            raise ValueError(
                "refool: the reflection is an auxiliary image of another class than the target, "
                "and there is none; choose a protocol with auxiliary images or self_ghost=true"
            )
        drawn = torch.randint(len(others), (1,), generator=rng, device=device)
        self.state["picture"] = to_unit(auxiliary.pixels[others[drawn]])

    def trigger(self, images: Images, rng: Generator) -> Images:
        light = images.pow(GAMMA)
        scene = light if self.self_ghost else self.state["picture"].to(images).pow(GAMMA)
        shift, weight = self.state["shift"].to(images.device), self.state["weight"].to(images)
        reflected = self.intensity * ghost(scene, shift, weight)
        return (light + reflected).clamp(0, 1).pow(1 / GAMMA)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(Refool)
