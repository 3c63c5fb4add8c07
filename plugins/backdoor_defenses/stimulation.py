"""Stimulating channels one by one: what ABS's patches and filters have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from benchmark import (
    Classifier,
    Count,
    Detection,
    Detector,
    Images,
    Positive,
    Share,
    Trigger,
    TrustedData,
    Weight,
)
from benchmark.inversion import FrozenClassifier, minimise, success
from benchmark.memory import images_per_pass

Levels = Annotated[int, Field(ge=2, description="at least 2")]
Part = Annotated[float, Field(gt=0, lt=1, description="between 0 and 1")]


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


@dataclass
class Stimulating(Detector):
    """Base of detectors that reverse triggers for suspicious channels; not registered itself.

    One trigger per candidate is reversed on a part of the trusted images. With activations summed
    over a map, and everything averaged over the images, it minimises - activation + others_weight
    * the stage's other activations - logit_weight * target logit + a penalty. The score is the
    success on the other part (REASR) of the best candidate whose success was at least `kept` where
    it was made.
    """

    levels: Levels = 5
    scale: Positive = 8.0
    seed_images: Count = 10
    candidates: Count = 12
    steps: Count = 100
    batch_size: Count = 10
    learning_rate: Positive = 0.1
    others_weight: Weight = 1e-4
    logit_weight: Weight = 10.0
    held_out: Part = 0.5
    kept: Share = 0.6
    threshold: Share = 0.88

    @abstractmethod
    def start(self, count: int, shape: tuple[int, ...], rng: Generator) -> Trigger:
        """So many triggers to begin with, for images of a shape (C, H, W)."""

    @abstractmethod
    def penalty(self, trigger: Trigger, images: Images, triggered: Images) -> Tensor:
        """What each of J triggers costs, (J,); `triggered`, (J, B, C, H, W), are images with it."""

    @abstractmethod
    def without(self, trigger: Trigger, absent: Tensor) -> Trigger:
        """The triggers, those of bool (J,) replaced by one that does nothing."""

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        frozen = FrozenClassifier(model)
        learning, judging = trusted.split(self.held_out, rng)
        seeds = learning.subset(torch.arange(len(learning), device=rng.device)[: self.seed_images])
        gains = stimulate(frozen, seeds.images, self.levels, self.scale)
        channels, classes = choose([margins(g, seeds.labels) for g in gains], self.candidates)
        weights = activation_weights(channels, [len(g) for g in gains], self.others_weight)
        trigger = self.reverse(frozen, learning, classes, weights, rng)
        works = success(frozen, trigger, classes, learning) >= self.kept
        rates = success(frozen, trigger, classes, judging) * works
        reached = classes == torch.arange(model.classes, device=trusted.device)[:, None]
        scores, best = (rates * reached).max(1)
        score = scores.max().item()
        found = self.without(trigger.take(best), scores == 0)
        return Detection(score, scores, score > self.threshold, found)

    def reverse(
        self,
        frozen: FrozenClassifier,
        learning: TrustedData,
        classes: Tensor,
        weights: Tensor,
        rng: Generator,
    ) -> Trigger:
        """One trigger per candidate class (J,) and `activation_weights` (J, channels)."""
        count = len(classes)
        trigger = self.start(count, tuple(learning.pixels.shape[1:]), rng)
        batches = learning.batches(self.batch_size, rng)

        def losses() -> Tensor:
            images, _ = next(batches)
            triggered = trigger.apply(images)
            flat = triggered.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            maps = frozen.stage_maps(flat)
            sums = [of_stage.sum((2, 3), dtype=torch.float32) for of_stage in maps.values()]
            logits = frozen.head(frozen.neck(list(maps.values())[-1]).float())
            target = logits.view(count, len(images), -1).mean(1).gather(1, classes[:, None])
            activations = torch.cat(sums, 1).view(count, len(images), -1).mean(1)
            pulled = (activations * weights).sum(1) + self.penalty(trigger, images, triggered)
            loss: Tensor = pulled - self.logit_weight * target[:, 0]
            return loss

        minimise(trigger, losses, steps=self.steps, learning_rate=self.learning_rate)
        return trigger
