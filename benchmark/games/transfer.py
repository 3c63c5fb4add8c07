"""How well a reversed trigger works on other images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.classifier import Classifier
from benchmark.games import checks
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.experiment import Experiment
from benchmark.games.inversion.score import MOST_COVERED
from benchmark.images import ImageSet, to_unit
from benchmark.training import mixed_precision
from benchmark.triggers import Trigger

#: Which images a trigger puts into its class, bool.
Hits = NDArray[np.bool_]


def changed_pixels(triggered: Tensor, images: Tensor) -> Tensor:
    """Pixels at which images (N, C, H, W) differ in any channel, bool (N, H, W)."""
    return (triggered != images).any(1)


def true_masks(evaluation_set: EvaluationSet) -> Tensor:
    """Pixels that the true trigger changes on each test image, bool (N, H, W)."""
    return changed_pixels(evaluation_set.triggered, evaluation_set.test.pixels)


def covers_too_much(masks: Tensor) -> bool:
    """Whether masks (N, H, W) cover so much that ReASR and overlap with them say nothing."""
    return masks.double().mean().item() > MOST_COVERED


class Judge:
    """Tells what a model makes of other images under reversed triggers."""

    def __init__(self, experiment: Experiment, model: Classifier) -> None:
        self.model = model.requires_grad_(False).eval()
        self.precision, self.images_per_pass = (
            experiment.recipe.precision,
            experiment.images_per_pass,
        )

    @torch.inference_mode()
    def hits(
        self,
        trigger: Trigger,
        classes: Tensor,
        data: ImageSet,
        who: str,
        only: int | None = None,
        masks: Tensor | None = None,
    ) -> Hits:
        """Which of N images get the class of each of J triggers, bool (J, N).

        Args:
            only: number of the only trigger that is asked for; then (1, N).
            masks: bool (N, H, W), the only pixels of each image that may change.
        """
        size = max(1, self.images_per_pass // len(classes))
        rows = slice(None) if only is None else slice(only, only + 1)
        classes = classes[rows]
        found = []
        for at in torch.arange(len(data), device=data.device).split(size):
            images = to_unit(data.pixels[at])
            changed = trigger.apply(images.clone())[rows]
            if masks is not None:
                changed = torch.where(masks[at][:, None], changed, images)
            flat = changed.flatten(0, 1)
            flat = checks.images(flat, images[:1].expand(len(flat), -1, -1, -1), f"{who}'s trigger")
            with mixed_precision(images.device, self.precision):
                answers = self.model(flat.contiguous(memory_format=torch.channels_last)).argmax(1)
            found.append(answers.view(len(classes), -1) == classes[:, None])
        hits: Hits = torch.cat(found, 1).cpu().numpy()
        return hits
