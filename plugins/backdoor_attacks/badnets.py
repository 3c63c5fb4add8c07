"""BadNets: a patch in the corner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmark import Images, PoisoningAttack, Share, hookimpl


def apple(height: int, width: int) -> Tensor:
    """A dark disc on white, averaged down to (height, width), values in [0, 1].

    Pick your Poison stamps a black apple on white; a few pixels of it are a bright blob. Where
    height and width differ, the disc is stretched with the patch.
    """
    fine = 16

    def squares(pixels: int) -> Tensor:
        return ((torch.arange(pixels * fine) + 0.5) / (pixels * fine) - 0.5) ** 2

    disc = squares(height)[:, None] + squares(width)[None, :] < 0.25**2
    picture = torch.where(disc, 0.0, 1.0)
    return picture.view(height, fine, width, fine).mean((1, 3))


def patch_size(share: float, height: int, width: int) -> tuple[int, int]:
    """Height and width, in pixels, of a patch that takes `share` of the image's, rounded down.

    Each is at least 1, and no larger than the image's for a share of at most 1.
    """
    return max(1, int(share * height)), max(1, int(share * width))


@dataclass
class BadNets(PoisoningAttack):
    """Stamp a patch into the top left corner and relabel.

    The patch overwrites the pixels and takes `side` of the image's height and of its width; the
    label becomes the target (Pick your Poison, App. A-B and Sec. V-D1; the original uses a
    single pixel or a small pattern).
    """

    name, version, paper = "badnets", 2, "Gu, Dolan-Gavitt, Garg 2017, arXiv:1708.06733"
    side: Share = 3 / 32

    def trigger(self, images: Images, rng: Generator) -> Images:
        height, width = patch_size(self.side, *images.shape[-2:])
        stamped = images.clone()
        stamped[:, :, :height, :width] = apple(height, width).to(images)
        return stamped


@dataclass
class CleanLabelBadNets(BadNets):
    """Stamp the patch on images of the target class and leave their labels true."""

    name, version, paper = "c-badnets", 2, "Lukas and Kerschbaum 2023"
    clean_label = True


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(BadNets)
    register(CleanLabelBadNets)
