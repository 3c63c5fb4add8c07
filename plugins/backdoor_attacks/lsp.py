"""LSP: label-smoothing poisoning around any attack on the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from backdoor_attacks.badnets import BadNets
from backdoor_attacks.wrapper import Wrapper
from benchmark import Images, PoisoningAttack, hookimpl
from benchmark.api import Threat
from benchmark.images import one_hot

Rate = Annotated[float, Field(gt=1, allow_inf_nan=False, description="above 1")]


def target_confidence(rate: float, classes: int) -> float:
    """The target's probability in a poisoned label, e^(ar-1) / (e^(ar-1) + K - 1)."""
    return 1 / (1 + (classes - 1) * math.exp(1 - rate))


def attack_rate(confidence: float, classes: int) -> float:
    """The inverse of `target_confidence`, ar = 1 + ln((K-1) q / (1-q))."""
    return 1 + math.log((classes - 1) * confidence / (1 - confidence))


@dataclass
class LSP(Wrapper, PoisoningAttack):
    """Give poisoned samples of another attack a soft label, to hide from trigger inversion.

    The label is softmax(l) with l = rate at the target and 1 elsewhere. Soft labels need
    the attacker to train the model, even where the base attack's labels are clean. A large
    rate is the base attack.
    """

    name, version, paper = "lsp", 1, "Li et al., LSP Framework"
    base: PoisoningAttack = field(default_factory=BadNets)
    rate: Rate = 3.5

    def __post_init__(self) -> None:
        if self.base.threat == "code":
            raise ValueError(f"lsp: base must have hard labels, {self.base.name} has soft ones")

    @property
    def threat(self) -> Threat:  # type: ignore[override]
        return "code"

    @property
    def clean_label(self) -> bool:  # type: ignore[override]
        """Which images to poison is the base attack's to say."""
        return self.base.clean_label

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        images, labels = self.base.poison(images, labels, rng)
        classes, target = self.view.classes, self.view.target
        confidence = target_confidence(self.rate, classes)
        smooth = torch.full((classes,), (1 - confidence) / (classes - 1), device=labels.device)
        smooth[target] = confidence
        # Samples that keep their label in the base attack keep it here, sharply.
        return images, torch.where((labels == target)[:, None], smooth, one_hot(labels, classes))


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(LSP)
