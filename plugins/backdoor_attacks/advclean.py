"""AdvClean: adversarial noise as the trigger of a clean-label attack."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor

from benchmark import Classifier, Count, Images, PoisoningAttack, Positive, hookimpl
from benchmark.graphs import Graphed
from benchmark.training import mixed_precision


class Perturbing(PoisoningAttack):
    """Base of clean-label attacks that add adversarial noise; not registered itself.

    The noise is found by projected gradient steps in L-infinity on a surrogate, which is
    trained on auxiliary images that nobody else sees: from the image itself, `steps` steps of
    `step`, never farther than `epsilon`.
    """

    clean_label = True
    epsilon: Positive
    step: Positive
    steps: Count
    #: 1 moves images away from the class, -1 towards it.
    direction: ClassVar[int]

    @property
    @abstractmethod
    def moved_by(self) -> int:
        """The class that images are moved away from, or towards."""

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
        """Gradient, by the images, of the surrogate's cross-entropy to the class."""
        surrogate, label = self._surrogate, self.moved_by

        def gradient(images: Tensor) -> Tensor:
            images = images.detach().requires_grad_(True)
            labels = torch.full((len(images),), label, device=images.device)
            with torch.enable_grad(), mixed_precision(images.device):
                loss = torch.nn.functional.cross_entropy(surrogate(images), labels)
            return torch.autograd.grad(loss, images)[0]

        return Graphed(gradient)

    def perturb(self, images: Images) -> Images:
        """Return copies with adversarial noise, in [0, 1]."""
        noise = torch.zeros_like(images)
        for _ in range(self.steps):
            noise = noise + self.direction * self.step * self._gradient(images + noise).sign()
            noise = (images + noise.clamp(-self.epsilon, self.epsilon)).clamp(0, 1) - images
        return (images + noise).clamp(0, 1)


@dataclass
class AdvClean(Perturbing):
    """Push images of the target class towards another class of a surrogate model.

    A(x) moves x towards the class after the target. A(x) with its true label is trained on,
    A(x) of any image is the trigger. Pick your Poison takes an ImageNet surrogate and publishes
    neither step size nor start; here the surrogate is trained on auxiliary images, and noise
    starts at zero: `steps` steps of `step` within `epsilon`, in L-infinity. Part of the success
    is plain transfer from the surrogate, which a clean model shows as well.
    """

    name, version, paper = "advclean", 1, "Turner, Tsipras, Madry 2018; Lukas and Kerschbaum 2023"
    epsilon: Positive = 8 / 255
    step: Positive = 5 / 255
    steps: Count = 4
    direction = -1

    @property
    def moved_by(self) -> int:
        return (self.view.target + 1) % self.view.classes

    def trigger(self, images: Images, rng: Generator) -> Images:
        return self.perturb(images)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(AdvClean)
