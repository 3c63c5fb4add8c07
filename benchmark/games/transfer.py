"""How well a reversed trigger works on other images, and how close it is to the true one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.games import checks
from benchmark.games.arena import Arena
from benchmark.images import ImageSet, to_unit
from benchmark.inversion import IMAGES_PER_PASS, Trigger
from benchmark.models import Classifier
from benchmark.training import mixed_precision

#: Which images a trigger puts into its class, bool.
Hits = NDArray[np.bool_]


class Judge:
    """Tells what a model makes of other images under reversed triggers."""

    def __init__(self, arena: Arena, model: Classifier) -> None:
        self.model = model.requires_grad_(False).eval()
        self.precision = arena.recipe.precision

    @torch.inference_mode()
    def hits(
        self,
        trigger: Trigger,
        classes: Tensor,
        data: ImageSet,
        who: str,
        only: int | None = None,
        mask: Tensor | None = None,
    ) -> Hits:
        """Which of N images get the class of each of J triggers, bool (J, N).

        Args:
            only: number of the only trigger that is asked for; then (1, N).
            mask: bool (H, W), the only pixels that may change.
        """
        size = max(1, IMAGES_PER_PASS // len(classes))
        rows = slice(None) if only is None else slice(only, only + 1)
        classes = classes[rows]
        found = []
        for pixels in data.pixels.split(size):
            images = to_unit(pixels)
            changed = trigger.apply(images.clone())[rows]
            if mask is not None:
                changed = torch.where(mask, changed, images)
            flat = changed.flatten(0, 1)
            flat = checks.images(flat, images[:1].expand(len(flat), -1, -1, -1), f"{who}'s trigger")
            with mixed_precision(images.device, self.precision):
                answers = self.model(flat.contiguous(memory_format=torch.channels_last)).argmax(1)
            found.append(answers.view(len(classes), -1) == classes[:, None])
        hits: Hits = torch.cat(found, 1).cpu().numpy()
        return hits


def overlap(changes: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of a mask with as many pixels that change most, float64 (S,).

    Args:
        changes: (S, C, H, W); a pixel counts with its largest channel, and not at all where
            nothing changes.
        mask: bool (H, W).
    """
    size = int(mask.sum())
    most = changes.abs().amax(1).flatten(1).topk(size, dim=1)
    changed = most.values > 0
    shared = (mask.flatten()[most.indices] & changed).sum(1).double()
    return shared / (size + changed.sum(1) - shared)
