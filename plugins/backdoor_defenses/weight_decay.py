"""Fine-tuning with weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Generator

from backdoor_defenses.fine_tuning import fine_tune
from benchmark import Count, Positive, Repair, Share, TrustedData, hookimpl
from benchmark.models import Classifier


@dataclass
class WeightDecay(Repair):
    """Fine-tune on trusted images with a strong penalty on the size of the weights.

    The penalty is the coupled one of plain SGD. Defaults are those of Pick your Poison,
    Tab. V (CIFAR-10, r = 1 %); the momentum is not published.
    """

    name, version, paper = "weight-decay", 1, "Loshchilov and Hutter, ICLR 2019"
    steps: Count = 1000
    batch_size: Count = 128
    learning_rate: Positive = 0.001
    momentum: Share = 0.9
    decay: Positive = 0.01

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        return fine_tune(
            model,
            trusted,
            rng,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.decay,
        )


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(WeightDecay)
