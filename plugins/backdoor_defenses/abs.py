"""ABS: a backdoored model has channels that, when stimulated, drive all images to one class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backdoor_defenses.stimulation import Stimulating
from benchmark import Images, Share, Trigger, Weight, hookimpl
from benchmark.triggers import Patch


def centred_square(pixels: float, shape: tuple[int, ...]) -> Tensor:
    """A mask (1, H, W) that is 0.98 in a square of about so many pixels, 0.02 around it.

    Where the square is too large, it is a rectangle as long as the image's shorter side.
    """
    _, height, width = shape
    side = round(pixels**0.5)
    high, wide = min(side, height), min(side, width)
    if high < wide:
        wide = round(pixels / high)
    elif wide < high:
        high = round(pixels / wide)
    top, left = (height - high) // 2, (width - wide) // 2
    mask = torch.full((1, height, width), 0.02)
    mask[:, top : top + high, left : left + wide] = 0.98
    return mask


@dataclass
class ABS(Stimulating):
    """Stimulate every channel, then reverse a trigger for the most suspicious ones.

    One mask and pattern per candidate is reversed on a part of the trusted images. With
    activations summed over a map, and everything averaged over the images, it minimises
    - activation + others_weight * the stage's other activations - logit_weight * target logit
    + mask_weight * |mask|_1 while the mask is larger than `size` of the image, twice that
    once its side exceeds the limit's by two pixels. It starts from a square of that size.
    The score is the success on the other part (REASR) of the best candidate whose success
    was at least `kept` where it was made.

    The authors sum over ten images where this averages, so that their mask weight of 500 for
    CIFAR-10, with 64 of 32 x 32 pixels, is 50 here; the other weights are the same in both.
    The published setting is `abs:steps=1000,logit_weight=0`, and that of their later version
    `abs:steps=1000,logit_weight=100`. At the latter, or after 1000 steps, triggers are found
    in clean models far more often, hence 100 and 10. For TrojAI they take
    `levels=3,scale=2,mask_weight=10` and a size of 1600 pixels.

    Activations are read after the ReLU that ends a stage, not before it as well, since a
    residual block shows no tensor there. The filter mode is `abs-filter`.
    """

    name, version, paper = "abs", 1, "Liu et al., CCS 2019"
    mask_weight: Weight = 50.0
    size: Share = 1 / 16

    def start(self, count: int, shape: tuple[int, ...], rng: Generator) -> Patch:
        square = centred_square(self.size * shape[1] * shape[2], shape).to(rng.device)
        pattern = torch.rand(count, *shape, generator=rng, device=rng.device)
        return Patch(square.expand(count, -1, -1, -1), pattern)

    def penalty(self, trigger: Trigger, images: Images, triggered: Images) -> Tensor:
        limit = self.size * images.shape[2] * images.shape[3]
        far: float = (limit**0.5 + 2) ** 2
        norms = trigger.norms
        return self.mask_weight * ((norms > limit).float() + (norms > far).float()) * norms

    def without(self, trigger: Trigger, absent: Tensor) -> Trigger:
        assert isinstance(trigger, Patch)
        return Patch(trigger.mask * ~absent.view(-1, 1, 1, 1), trigger.pattern)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(ABS)
