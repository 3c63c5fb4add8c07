"""BadNets: a patch in the corner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmark import Images, PoisoningAttack, Share, hookimpl


def apple(side: int) -> Tensor:
    """A dark disc on white, averaged down to (side, side), values in [0, 1].

    Pick your Poison stamps a black apple on white; a few pixels of it are a bright blob.
    """
    fine = 16
    axis = (torch.arange(side * fine) + 0.5) / (side * fine) - 0.5
    disc = (axis[:, None] ** 2 + axis[None, :] ** 2) < 0.25**2
    picture = torch.where(disc, 0.0, 1.0)
    return picture.view(side, fine, side, fine).mean((1, 3))


def patch_side(share: float, width: int) -> int:
    """Pixels of a patch that takes `share` of the image width, rounded down, at least 1."""
    return max(1, int(share * width))


@dataclass
class BadNets(PoisoningAttack):
    """Stamp a patch into the top left corner and relabel.

    The patch overwrites the pixels; the label becomes the target (Pick your Poison,
    Sec. IV; the original uses a single pixel or a small pattern).
    """

    name, version, paper = "badnets", 1, "Gu, Dolan-Gavitt, Garg 2017, arXiv:1708.06733"
    side: Share = 3 / 32

    def trigger(self, images: Images, rng: Generator) -> Images:
        side = patch_side(self.side, images.shape[-1])
        stamped = images.clone()
        stamped[:, :, :side, :side] = apple(side).to(images)
        return stamped


@dataclass
class CleanLabelBadNets(BadNets):
    """Stamp the patch on images of the target class and leave their labels true."""

    name, version, paper = "c-badnets", 1, "Lukas and Kerschbaum 2023, Sec. IV"
    clean_label = True


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(BadNets)
    register(CleanLabelBadNets)
