"""STRIP: a triggered input stays what it is, whatever one lays over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmark import Classifier, Count, Deployment, Images, Share, TrustedData, Verdict, hookimpl
from benchmark.memory import images_per_pass
from benchmark.metrics import REJECTED
from benchmark.training import mixed_precision


def entropy_bits(logits: Tensor) -> Tensor:
    """Shannon entropy in bits, (B,), of softmax(logits), (B, K)."""
    log_probabilities = logits.float().log_softmax(-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1) / torch.log(torch.tensor(2.0))


@dataclass
class Strip(Deployment):
    """Reject inputs whose predictions stay certain under superimposed clean images.

    Each input is added to `overlays` trusted images, clipped, and the entropy of the
    predictions is averaged. The threshold is the quantile of the trusted images' own
    entropies at the wanted false rejection rate `frr`. All inputs meet the same images, where the
    authors draw anew for each; those that the threshold is found on may be among them.
    """

    name, version, paper = "strip", 1, "Gao et al., ACSAC 2019, arXiv:1902.06531"
    overlays: Count = 100
    frr: Share = 0.01

    def deploy(
        self, model: Classifier, trusted: TrustedData, rng: Generator
    ) -> Callable[[Images], Verdict]:
        order = torch.randperm(len(trusted), generator=rng, device=trusted.device)
        overlays = trusted.subset(order[: self.overlays]).images

        def entropy(images: Images) -> Tensor:
            total = torch.zeros(len(images), device=images.device)
            with torch.inference_mode(), mixed_precision(images.device):
                for overlay in overlays:
                    total += entropy_bits(model((images + overlay).clamp(0, 1)))
            return total / len(overlays)

        rows = torch.arange(len(trusted), device=trusted.device)
        parts = rows.split(images_per_pass(model, trusted.pixels.shape[1:]))
        own = torch.cat([entropy(trusted.subset(part).images) for part in parts])
        threshold = torch.quantile(own, self.frr)

        def guarded(images: Images) -> Verdict:
            with torch.inference_mode(), mixed_precision(images.device):
                predictions = model(images).argmax(1)
            uncertainty = entropy(images)
            rejected = uncertainty < threshold
            return Verdict(predictions.masked_fill(rejected, REJECTED), -uncertainty)

        return guarded


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(Strip)
