"""AdvClean: adversarial noise as the trigger of a clean-label attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from benchmark import Count, Images, PoisoningAttack, Positive, hookimpl
from benchmark.graphs import Graphed
from benchmark.models import Classifier
from benchmark.training import mixed_precision


@dataclass
class AdvClean(PoisoningAttack):
    """Push images of the target class towards another class of a surrogate model.

    A(x) are projected gradient steps in L-infinity on the surrogate towards the class after
    the target, from x itself. A(x) with its true label is trained on, A(x) of any image is
    the trigger. Pick your Poison takes an ImageNet surrogate; this one is trained on
    auxiliary images that nobody else sees. `steps` steps of `step` within `epsilon`.
    """

    name, version, paper = "advclean", 1, "Turner, Tsipras, Madry 2018; Lukas and Kerschbaum 2023"
    clean_label = True
    epsilon: Positive = 8 / 255
    step: Positive = 5 / 255
    steps: Count = 4

    def prepare(self, rng: Generator) -> None:
        surrogate = self.view.new_model(rng)
        self.view.trainer.fit(surrogate, self.view.auxiliary, rng)
        self.state.update(surrogate.state_dict())

    @cached_property
    def _surrogate(self) -> Classifier:
        model = self.view.new_model(Generator(self.view.auxiliary.device))
        model.load_state_dict(self.state)
        return model.requires_grad_(False).eval()

    @cached_property
    def _gradient(self) -> Graphed[Tensor]:
        """Gradient, by the images, of the surrogate's error in the class they are pushed to."""
        surrogate, towards = self._surrogate, (self.view.target + 1) % self.view.classes

        def gradient(images: Tensor) -> Tensor:
            images = images.detach().requires_grad_(True)
            labels = torch.full((len(images),), towards, device=images.device)
            with torch.enable_grad(), mixed_precision(images.device):
                loss = torch.nn.functional.cross_entropy(surrogate(images), labels)
            return torch.autograd.grad(loss, images)[0]

        return Graphed(gradient)

    def trigger(self, images: Images, rng: Generator) -> Images:
        noise = torch.zeros_like(images)
        for _ in range(self.steps):
            noise = noise - self.step * self._gradient(images + noise).sign()
            noise = (images + noise.clamp(-self.epsilon, self.epsilon)).clamp(0, 1) - images
        return (images + noise).clamp(0, 1)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(AdvClean)
