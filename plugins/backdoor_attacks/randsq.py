"""RandSQ: a square of random colour at a random place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backdoor_attacks.badnets import patch_size
from backdoor_attacks.tsb import stamp
from benchmark import Images, PoisoningAttack, Share, hookimpl


@dataclass
class RandSQ(PoisoningAttack):
    """Stamp a square of one random colour at a random place, and relabel.

    It takes `side` of the image's height and of its width: 3x3 of 32x32 pixels. Colour and
    place are drawn once, from the trigger's seed; whether the source draws them for each model
    or for each image is not said (C7), and `per_image=True` is the other reading.
    """

    name, version, paper = "randsq", 1, "Li et al., LSP Framework, Tab. 1"
    side: Share = 3 / 32
    per_image: bool = False

    def prepare(self, rng: Generator) -> None:
        if not self.per_image:
            self.state.update(self._drawn(1, rng))

    def trigger(self, images: Images, rng: Generator) -> Images:
        square = self._drawn(len(images), rng) if self.per_image else self.state
        colours, rows, columns = (
            square[name].to(images.device).expand(len(images), *square[name].shape[1:])
            for name in ("colour", "row", "column")
        )
        size = patch_size(self.side, *images.shape[-2:])
        return stamp(images, colours[:, :, None, None].expand(-1, -1, *size), rows, columns)

    def _drawn(self, count: int, rng: Generator) -> dict[str, Tensor]:
        """`count` squares: colours (count, C) in [0, 1], and where their upper left corners are."""
        channels, height, width = self.view.shape
        high, wide = patch_size(self.side, height, width)

        def below(bound: int) -> Tensor:
            return torch.randint(bound, (count,), generator=rng, device=rng.device)

        return {
            "colour": torch.rand(count, channels, generator=rng, device=rng.device),
            "row": below(height - high + 1),
            "column": below(width - wide + 1),
        }


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(RandSQ)
