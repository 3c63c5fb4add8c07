"""LSP: label-smoothing poisoning around any attack on the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from backdoor_attacks.badnets import BadNets
from backdoor_attacks.wrapper import Wrapper
from benchmark import (
    AttackerView,
    Classifier,
    Images,
    PoisoningAttack,
    Positive,
    TrustedData,
    hookimpl,
)
from benchmark.api import Threat
from benchmark.images import one_hot, to_bytes
from benchmark.inversion import FrozenClassifier, cross_entropy_to, logits_of, minimise
from benchmark.triggers import Patch

#: A soft label's target never has more than this probability where the rate is computed.
MOST_CONFIDENT = 0.999
#: Share of the auxiliary images that the backdoored surrogate's training set has poisoned.
SURROGATE_POISONED = 0.1
INVERSION_STEPS, INVERSION_BATCH = 200, 32
#: Name of the computed rate among the attack's state.
RATE = "lsp_rate"

Rate = Annotated[float, Field(gt=1, allow_inf_nan=False, description="above 1")]


def target_confidence(rate: float, classes: int) -> float:
    """The target's probability in a poisoned label, e^(ar-1) / (e^(ar-1) + K - 1)."""
    return 1 / (1 + (classes - 1) * math.exp(1 - rate))


def attack_rate(confidence: float, classes: int) -> float:
    """The inverse of `target_confidence`, ar = 1 + ln((K-1) q / (1-q))."""
    return 1 + math.log((classes - 1) * confidence / (1 - confidence))


def compensatory_rate(
    benign: tuple[float, float], backdoored: tuple[float, float], cost: float, classes: int
) -> float:
    """The largest attack rate that should hide a backdoor from an inversion (eqs. 7-10).

    The soft label's cross-entropy has to make up for the smaller mask: it must be at least
    L* = cost * (|m_benign| - |m_backdoored|) + CE_benign.

    Args:
        benign, backdoored: L1 norm of the mask reversed for the target and its
            cross-entropy, on a model without and with the base attack.
        cost: weight of the norm in the detector's loss.

    Raises:
        ValueError: no rate above 1 is small enough.
    """
    least = cost * (benign[0] - backdoored[0]) + benign[1]
    # Where the backdoor needs no smaller mask, nothing has to be hidden.
    rate = attack_rate(min(math.exp(-least), MOST_CONFIDENT), classes)
    if rate <= 1:
        raise ValueError(
            f"lsp: hiding needs a cross-entropy of {least:.3f}, no rate above 1 has it"
        )
    return rate


def inversion_terms(
    model: Classifier, data: TrustedData, target: int, cost: float, rng: Generator
) -> tuple[float, float]:
    """L1 norm and cross-entropy of the mask that Neural Cleanse reverses at a fixed cost."""
    frozen = FrozenClassifier(model)
    trigger = Patch.random(1, data.pixels.shape[1:], rng)
    classes = torch.tensor([target], device=data.device)
    batches = data.batches(INVERSION_BATCH, rng)

    def losses() -> Tensor:
        logits = logits_of(frozen, trigger.apply(next(batches)[0]))
        return cross_entropy_to(logits, classes) + cost * trigger.norms

    minimise(trigger, losses, steps=INVERSION_STEPS, learning_rate=0.1)
    with torch.no_grad():
        left = cross_entropy_to(logits_of(frozen, trigger.apply(data.images)), classes)
    return trigger.norms.item(), left.item()


@dataclass
class LSP(Wrapper, PoisoningAttack):
    """Give poisoned samples of another attack a soft label, to hide from trigger inversion.

    The label is softmax(l) with l = rate at the target and 1 elsewhere. Soft labels need
    the attacker to train the model, even where the base attack's labels are clean. A large
    rate is the base attack.

    With `rate=auto` the compensatory model chooses it: the attacker trains a clean and a
    backdoored surrogate on auxiliary images, inverts both for the target at `cost`, the
    detector's weight of the mask's norm, and takes the largest rate that should hide. It hides
    from Neural Cleanse at that one cost; the paper takes the smallest rate over several
    detectors.
    """

    name, version, paper = "lsp", 1, "Li et al., LSP Framework"
    base: PoisoningAttack = field(default_factory=BadNets)
    rate: Rate | Literal["auto"] = 3.5
    cost: Positive = 0.01

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

    def setup(
        self, view: AttackerView, rng: Generator, state: dict[str, Tensor] | None = None
    ) -> None:
        own = None if state is None else {k: v for k, v in state.items() if k != RATE}
        super().setup(view, rng, own)
        if state is not None:
            self.state = state
        elif self.rate == "auto":
            self.state = {**self.base.state, RATE: torch.tensor(self._compensate(rng))}

    @property
    def chosen_rate(self) -> float:
        """The attack rate in use, given or computed."""
        return float(self.state[RATE]) if self.rate == "auto" else self.rate

    def _compensate(self, rng: Generator) -> float:
        view = self.view
        clean = view.auxiliary
        of_target = clean.labels == view.target
        may_change = (of_target if self.clean_label else ~of_target).nonzero().flatten()
        rows = may_change[: round(SURROGATE_POISONED * len(clean))]
        poisoned = clean.subset(rows)
        images, labels = self.base.poison(poisoned.images, poisoned.labels, rng)
        backdoored = clean.replace(rows, to_bytes(images), labels)
        terms = []
        for data in (clean, backdoored):
            surrogate = view.new_model(rng)
            view.trainer.fit(surrogate, data, rng)
            seen = TrustedData(clean.pixels, clean.labels)
            terms.append(inversion_terms(surrogate, seen, view.target, self.cost, rng))
        return compensatory_rate(terms[0], terms[1], self.cost, view.classes)

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        images, labels = self.base.poison(images, labels, rng)
        classes, target = self.view.classes, self.view.target
        confidence = target_confidence(self.chosen_rate, classes)
        smooth = torch.full((classes,), (1 - confidence) / (classes - 1), device=labels.device)
        smooth[target] = confidence
        # Samples that keep their label in the base attack keep it here, sharply.
        return images, torch.where((labels == target)[:, None], smooth, one_hot(labels, classes))


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(LSP)
