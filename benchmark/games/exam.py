"""The questions a model is measured by, its answers, and the curve point they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import metrics
from benchmark.images import ImageSet, to_unit
from benchmark.models import Classifier
from benchmark.training import mixed_precision

BATCH = 1000

Answer = NDArray[np.int16]


@dataclass(frozen=True)
class AnswerKey:
    """True labels, int (N,), and the target: all it takes to turn answers into rates."""

    validation: NDArray[np.int16]
    test: NDArray[np.int16]
    target: int

    def point(self, answers: Answers, stage: str, step: int) -> metrics.Point:
        triggered, labels = answers.triggered, self.test
        if not len(triggered):  # a clean victim has no trigger
            labels = labels[:0]
        return metrics.Point(
            stage=stage,
            step=step,
            validation=metrics.accuracy(answers.validation, self.validation),
            cda=metrics.accuracy(answers.test, self.test),
            asr=metrics.attack_success(triggered, labels, self.target),
            asr_game=metrics.attack_success_in_game(triggered, labels, self.target),
        )


@dataclass(frozen=True)
class Answers:
    """Predicted classes, int16; `metrics.REJECTED` for an input that was refused."""

    validation: Answer
    test: Answer
    triggered: Answer


@dataclass(frozen=True)
class Exam:
    """Validation, test and triggered test images.

    Attributes:
        triggered: uint8 (N, C, H, W), the test images with the trigger, in the same order;
            (0, C, H, W) for a clean victim.
    """

    validation: ImageSet
    test: ImageSet
    triggered: Tensor
    target: int

    @property
    def key(self) -> AnswerKey:
        return AnswerKey(_narrow(self.validation.labels), _narrow(self.test.labels), self.target)

    def sit(self, predict: Callable[[Tensor], Tensor]) -> Answers:
        """Ask everything; `predict` turns images (B, C, H, W) into classes (B,)."""
        return Answers(
            ask(predict, self.validation.pixels),
            ask(predict, self.test.pixels),
            ask(predict, self.triggered),
        )


def ask(predict: Callable[[Tensor], Tensor], pixels: Tensor) -> Answer:
    """Predicted classes, int16 (N,), for uint8 pixels (N, C, H, W)."""
    found = [predict(to_unit(part)) for part in pixels.split(BATCH) if len(part)]
    return _narrow(torch.cat(found)) if found else np.empty(0, np.int16)


def predictor(model: Classifier, precision: str) -> Callable[[Tensor], Tensor]:
    """A function from images to predicted classes that leaves the model as it was."""

    def predict(images: Tensor) -> Tensor:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        with torch.inference_mode(), mixed_precision(images.device, precision):
            predicted: Tensor = model(images).argmax(1)
        for module, training in modes.items():
            module.training = training
        return predicted

    return predict


def _narrow(labels: Tensor) -> Answer:
    return labels.cpu().numpy().astype(np.int16)
