"""ABS's filter mode: a trigger in feature space is reversed as a filter over the whole image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from backdoor_defenses.similarity import structural_similarity
from backdoor_defenses.stimulation import Stimulating
from benchmark import Count, Images, Positive, Share, Trigger, Weight, hookimpl

#: How far the weights of a filter start from those that leave an image as it is.
JITTER = 0.05


class Filter(Trigger):
    """A linear map of every pixel's colours and of its window's largest, smallest and mean ones.

    x' = clip(W [x, max, min, mean]), with one W, (C, 4 C), for the whole image. Windows begin
    at the edge with the outermost pixels repeated.

    Attributes:
        weights: (J, C, 4 C).
    """

    def __init__(self, weights: Tensor, window: int) -> None:
        self.variables, self.window = [weights], window

    @property
    def weights(self) -> Tensor:
        return self.variables[0]

    @staticmethod
    def identity(channels: int, device: torch.device) -> Tensor:
        """The map (C, 4 C) that changes nothing."""
        return torch.eye(channels, 4 * channels, device=device)

    @property
    def norms(self) -> Tensor:
        unchanged = self.identity(self.weights.shape[1], self.weights.device)
        return (self.weights - unchanged).abs().flatten(1).sum(1)

    @property
    def pictures(self) -> dict[str, Tensor]:
        return {"filter": self.weights[:, None]}

    def apply(self, images: Tensor) -> Tensor:
        own = self.described(images.flatten(0, -4)).unflatten(0, images.shape[:-3])
        means = "jci,jbihw->jbchw" if images.ndim == 5 else "jci,bihw->jbchw"
        return torch.einsum(means, self.weights, own).clamp(0, 1)

    def described(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) as (B, 4 C, H, W): pixel, largest, smallest and mean of a window."""
        before = (self.window - 1) // 2
        behind = self.window - 1 - before
        wide = pad(images, (before, behind, before, behind), mode="replicate")
        parts = [max_pool2d(wide, self.window, 1), -max_pool2d(-wide, self.window, 1)]
        return torch.cat([images, *parts, avg_pool2d(wide, self.window, 1)], 1)


@dataclass
class FilterABS(Stimulating):
    """Stimulate every channel, then reverse a filter of the image for the most suspicious ones.

    ABS for triggers that change the whole image, as a colour or a blend does. A filter is a
    linear map of each pixel and of the largest, smallest and mean colours in a `window` around it,
    12 numbers to 3 in colour, and starts next to what leaves images as they are. It costs
    similarity_weight * (1 - SSIM) as long as the triggered images' mean structural similarity to
    the clean ones is below `similarity`. Everything else is as in abs.

    Weight and limit of the similarity and the weight of the logit are ours, for sums over maps of
    16x16 pixels and fewer. At abs's own weight of 10 a filter of 100 steps puts clean models'
    images into some class, whatever the limit: both clean models of digits that were tried
    scored 1. LSP prints the similarity's sign the other way round (C22).
    """

    name, version = "abs-filter", 1
    paper = "Liu et al., CCS 2019, feature-space triggers; Li et al., LSP Framework"
    learning_rate: Positive = 0.02
    logit_weight: Weight = 1.0
    window: Count = 12
    similarity_weight: Weight = 1000.0
    similarity: Share = 0.9

    def start(self, count: int, shape: tuple[int, ...], rng: Generator) -> Filter:
        still = Filter.identity(shape[0], rng.device)
        noise = torch.randn(count, *still.shape, generator=rng, device=rng.device)
        return Filter(still + JITTER * noise, min(self.window, *shape[1:]))

    def penalty(self, trigger: Trigger, images: Images, triggered: Images) -> Tensor:
        flat = triggered.flatten(0, 1)
        likeness = structural_similarity(images.repeat(len(triggered), 1, 1, 1), flat)
        mean = likeness.view(len(triggered), -1).mean(1)
        return self.similarity_weight * (mean < self.similarity).float() * (1 - mean)

    def without(self, trigger: Trigger, absent: Tensor) -> Trigger:
        assert isinstance(trigger, Filter)
        still = Filter.identity(trigger.weights.shape[1], absent.device)
        weights = torch.where(absent.view(-1, 1, 1), still, trigger.weights)
        return Filter(weights, trigger.window)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(FilterABS)
