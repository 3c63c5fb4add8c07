"""Fine-tuning with weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Generator

from backdoor_defenses.fine_tuning import FineTuning
from benchmark import Classifier, Positive, TrustedData, hookimpl


@dataclass
class WeightDecay(FineTuning):
    """Fine-tune on trusted images with a strong penalty on the size of the weights.

    Minimises CE + decay * |theta|^2, as Pick your Poison prints it (defaults of its Tab. V for
    CIFAR-10, r = 1 %): 2 * decay * theta is added to the gradient, so torch's own
    `weight_decay` is twice this `decay`. It is coupled, unlike that of AdamW.
    """

    name, version, paper = "weight-decay", 2, "Loshchilov and Hutter 2017, arXiv:1711.05101"
    decay: Positive = 0.01

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        return self.fine_tune(model, trusted, rng, weight_decay=2 * self.decay)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(WeightDecay)
