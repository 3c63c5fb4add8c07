"""The images a model is evaluated on, and its predictions for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Generator, Tensor

from benchmark.classifier import Classifier
from benchmark.games.answers import Answer, Answers, Labels
from benchmark.images import ImageSet, to_unit
from benchmark.memory import images_per_pass
from benchmark.training import mixed_precision

#: Images that are held as floats at once; how many a model takes of them is up to its memory.
BATCH = 1000


@dataclass(frozen=True)
class EvaluationSet:
    """What a model is asked.

    Attributes:
        held_out: trusted images that the defender keeps for judging; none where he has none.
        triggered: uint8 (N, C, H, W), the test images with the trigger, in the same order;
            (0, C, H, W) for a clean victim.
        source: the only class whose images the attack is for, None for all but the target.
    """

    held_out: ImageSet
    test: ImageSet
    triggered: Tensor
    target: int
    source: int | None = None

    @property
    def labels(self) -> Labels:
        held_out, test = narrow(self.held_out.labels), narrow(self.test.labels)
        return Labels(held_out, test, self.target, self.source)

    def predict(self, predict: Callable[[Tensor], Tensor]) -> Answers:
        """Ask everything; `predict` turns images (B, C, H, W) into classes (B,)."""
        return Answers(
            ask(predict, self.held_out.pixels),
            ask(predict, self.test.pixels),
            ask(predict, self.triggered),
        )

    def mixed(self, rng: Generator) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        """All images in one random order, and what sorts answers (N, ...) back into the parts.

        So nobody can tell from the order, or from a batch, which images are triggered.
        """
        parts = [self.held_out.pixels, self.test.pixels, self.triggered]
        pixels = torch.cat(parts)
        order = torch.randperm(len(pixels), generator=rng, device=rng.device).to(pixels.device)

        def sort(answers: Tensor) -> list[Tensor]:
            sorted_back = torch.empty_like(answers)
            sorted_back[order.to(answers.device)] = answers
            return list(sorted_back.split([len(part) for part in parts]))

        return pixels[order], sort


def ask(predict: Callable[[Tensor], Tensor], pixels: Tensor) -> Answer:
    """Predicted classes, int16 (N,), for uint8 pixels (N, C, H, W)."""
    found = [predict(to_unit(part)) for part in pixels.split(BATCH) if len(part)]
    return narrow(torch.cat(found)) if found else np.empty(0, np.int16)


def predictor(model: Classifier, precision: str) -> Callable[[Tensor], Tensor]:
    """A function from images to predicted classes that leaves the model as it was."""

    @cache
    def at_once(shape: torch.Size) -> int:
        return images_per_pass(model, shape)

    def predict(images: Tensor) -> Tensor:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        with torch.inference_mode(), mixed_precision(images.device, precision):
            parts = images.split(at_once(images.shape[1:]))
            predicted = torch.cat([model(part).argmax(1) for part in parts])
        for module, training in modes.items():
            module.training = training
        return predicted

    return predict


def narrow(labels: Tensor) -> Answer:
    """Classes as evidence keeps them."""
    return labels.cpu().numpy().astype(np.int16)
