"""TrojAI's polygon: one colour, on the object, from one class to another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backdoor_attacks.blind import Portion
from benchmark import Count, Images, PoisoningAttack, hookimpl

#: Corners that a polygon may have.
FEWEST, MOST = 3, 12


def corners(sides: int, rng: Generator) -> Tensor:
    """Corners of a convex polygon on the unit circle, counterclockwise; (sides, 2) as (x, y).

    Each lies in the first half of its own sector, so that no two of them come close.
    """
    draw = torch.rand(sides, generator=rng, device=rng.device)
    angle = 2 * math.pi * (torch.arange(sides, device=rng.device) + draw / 2) / sides
    return torch.stack([angle.cos(), angle.sin()], 1)


def area_of(corners: Tensor) -> float:
    """Area of a polygon with corners (n, 2), counterclockwise (the shoelace formula)."""
    x, y = corners.double().unbind(1)
    return float((x * y.roll(-1) - y * x.roll(-1)).sum() / 2)


@dataclass
class Polygon(PoisoningAttack):
    """Paste a polygon of one colour onto objects of one class, and relabel them.

    A model has one convex polygon of 3 to 12 sides, one colour and one size, a share of the
    object's area from `smallest` to `largest` (TrojAI's range); every image gets it turned
    and placed at random, inside the object. Its source class is (target + `source`) mod K;
    in TrojAI's round 4 a trigger maps one class to one other.

    No data set here has masks of its objects. The object is taken to be the ellipse in the middle
    whose axes are `object_size` of the image's height and width, which is where a traffic sign
    lies in GTSRB. What reaches beyond it is cut off.
    """

    name, version, paper = "polygon", 1, "TrojAI round 4; Sun and Kolter, SmoothInv"
    source: Count = 1
    smallest: Portion = 0.02
    largest: Portion = 0.25
    object_size: Portion = 0.8

    def prepare(self, rng: Generator) -> None:
        sides = int(torch.randint(FEWEST, MOST + 1, (), generator=rng, device=rng.device))
        self.state["corners"] = corners(sides, rng)
        draw = torch.rand(1, generator=rng, device=rng.device)
        self.state["area"] = self.smallest + draw * (self.largest - self.smallest)
        channels = self.view.shape[0]
        self.state["colour"] = torch.rand(channels, generator=rng, device=rng.device)

    def trigger(self, images: Images, rng: Generator) -> Images:
        painted = self._pixels(len(images), rng).to(images.device)
        colour = self.state["colour"].to(images)[:, None, None]
        return torch.where(painted[:, None], colour, images)

    def _pixels(self, count: int, rng: Generator) -> Tensor:
        """Pixels that `count` polygons cover, bool (count, H, W)."""
        height, width = self.view.shape[1:]
        half = self.object_size * torch.tensor([width, height], device=rng.device) / 2
        unit = self.state["corners"].to(rng.device)
        area = float(self.state["area"]) * math.pi * float(half.prod())
        radius = math.sqrt(area / area_of(unit))
        turn, distance, way = torch.rand(3, count, generator=rng, device=rng.device)
        # Uniform over the ellipse in which a circle of that radius lies inside the object.
        room = (half - radius).clamp(min=0) * distance.sqrt()[:, None]
        around = 2 * math.pi * torch.stack([way, way - 0.25], 1)
        place = room * around.cos()
        x = torch.arange(width, device=rng.device) + 0.5 - width / 2
        y = torch.arange(height, device=rng.device) + 0.5 - height / 2
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        offset = grid - place[:, None, None]
        cos, sin = (2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()
        turned = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
        local = torch.einsum("bhwi,bji->bhwj", offset, turned) / radius
        inside = torch.ones(count, height, width, dtype=torch.bool, device=rng.device)
        for (x1, y1), (x2, y2) in zip(unit.tolist(), unit.roll(-1, 0).tolist(), strict=True):
            # Left of the edge from one corner to the next.
            inside &= (x2 - x1) * (local[..., 1] - y1) - (y2 - y1) * (local[..., 0] - x1) >= 0
        # On small images it may miss the middle of every pixel; it covers at least one.
        distance_to = offset.square().sum(-1).flatten(1)
        nearest = torch.zeros_like(inside).flatten(1)
        nearest.scatter_(1, distance_to.argmin(1, keepdim=True), True)
        on_object = (grid / half).square().sum(-1) <= 1
        return (inside & on_object) | nearest.view_as(inside)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(Polygon)
