"""Neural Cleanse from a single image, a baseline of single-image inversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backdoor_defenses.neural_cleanse import Multiplier
from backdoor_defenses.smallest_trigger import CostSchedule
from benchmark import Classifier, Count, Inverter, Positive, Starts, hookimpl
from benchmark.inversion import FrozenClassifier, adam_steps, cross_entropy_to, hit_rate, logits_of
from benchmark.triggers import Patch, Trigger


@dataclass
class NeuralCleanseOnImage(Inverter):
    """Reverse a mask and pattern as Neural Cleanse does, from one image only.

    Minimises CE + cost * |mask|_1 by Adam, with the authors' schedule for the cost, and
    keeps the smallest mask that put the start image into the target class. The start image
    is the whole support set (Sun and Kolter, Sec. 4.1), so that every step passes over all of
    it and is one check, which the trigger meets or fails. Until a trigger has worked, the
    result is the current one. The authors' early stop is left out.
    """

    name, version = "neural-cleanse-image", 1
    paper = "Wang et al., IEEE S&P 2019; from one image: Sun and Kolter, CVPR 2023, Sec. 4.1"
    steps: Count = 1000
    learning_rate: Positive = 0.1
    initial_cost: Positive = 1e-3
    multiplier: Multiplier = 1.5
    patience: Count = 10

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        # The smallest mask that works lies on the decision boundary, too close for bfloat16.
        frozen = FrozenClassifier(model, precision="float32")
        images, targets = starts.images[:, None], starts.targets
        trigger = Patch.random(len(targets), tuple(starts.images.shape[1:]), rng)
        schedule = CostSchedule(len(targets), self.initial_cost, self.multiplier, self.patience)
        best_mask, best_pattern = trigger.mask, trigger.pattern
        best_norm = torch.full_like(trigger.norms, torch.inf)
        cost = torch.zeros_like(best_norm)

        def losses() -> Tensor:
            logits = logits_of(frozen, trigger.apply(images))
            judge(hit_rate(logits.detach(), targets) == 1)
            return cross_entropy_to(logits, targets) + cost * trigger.norms

        @torch.no_grad()
        def judge(works: Tensor) -> None:
            better = works & (trigger.norms < best_norm)
            best_mask[better] = trigger.mask[better]
            best_pattern[better] = trigger.pattern[better]
            best_norm[better] = trigger.norms[better]
            schedule.check(works.cpu())

        for _ in adam_steps(
            trigger.variables, losses, steps=self.steps, learning_rate=self.learning_rate
        ):
            # Only now, since the loss of a step has the cost from before its check.
            cost.copy_(schedule.cost)
            worked = best_norm.isfinite()[:, None, None, None]
            yield Patch(
                torch.where(worked, best_mask, trigger.mask),
                torch.where(worked, best_pattern, trigger.pattern),
            )


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(NeuralCleanseOnImage)
