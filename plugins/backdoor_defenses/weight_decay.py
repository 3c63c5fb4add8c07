"""Fine-tuning with weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Generator

from backdoor_defenses.fine_tuning import FineTuning
from benchmark import Positive, TrustedData, hookimpl
from benchmark.models import Classifier


@dataclass
class WeightDecay(FineTuning):
    """Fine-tune on trusted images with a strong penalty on the size of the weights.

    The penalty is the coupled one of plain SGD, `decay` being torch's: decay * theta is
    added to the gradient.
    """

    name, version, paper = "weight-decay", 1, "Loshchilov and Hutter, ICLR 2019"
    decay: Positive = 0.01

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        return self.fine_tune(model, trusted, rng, weight_decay=self.decay)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(WeightDecay)
