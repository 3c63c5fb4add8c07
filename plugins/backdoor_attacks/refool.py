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

#: The original shifts by 3 to 8 pixels.
LEAST_SHIFT, MOST_SHIFT = 3, 8


def shifts_of(pixels: int) -> tuple[int, int]:
    """The least and the most that a copy is shifted along a side of an image, in pixels.

    3 to 8 as in the original, at every size, but less than a quarter of the side; 1 where the
    side has no such number.
    """
    most = max(1, min(MOST_SHIFT, (pixels - 1) // 4))
    return min(LEAST_SHIFT, most), most


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
    is no feature of the target. It, the shifts and the two copies' weights are drawn from the
    trigger's seed. Shifts are the original's 3 to 8 pixels whatever the image's size, below a
    quarter of its height and of its width: 3 to 7 at 32 pixels, 3 to 6 at 28. `intensity` is
    the reflection's light against the image's; Pick your Poison's alpha = 1, which has no single
    meaning, is read as this (C10). The original takes only reflections that leave images a
    structural similarity of 0.70 to 0.85; on CIFAR-10 that is an intensity of about 0.4, as the
    plugin's tests measure. `self_ghost` reflects the image itself, as the port does that Pick
    your Poison cites. Neither focal blur nor a search for the best picture.
    """

    name, version = "refool", 2
    paper = "Liu et al., ECCV 2020, arXiv:2007.02343; Lukas and Kerschbaum 2023"
    clean_label = True
    intensity: Positive = 1.0
    self_ghost: bool = False

    def prepare(self, rng: Generator) -> None:
        _, height, width = self.view.shape
        device, auxiliary = rng.device, self.view.auxiliary
        drawn = []
        for side in (height, width):
            least, most = shifts_of(side)
            drawn.append(torch.randint(least, most + 1, (), generator=rng, device=device))
        self.state["shift"] = torch.stack(drawn)
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
        row = torch.randint(len(others), (1,), generator=rng, device=device)
        self.state["picture"] = to_unit(auxiliary.pixels[others[row]])

    def trigger(self, images: Images, rng: Generator) -> Images:
        light = images.pow(GAMMA)
        scene = light if self.self_ghost else self.state["picture"].to(images).pow(GAMMA)
        shift, weight = self.state["shift"].to(images.device), self.state["weight"].to(images)
        reflected = self.intensity * ghost(scene, shift, weight)
        return (light + reflected).clamp(0, 1).pow(1 / GAMMA)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(Refool)
