"""ABS: a backdoored model has channels that, when stimulated, drive all images to one class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from benchmark import Classifier, Count, Detection, Detector, Positive, Share, TrustedData, hookimpl
from benchmark.inversion import FrozenClassifier, minimise, success
from benchmark.memory import images_per_pass
from benchmark.triggers import Patch

Levels = Annotated[int, Field(ge=2, description="at least 2")]
Part = Annotated[float, Field(gt=0, lt=1, description="between 0 and 1")]
Weight = Annotated[float, Field(ge=0, description="at least 0")]


@torch.no_grad()
def stimulate(frozen: FrozenClassifier, images: Tensor, levels: int, scale: float) -> list[Tensor]:
    """How much every logit gains when one channel is clamped, (channels, B, K) per stage.

    A channel's map is set to `levels` evenly spaced values from 0 to `scale` times the
    largest activation of its stage; the gain is the best logit above level 0 minus the one
    at level 0. Channels and levels go through the rest of the network in large batches.
    """
    gains = []
    size = max(1, images_per_pass(frozen, images.shape[1:]) // (levels * len(images)))
    for after, maps in enumerate(frozen.stage_maps(images).values(), start=1):
        values = torch.linspace(0, scale, levels, device=maps.device) * maps.amax()
        found = []
        for channels in torch.arange(maps.shape[1], device=maps.device).split(size):
            clamped = maps.expand(len(channels), levels, *maps.shape).clone()
            rows = torch.arange(len(channels), device=maps.device)
            clamped[rows, :, :, channels] = values.to(maps.dtype).view(-1, 1, 1, 1)
            features = frozen.neck(frozen.stages[after:](clamped.flatten(0, 2)))
            logits = frozen.head(features.float()).view(len(channels), levels, len(images), -1)
            found.append(logits[:, 1:].amax(1) - logits[:, 0])
        gains.append(torch.cat(found))
    return gains


def margins(gains: Tensor, labels: Tensor) -> Tensor:
    """How far a class's gain exceeds all others', at least, over images of other classes.

    Args:
        gains: (channels, B, K).
        labels: int64 (B,).

    Returns:
        (channels, K), minus infinity for a class that all images belong to.
    """
    first, second = gains.topk(2, dim=2).values.split(1, dim=2)
    lead = gains - torch.where(gains == first, second, first)
    own = labels[:, None] == torch.arange(gains.shape[2], device=gains.device)
    least = lead.masked_fill(own, torch.inf).amin(1)
    return least.masked_fill(least == torch.inf, -torch.inf)


def choose(margins: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The `count` best pairs of a channel and a class, in turn from all stages.

    Margins of different stages cannot be compared, and several channels of one stage for one
    class would find the same trigger; so a stage offers its best channel for every class.

    Args:
        margins: (channels, K) for every stage.

    Returns:
        Channels, counted through all stages, and classes, each int64 (J,).
    """
    starts = accumulate((len(m) for m in margins[:-1]), initial=0)
    best = torch.stack([m.amax(0) for m in margins])
    channels = torch.stack([m.argmax(0) + start for m, start in zip(margins, starts, strict=True)])
    ranks = best.argsort(dim=1, descending=True).argsort(dim=1)
    chosen = ranks.flatten().argsort(stable=True)[:count]
    return channels.flatten()[chosen], chosen % best.shape[1]


def activation_weights(channels: Tensor, widths: list[int], others: float) -> Tensor:
    """Weights (J, all channels): -1 for the channel, `others` for those of the same stage.

    Args:
        channels: int64 (J,), counted through all stages.
        widths: number of channels of every stage.
    """
    rows = torch.arange(len(channels), device=channels.device)
    stage = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths)).to(channels.device)
    weights = others * (stage == stage[channels][:, None]).float()
    weights[rows, channels] = -1.0
    return weights


def centred_square(pixels: float, shape: tuple[int, ...]) -> Tensor:
    """A mask (1, H, W) that is 0.98 in a square of about so many pixels, 0.02 around it."""
    _, height, width = shape
    side = round(pixels**0.5)
    top, left = (height - side) // 2, (width - side) // 2
    mask = torch.full((1, height, width), 0.02)
    mask[:, top : top + side, left : left + side] = 0.98
    return mask


@dataclass
class ABS(Detector):
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
    residual block shows no tensor there. The filter mode for feature-space triggers is left
    out.
    """

    name, version, paper = "abs", 1, "Liu et al., CCS 2019"
    levels: Levels = 5
    scale: Positive = 8.0
    seed_images: Count = 10
    candidates: Count = 12
    steps: Count = 100
    batch_size: Count = 10
    learning_rate: Positive = 0.1
    others_weight: Weight = 1e-4
    logit_weight: Weight = 10.0
    mask_weight: Weight = 50.0
    size: Share = 1 / 16
    held_out: Part = 0.5
    kept: Share = 0.6
    threshold: Share = 0.88

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        frozen = FrozenClassifier(model)
        order = torch.randperm(len(trusted), generator=rng, device=trusted.device)
        split = round(self.held_out * len(order))
        judging, learning = trusted.subset(order[:split]), trusted.subset(order[split:])
        seeds = trusted.subset(order[split:][: self.seed_images])
        gains = stimulate(frozen, seeds.images, self.levels, self.scale)
        channels, classes = choose([margins(g, seeds.labels) for g in gains], self.candidates)
        weights = activation_weights(channels, [len(g) for g in gains], self.others_weight)
        trigger = self.reverse(frozen, learning, classes, weights, rng)
        works = success(frozen, trigger, classes, learning) >= self.kept
        rates = success(frozen, trigger, classes, judging) * works
        reached = classes == torch.arange(model.classes, device=trusted.device)[:, None]
        scores, best = (rates * reached).max(1)
        masks = trigger.mask[best] * (scores > 0).view(-1, 1, 1, 1)
        score = scores.max().item()
        return Detection(score, scores, score > self.threshold, Patch(masks, trigger.pattern[best]))

    def reverse(
        self,
        frozen: FrozenClassifier,
        learning: TrustedData,
        classes: Tensor,
        weights: Tensor,
        rng: Generator,
    ) -> Patch:
        """One trigger per candidate class (J,) and `activation_weights` (J, channels)."""
        shape = learning.pixels.shape[1:]
        count = len(classes)
        limit = self.size * shape[1] * shape[2]
        far: float = (limit**0.5 + 2) ** 2
        start = centred_square(limit, shape).to(learning.device)
        pattern = torch.rand(count, *shape, generator=rng, device=learning.device)
        trigger = Patch(start.expand(count, -1, -1, -1), pattern)
        batches = learning.batches(self.batch_size, rng)

        def losses() -> Tensor:
            images, _ = next(batches)
            triggered = trigger.apply(images).flatten(0, 1)
            maps = frozen.stage_maps(triggered.contiguous(memory_format=torch.channels_last))
            sums = [of_stage.sum((2, 3), dtype=torch.float32) for of_stage in maps.values()]
            logits = frozen.head(frozen.neck(list(maps.values())[-1]).float())
            target = logits.view(count, len(images), -1).mean(1).gather(1, classes[:, None])
            activations = torch.cat(sums, 1).view(count, len(images), -1).mean(1)
            norms = trigger.norms
            cost = self.mask_weight * ((norms > limit).float() + (norms > far).float())
            pulled = (activations * weights).sum(1) + cost * norms
            loss: Tensor = pulled - self.logit_weight * target[:, 0]
            return loss

        minimise(trigger, losses, steps=self.steps, learning_rate=self.learning_rate)
        return trigger


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(ABS)
