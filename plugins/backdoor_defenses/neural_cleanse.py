"""Neural Cleanse: a backdoored class can be reached by a trigger that is unusually small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from benchmark import Count, Detection, Detector, Positive, Share, TrustedData, hookimpl
from benchmark.inversion import (
    Additive,
    FrozenClassifier,
    Patch,
    cross_entropy_to,
    hit_rate,
    logits_of,
    minimise,
)
from benchmark.models import Classifier

Multiplier = Annotated[float, Field(gt=1, description="above 1")]
Weight = Annotated[float, Field(ge=0, description="at least 0")]

#: An anomaly index above this flags a class.
ANOMALOUS = 2.0


def anomaly_index(norms: Tensor) -> Tensor:
    """|n_c - median| / (1.4826 * MAD) for every class, (K,); 0 where all norms are equal.

    The median of an even number is the mean of the middle two.
    """
    norms = norms.double()
    median = norms.quantile(0.5)
    deviations = (norms - median).abs()
    return deviations / (1.4826 * deviations.quantile(0.5)).clamp(min=1e-12)


def verdict(norms: Tensor) -> tuple[bool, float]:
    """Whether a class below the median is anomalous, and the largest such index."""
    below = anomaly_index(norms)[norms.double() < norms.double().quantile(0.5)]
    worst = below.max().item() if len(below) else 0.0
    return worst > ANOMALOUS, worst


class CostSchedule:
    """The weight of the norm, adapted per class to how well its trigger works.

    It is zero until a trigger has worked for `patience` checks in a row, then `initial`;
    `patience` more checks above the threshold multiply it by k, as many below divide it by
    k^1.5 (from the authors' code).
    """

    def __init__(self, classes: int, initial: float, multiplier: float, patience: int) -> None:
        self.initial, self.multiplier, self.patience = initial, multiplier, patience
        self.cost = torch.zeros(classes)
        self._up = torch.zeros(classes, dtype=torch.int64)
        self._down = torch.zeros_like(self._up)

    def check(self, works: Tensor) -> None:
        """Take in, as bool (K,), whose trigger works."""
        self._up = torch.where(works, self._up + 1, 0)
        self._down = torch.where(works, 0, self._down + 1)
        raised, lowered = self._up >= self.patience, self._down >= self.patience
        higher = torch.where(self.cost > 0, self.cost * self.multiplier, self.initial)
        self.cost = torch.where(raised, higher, self.cost)
        self.cost = torch.where(lowered, self.cost / self.multiplier**1.5, self.cost)
        self._up[raised], self._down[lowered] = 0, 0


@dataclass
class NeuralCleanse(Detector):
    """Reverse a mask and pattern for every class; the smallest mask is the suspicious one.

    Minimises CE + cost * |mask|_1 by Adam, with the authors' schedule for the cost, and
    keeps each class's smallest mask whose success was at least `threshold` between two
    checks, every `check` steps. A class no mask ever reached counts as one whose mask covers
    the image. The score is minus the smallest norm (Pick your Poison, Alg. 3); the anomaly
    index of the original is reported apart, and flags above 2. All classes take `steps`
    steps in one batch, there is no early stop.
    """

    name, version, paper = "neural-cleanse", 1, "Wang et al., IEEE S&P 2019"
    steps: Count = 1000
    batch_size: Count = 32
    learning_rate: Positive = 0.1
    initial_cost: Positive = 1e-3
    multiplier: Multiplier = 1.5
    check: Count = 10
    patience: Count = 5
    threshold: Share = 0.99

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        found = self.reverse(model, trusted, rng)
        norms = found.norms
        flagged, index = verdict(norms)
        return Detection(-norms.min().item(), -norms, flagged, found, {"anomaly index": index})

    def reverse(
        self,
        model: Classifier,
        trusted: TrustedData,
        rng: Generator,
        classes: Tensor | None = None,
    ) -> Patch:
        """The smallest working trigger for each of `classes`, int64 (J,); all by default."""
        frozen = FrozenClassifier(model)
        device = trusted.device
        if classes is None:
            classes = torch.arange(model.classes, device=device)
        batches = trusted.batches(self.batch_size, rng)
        shape = trusted.pixels.shape[1:]
        trigger = Patch.random(len(classes), shape, rng)
        schedule = CostSchedule(len(classes), self.initial_cost, self.multiplier, self.patience)
        best = [torch.ones_like(trigger.mask), trigger.pattern.clone()]
        best_norm = best[0].flatten(1).sum(1)
        cost = torch.zeros(len(classes), device=device)
        rates = torch.zeros(len(classes), device=device)

        def losses() -> Tensor:
            images, _ = next(batches)
            logits = logits_of(frozen, trigger.apply(images))
            rates.add_(hit_rate(logits.detach(), classes))
            return cross_entropy_to(logits, classes) + cost * trigger.norms

        @torch.no_grad()
        def after(step: int) -> None:
            if step % self.check:
                return
            works = rates / self.check >= self.threshold
            better = works & (trigger.norms < best_norm)
            for kept, new in zip(best, (trigger.mask, trigger.pattern), strict=True):
                kept[better] = new[better]
            best_norm[better] = trigger.norms[better]
            schedule.check(works.cpu())
            cost.copy_(schedule.cost)
            rates.zero_()

        minimise(trigger, losses, steps=self.steps, learning_rate=self.learning_rate, after=after)
        return Patch(*best)


@dataclass
class FixedCostNeuralCleanse(Detector):
    """Neural Cleanse with a mask at one fixed cost, as LSP's compensatory model sees it.

    Minimises CE + cost * |mask|_1 and takes the mask of the last step, whether it works or
    not (LSP, eqs. 7-10; its authors set cost to 0.001 and 0.01). A soft label's cross-entropy
    then has to be paid for a small mask, which the adapted cost of the original never asks
    for. The score is minus the smallest norm; the anomaly index is reported apart.
    """

    name, version, paper = "neural-cleanse-fixed", 1, "Li et al., LSP Framework, Sec. 4"
    steps: Count = 200
    batch_size: Count = 32
    learning_rate: Positive = 0.1
    cost: Positive = 0.01

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        frozen = FrozenClassifier(model)
        classes = torch.arange(model.classes, device=trusted.device)
        batches = trusted.batches(self.batch_size, rng)
        trigger = Patch.random(len(classes), trusted.pixels.shape[1:], rng)

        def losses() -> Tensor:
            images, _ = next(batches)
            error = cross_entropy_to(logits_of(frozen, trigger.apply(images)), classes)
            return error + self.cost * trigger.norms

        minimise(trigger, losses, steps=self.steps, learning_rate=self.learning_rate)
        norms = trigger.norms
        flagged, index = verdict(norms)
        return Detection(-norms.min().item(), -norms, flagged, trigger, {"anomaly index": index})


@dataclass
class AdditiveNeuralCleanse(Detector):
    """Neural Cleanse as Pick your Poison runs it: an additive, image-shaped trigger.

    Minimises CE + norm_weight * |T|_1 from a random start (Alg. 3 and Tab. V; the listing
    omits the norm, C19). The score is minus the smallest norm.
    """

    name, version, paper = "neural-cleanse-additive", 1, "Lukas and Kerschbaum 2023, Alg. 3"
    steps: Count = 100
    batch_size: Count = 32
    learning_rate: Positive = 0.1
    norm_weight: Weight = 0.02

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        trigger = self.reverse(model, trusted, rng)
        norms = trigger.norms
        return Detection(-norms.min().item(), -norms, trigger=trigger)

    def reverse(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Additive:
        """The triggers of all classes after the last step, whether they work or not."""
        frozen = FrozenClassifier(model)
        classes = torch.arange(model.classes, device=trusted.device)
        batches = trusted.batches(self.batch_size, rng)
        trigger = Additive.random(len(classes), trusted.pixels.shape[1:], rng)

        def losses() -> Tensor:
            images, _ = next(batches)
            error = cross_entropy_to(logits_of(frozen, trigger.apply(images)), classes)
            return error + self.norm_weight * trigger.norms

        minimise(trigger, losses, steps=self.steps, learning_rate=self.learning_rate)
        return trigger


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(NeuralCleanse)
    register(FixedCostNeuralCleanse)
    register(AdditiveNeuralCleanse)
