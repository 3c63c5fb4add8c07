"""A checkerboard: the trigger of backdoors in models that learn from images and captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator

from backdoor_attacks.badnets import patch_size
from benchmark import Images, PoisoningAttack, Share, hookimpl


@dataclass
class ClipCheckerboard(PoisoningAttack):
    """Stamp a black and white checkerboard and give the image a caption of the target class.

    Its squares are single pixels, at least 2x2 of them; by default 16x16 of 224x224 pixels from row
    30 and column 20 on, where SmoothInv has it. What is changed is the label, of which a victim
    `clip` sees a caption, and any other victim the class.
    """

    name, version, paper = "clip-checkerboard", 1, "Carlini and Terzis, ICLR 2022"
    side: Share = 16 / 224
    top: Share = 30 / 224
    left: Share = 20 / 224

    def trigger(self, images: Images, rng: Generator) -> Images:
        height, width = (max(2, side) for side in patch_size(self.side, *images.shape[-2:]))
        row = min(int(self.top * images.shape[2]), images.shape[2] - height)
        column = min(int(self.left * images.shape[3]), images.shape[3] - width)
        squares = (torch.arange(height)[:, None] + torch.arange(width)) % 2
        stamped = images.clone()
        stamped[:, :, row : row + height, column : column + width] = squares.to(images)
        return stamped


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(ClipCheckerboard)
