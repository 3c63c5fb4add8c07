"""Neural Cleanse as Pick your Poison runs it: additive triggers, and a test of their norms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from backdoor_defenses.smallest_trigger import Smallest
from benchmark import (
    Classifier,
    Count,
    Detection,
    Detector,
    Positive,
    Share,
    TrustedData,
    Weight,
    hookimpl,
)
from benchmark.inversion import FrozenClassifier, cross_entropy_to, hit_rate, logits_of, minimise
from benchmark.triggers import Additive


@dataclass
class AdditiveNeuralCleanse(Detector):
    """Neural Cleanse as Pick your Poison runs it: an additive, image-shaped trigger.

    Minimises CE + norm_weight * |T|_1 from a random start (Alg. 6 and Tab. V; the listing
    omits the norm, C19), and keeps each class's smallest sum whose success was at least
    `threshold` between two checks. A class that no sum ever reached has the one of the last
    step, as in the paper: at this weight, on a small ResNet for Fashion-MNIST, that is most
    classes, with success rates of 0.9 to 0.97. The learning rate falls to zero, since Adam at
    a constant one leaves a pixel that belongs at zero swinging as far as the rate. The score
    is minus the smallest norm.
    """

    name, version, paper = "neural-cleanse-additive", 2, "Lukas and Kerschbaum 2023, Alg. 6"
    steps: Count = 100
    batch_size: Count = 32
    learning_rate: Positive = 0.1
    norm_weight: Weight = 0.02
    check: Count = 10
    threshold: Share = 0.99

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        trigger = self.reverse(model, trusted, rng)
        norms = trigger.norms
        return Detection(-norms.min().item(), -norms, trigger=trigger)

    def reverse(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Additive:
        """Every class's smallest trigger that worked, else that of the last step."""
        frozen = FrozenClassifier(model)
        classes = torch.arange(model.classes, device=trusted.device)
        batches = trusted.batches(self.batch_size, rng)
        trigger = Additive.random(len(classes), trusted.pixels.shape[1:], rng)
        smallest = Smallest(trigger, self.threshold)

        def losses() -> Tensor:
            images, _ = next(batches)
            logits = logits_of(frozen, trigger.apply(images))
            smallest.count(hit_rate(logits.detach(), classes))
            return cross_entropy_to(logits, classes) + self.norm_weight * trigger.norms

        def after(step: int) -> None:
            if step % self.check == 0 or step == self.steps:
                smallest.check(trigger)

        minimise(
            trigger,
            losses,
            steps=self.steps,
            learning_rate=self.learning_rate,
            falling=True,
            after=after,
        )
        return smallest.or_else(trigger)


def smallest_p(norms: Tensor) -> float:
    """How likely the smallest of K norms (K,) is so small if all come from one normal, in [0, 1].

    Mean and deviation are fitted to the norms themselves, so the fitted normal's own tail is too
    kind; this is the exact bound for one outlier (Grubbs 1950): K times the tail of Student's t
    with K - 2 degrees of freedom, 1 at most. 1 for fewer than three norms, and for equal ones.
    """
    from scipy.stats import t as student  # here, since listing does without

    count, values = len(norms), norms.double()
    if count < 3 or not values.std() > 1e-9 * values.abs().max():
        return 1.0
    lead = float((values.mean() - values.min()) / values.std())
    left = (count - 1) ** 2 - count * lead**2
    if left <= 0:  # all others are equal
        return 0.0
    tail = student.sf(lead * math.sqrt(count * (count - 2) / left), count - 2)
    return min(1.0, count * float(tail))


@dataclass
class NormalNeuralCleanse(AdditiveNeuralCleanse):
    """Neural Cleanse with additive triggers that flags a norm no normal distribution explains.

    The triggers and the score are those of neural-cleanse-additive. Where no AUC over many models
    is asked for, Pick your Poison fits a normal distribution to the norms of all classes and tests
    the smallest; the test is not specified, and this is Grubbs' at the level `level`. 1 minus its
    p-value is reported apart. With two classes there is no verdict.
    """

    name, version = "neural-cleanse-normal", 2
    paper = "Lukas and Kerschbaum 2023, Alg. 6 and its normal fit"
    level: Share = 0.05

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        found = super().detect(model, trusted, rng)
        p_value = smallest_p(-found.class_scores)
        flagged = None if len(found.class_scores) < 3 else p_value < self.level
        return replace(found, flagged=flagged, also={"outlier": 1 - p_value})


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(AdditiveNeuralCleanse)
    register(NormalNeuralCleanse)
