"""PixelInv: reverse a backdoor as the pixels that are made brighter and those made darker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backdoor_defenses.neural_cleanse import Multiplier
from backdoor_defenses.smallest_trigger import CostSchedule
from benchmark import Classifier, Count, Inverter, Positive, Starts, hookimpl
from benchmark.inversion import FrozenClassifier, adam_steps, cross_entropy_to, hit_rate, logits_of
from benchmark.triggers import Additive, Trigger

#: Less than one grey level is no change.
LEVEL = 1 / 255


def changed_pixels(parts: list[Tensor]) -> Tensor:
    """A smooth count (J,) of the pixels that each (J, C, H, W) changes, over both parts."""
    counts = [(torch.tanh(part / 10) / 2 + 0.5).max(1).values.sum((1, 2)) for part in parts]
    return counts[0] + counts[1]


@dataclass
class PixelInv(Inverter):
    """Reverse an additive trigger P - Q of few pixels, from one image.

    Minimises the CE of clip(x + clip(P) - clip(Q)) + cost * a smooth count of the changed
    pixels by Adam, and adapts the cost after every step. A trigger is kept if it worked and
    lowered both the smooth count and the number of pixels; what changes less than a grey
    level is then dropped from it, and the search goes on from there. All of this is the
    authors' code with the start image as the whole support set, so that a trigger works or
    fails. Until one has worked, the result is the current one, where the authors' is zero.
    """

    name, version, paper = "pixelinv", 1, "Tao et al., CVPR 2022"
    steps: Count = 1000
    learning_rate: Positive = 0.1
    initial_cost: Positive = 1e-3
    multiplier: Multiplier = 1.5
    patience: Count = 10

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        frozen = FrozenClassifier(model)
        images, targets = starts.images, starts.targets
        draw = torch.rand(2, *images.shape, generator=rng, device=rng.device)
        variables = [draw[0].clone(), draw[1].clone()]
        schedule = CostSchedule(len(targets), self.initial_cost, self.multiplier, self.patience)
        schedule.cost.fill_(self.initial_cost)
        cost = schedule.cost.to(images.device)
        best = torch.zeros_like(images)
        best_size = torch.full_like(cost, torch.inf)
        best_pixels = torch.full_like(cost, torch.inf)
        parts, size, works = variables, cost, cost > 0

        def losses() -> Tensor:
            nonlocal parts, size, works
            bright, dark = (variable.clamp(0, 1) for variable in variables)
            logits = logits_of(frozen, (images + bright - dark).clamp(0, 1)[:, None])
            counts = changed_pixels(variables)
            # What a step starts from is judged, not what it leads to, as the loss is known.
            parts, size = [bright.detach(), dark.detach()], counts.detach()
            works = hit_rate(logits.detach(), targets) == 1
            return cross_entropy_to(logits, targets) + cost * counts

        for _ in adam_steps(variables, losses, steps=self.steps, learning_rate=self.learning_rate):
            parts = [torch.where(part < LEVEL, 0, part) for part in parts]
            total = parts[0] - parts[1]
            pixels = (total != 0).any(1).sum((1, 2)).float()
            better = works & (size < best_size) & (pixels < best_pixels)
            best[better], best_size[better] = total[better], size[better]
            best_pixels[better] = pixels[better]
            for variable, part in zip(variables, parts, strict=True):
                variable[better] = part[better]
            schedule.check(works.cpu())
            cost = schedule.cost.to(images.device)
            current = variables[0].clamp(0, 1) - variables[1].clamp(0, 1)
            yield Additive(torch.where(best_size.isfinite()[:, None, None, None], best, current))


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(PixelInv)
