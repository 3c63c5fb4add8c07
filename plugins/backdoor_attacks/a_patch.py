"""Adaptive Patch: scattered cells of one patch, and samples that keep their label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backdoor_attacks.a_blend import kept_cells, relabel_payload
from backdoor_attacks.badnets import BadNets, patch_size
from benchmark import Count, Images, Share, hookimpl


@dataclass
class APatch(BadNets):
    """Stamp random cells of the patch; half of the samples keep their true label.

    The patch is that of BadNets and is whole at test. It has as many cells a side as asked
    for, or as many as it has pixels where these are fewer (C6). m counts payload and regularisation
    samples together. This is Pick your Poison's version; the original blends several patches
    in, and others at test.
    """

    name, version, paper = "a-patch", 2, "Qi et al., ICLR 2023, arXiv:2205.13613"
    cells: Count = 4
    occlusion: Share = 0.5
    conservatism: Share = 0.5

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        height, width = patch_size(self.side, *images.shape[-2:])
        kept = kept_cells(len(images), self.cells, (height, width), self.occlusion, rng)
        poisoned = self.trigger(images, rng)
        patch, clean = poisoned[:, :, :height, :width], images[:, :, :height, :width]
        poisoned[:, :, :height, :width] = torch.where(kept, patch, clean)
        return poisoned, relabel_payload(labels, self.view.target, self.conservatism)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(APatch)
