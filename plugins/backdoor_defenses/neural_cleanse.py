"""Neural Cleanse: a backdoored class can be reached by a trigger that is unusually small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from backdoor_defenses.smallest_trigger import CostSchedule, Settled, Smallest
from benchmark import Classifier, Count, Detection, Detector, Positive, Share, TrustedData, hookimpl
from benchmark.inversion import FrozenClassifier, cross_entropy_to, hit_rate, logits_of, minimise
from benchmark.triggers import Patch

Multiplier = Annotated[float, Field(gt=1, description="above 1")]

#: An anomaly index above this flags a class.
ANOMALOUS = 2.0


def anomaly_index(norms: Tensor) -> Tensor:
    """|n_c - median| / (1.4826 * MAD) for every class, float64 (K,).

    0 for all classes where there is no index: of fewer than three norms, which always give
    0.674, and where the MAD is zero, since more than half of the norms are equal. The median
    of an even number is the mean of the middle two.
    """
    norms = norms.double()
    deviations = (norms - norms.quantile(0.5)).abs()
    scale = 1.4826 * deviations.quantile(0.5)
    if len(norms) < 3 or scale == 0:
        return torch.zeros_like(norms)
    return deviations / scale


def verdict(norms: Tensor) -> tuple[bool | None, float]:
    """Whether a class below the median is anomalous, and the largest such index.

    Fewer than three classes give no verdict, (None, 0). A MAD of zero flags nothing.
    """
    if len(norms) < 3:
        return None, 0.0
    below = anomaly_index(norms)[norms.double() < norms.double().quantile(0.5)]
    worst = below.max().item() if len(below) else 0.0
    return worst > ANOMALOUS, worst


@dataclass
class NeuralCleanse(Detector):
    """Reverse a mask and pattern for every class; the smallest mask is the suspicious one.

    Minimises CE + cost * |mask|_1 by Adam, with the authors' schedule for the cost, and
    keeps each class's smallest mask whose success was at least `threshold` between two
    checks, every `check` steps. A class is finished once its norm has fallen by less than 1 %
    over 2 * `patience` checks and its cost has moved both ways; all classes share batches, and
    `steps` is the most they take; a check is of some 320 images and there are up to 400, where the
    authors make up to 1,000 of some 1,000 images. A class no mask ever reached counts as one whose
    mask covers the image.

    Measured on a small ResNet for Fashion-MNIST with BadNets, at batches of 8: the target's
    norm stays where it is from 2000 steps on, while the other norms fall by 6 % (median) from
    1000 to 2000 steps and by 3 % (at most 11 %) from 2000 to 4000. No class finished by then.
    A `patience` of 5 needs half as many steps for such norms.

    The score is minus the smallest norm, as in Pick your Poison; the anomaly index of the
    original is reported apart, 0 where there is none, and flags above 2. With two classes
    there is no index and no verdict.
    """

    name, version, paper = "neural-cleanse", 2, "Wang et al., IEEE S&P 2019"
    steps: Count = 4000
    batch_size: Count = 32
    learning_rate: Positive = 0.1
    initial_cost: Positive = 1e-3
    multiplier: Multiplier = 1.5
    check: Count = 10
    patience: Count = 10
    threshold: Share = 0.99

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        found = self.reverse(model, trusted, rng)
        norms = found.norms
        flagged, index = verdict(norms)
        return Detection(-norms.min().item(), -norms, flagged, found, {"anomaly index": index})

    def reverse(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Patch:
        """The smallest working trigger for each class."""
        frozen, device = FrozenClassifier(model), trusted.device
        classes = torch.arange(model.classes, device=device)
        batches = trusted.batches(self.batch_size, rng)
        shape = trusted.pixels.shape[1:]
        trigger = Patch.random(len(classes), shape, rng)
        cover = Patch(torch.ones_like(trigger.mask), trigger.pattern)
        smallest = Smallest(trigger, self.threshold)
        schedule = CostSchedule(len(classes), self.initial_cost, self.multiplier, self.patience)
        settled = Settled(len(classes), self.patience)
        cost = torch.zeros(len(classes), device=device)
        unfinished = torch.arange(len(classes), device=device)

        def losses() -> Tensor:
            images, _ = next(batches)
            part, wanted = trigger.take(unfinished), classes[unfinished]
            logits = logits_of(frozen, part.apply(images))
            smallest.count(hit_rate(logits.detach(), wanted), unfinished)
            return cross_entropy_to(logits, wanted) + cost[unfinished] * part.norms

        def after(step: int) -> bool:
            nonlocal unfinished
            if step % self.check and step != self.steps:
                return False
            schedule.check(smallest.check(trigger).cpu())
            cost.copy_(schedule.cost)
            finished = settled.check(smallest.norms.cpu()) & schedule.raised & schedule.lowered
            unfinished = unfinished[~finished.to(device)[unfinished]]
            return not len(unfinished)

        minimise(trigger, losses, steps=self.steps, learning_rate=self.learning_rate, after=after)
        return smallest.or_else(cover)


@dataclass
class FixedCostNeuralCleanse(Detector):
    """Neural Cleanse with a mask at one fixed cost, as LSP's compensatory model sees it.

    Minimises CE + cost * |mask|_1 and takes the mask of the last step, whether it works or
    not (LSP, eqs. 7-10; its authors set cost to 0.001 and 0.01). A soft label's cross-entropy
    then has to be paid for a small mask, which the adapted cost of the original never asks
    for. The rate is constant: unlike a sum, a mask settles at its norm under Adam. The score is
    minus the smallest norm; the anomaly index is reported apart, 0 where there is none.
    """

    name, version, paper = "neural-cleanse-fixed", 2, "Li et al., LSP Framework, eqs. 7-10"
    steps: Count = 200
    batch_size: Count = 32
    learning_rate: Positive = 0.1
    cost: Positive = 0.01

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        classes = torch.arange(model.classes, device=trusted.device)
        trigger = self.reverse(FrozenClassifier(model), trusted, rng, classes)
        norms = trigger.norms
        flagged, index = verdict(norms)
        return Detection(-norms.min().item(), -norms, flagged, trigger, {"anomaly index": index})

    def reverse(
        self, frozen: FrozenClassifier, trusted: TrustedData, rng: Generator, classes: Tensor
    ) -> Patch:
        """The trigger of the last step for each of `classes`, int64 (J,)."""
        batches = trusted.batches(self.batch_size, rng)
        trigger = Patch.random(len(classes), trusted.pixels.shape[1:], rng)

        def losses() -> Tensor:
            images, _ = next(batches)
            error = cross_entropy_to(logits_of(frozen, trigger.apply(images)), classes)
            return error + self.cost * trigger.norms

        minimise(trigger, losses, steps=self.steps, learning_rate=self.learning_rate)
        return trigger


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(NeuralCleanse)
    register(FixedCostNeuralCleanse)
