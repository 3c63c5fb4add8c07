"""Neural Cleanse's repair: unlearn the smallest trigger that reaches a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Generator, Tensor

from backdoor_defenses.fine_tuning import FineTuning
from backdoor_defenses.neural_cleanse_additive import AdditiveNeuralCleanse
from benchmark import Classifier, TrustedData, hookimpl
from benchmark.triggers import Additive


@dataclass(frozen=True)
class StampedByTurns(TrustedData):
    """Trusted images whose batches carry a trigger by turns, the first one included.

    Attributes:
        trigger: a single one; labels stay true.
    """

    trigger: Additive = field(kw_only=True)

    def batches(self, size: int, rng: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (images, labels) in enumerate(super().batches(size, rng)):
            yield images if number % 2 else self.trigger.apply(images)[0], labels


@dataclass
class NeuralCleanseRepair(FineTuning):
    """Reverse a trigger for every class, and fine-tune with true labels on the smallest one.

    Pick your Poison's variant, with the defaults of its Tab. V (CIFAR-10, r = 1 %): triggers
    are image-shaped sums, and steps on stamped and on clean images take turns. The listing
    steps by Adam, but the search behind the table chose SGD. In the original
    (Wang et al., IEEE S&P 2019) a trigger is a mask with a pattern, and one epoch is taken on
    a tenth of the training images, a fifth of which are stamped.

    Images of the trigger's own class are stamped, too: where they were left out, a stamp
    would tell that an image is of another class. A clean step is the second of each pair, so
    that a model that is measured after an even number of steps has seen clean images last.
    """

    name, version, paper = "neural-cleanse-repair", 1, "Lukas and Kerschbaum 2023, Alg. 6"
    inversion: AdditiveNeuralCleanse = field(default_factory=AdditiveNeuralCleanse)

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        found = self.inversion.reverse(model, trusted, rng)
        smallest = Additive(found.sum[found.norms.argmin()][None])
        stamped = StampedByTurns(
            trusted.pixels, trusted.labels, trusted.pad, trusted.flip, trigger=smallest
        )
        yield from self.fine_tune(model, stamped, rng)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(NeuralCleanseRepair)
