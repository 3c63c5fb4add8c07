"""LSP: label-smoothing poisoning around any attack on the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from backdoor_attacks.badnets import BadNets
from backdoor_attacks.compensatory import Chosen, compensatory_rate, inversions, target_confidence
from backdoor_attacks.wrapper import Wrapper
from benchmark import AttackerView, Images, PoisoningAttack, Positive, TrustedData, hookimpl
from benchmark.api import Threat
from benchmark.images import one_hot, to_bytes
from benchmark.metrics import changeable, source_class

#: Share of the auxiliary images that the backdoored surrogate's training set has poisoned.
SURROGATE_POISONED = 0.1
#: Name of the computed rate among the attack's state.
RATE = "lsp_rate"

Rate = Annotated[float, Field(gt=1, allow_inf_nan=False, description="above 1")]


@dataclass
class LSP(Wrapper, PoisoningAttack):
    """Give poisoned samples of another attack a soft label, to hide from trigger inversion.

    The label is softmax(l) with l = rate at the target and 1 elsewhere. Soft labels need
    the attacker to train the model, even where the base attack's labels are clean. A large
    rate is the base attack. The default is the paper's for BadNets; it takes 3.7 for LC, 2.3 for
    WaNet, 2.0 for RandSQ and Blend, and 1.6 for ColorBD.

    With `rate=auto` the compensatory model chooses it (eqs. 7-10): the attacker trains a clean and
    a backdoored surrogate on auxiliary images, inverts both for the target as Neural Cleanse does
    at `cost`, the detector's weight of the mask's norm, and takes the largest rate that should
    hide. `auto-abs` and `auto-exray` do so with ABS's reversed trigger and with ExRay's masks of
    channels, whose classification term is a logit, so that the rate is a hint; `auto-all` takes the
    smallest of the three, as the paper does over its detectors. A detector that reverses no trigger
    on the clean surrogate gives no rate; the smallest of the others is taken. Whether the attack
    still works at that rate, which the paper checks in the end, the game measures.
    """

    name, version, paper = "lsp", 1, "Li et al., LSP Framework"
    base: PoisoningAttack = field(default_factory=BadNets)
    rate: Rate | Chosen = 3.5
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
        elif isinstance(self.rate, str):
            self.state = {**self.base.state, RATE: torch.tensor(self._compensate(rng))}

    @property
    def chosen_rate(self) -> float:
        """The attack rate in use, given or computed."""
        return float(self.state[RATE]) if isinstance(self.rate, str) else self.rate

    def _compensate(self, rng: Generator) -> float:
        view = self.view
        clean = view.auxiliary
        source = source_class(self.source, view.target, view.classes)
        may_change = changeable(clean.labels, view.target, source, self.clean_label).nonzero()
        if not len(may_change):
            raise ValueError(
                f"lsp: rate={self.rate} poisons auxiliary images for a surrogate, and there are "
                f"none that {self.base.name} may change; choose a protocol with more of them or "
                "a number as the rate"
            )
        # Of one class there may be no more; half of them stay clean, as in the paper (C9).
        most = max(1, min(round(SURROGATE_POISONED * len(clean)), len(may_change) // 2))
        rows = may_change.flatten()[:most]
        poisoned = clean.subset(rows)
        images, labels = self.base.poison(poisoned.images, poisoned.labels, rng)
        backdoored = clean.replace(rows, to_bytes(images), labels)
        assert isinstance(self.rate, str)
        examined = inversions(self.rate, self.cost)
        terms = []
        for data in (clean, backdoored):
            surrogate = view.new_model(rng)
            view.trainer.fit(surrogate, data, rng)
            seen = TrustedData(clean.pixels, clean.labels)
            terms.append([one.terms(surrogate, seen, view.target, rng) for one in examined])
        rates, refused = [], ""
        for one, benign, bad in zip(examined, *terms, strict=True):
            try:
                rates.append(compensatory_rate(benign, bad, one.cost, view.classes))
            except ValueError as error:
                refused = str(error)
        if not rates:
            raise ValueError(refused)
        return min(rates)

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
