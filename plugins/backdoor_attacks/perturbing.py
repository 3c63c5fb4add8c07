"""What attacks by adversarial noise share: a surrogate, and projected gradient steps on it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from benchmark import Classifier, Count, Images, PoisoningAttack, Positive
from benchmark.graphs import Graphed
from benchmark.training import BatchHook, mixed_precision

Norm = Literal["linf", "l2"]


def loss_gradient(model: Classifier) -> Graphed[Tensor]:
    """A function that gives the gradient, by the images, of the cross-entropy to their labels.

    It is scaled by the number of images, which neither a sign nor a direction shows.
    """

    def gradient(images: Tensor, labels: Tensor) -> Tensor:
        images = images.detach().requires_grad_(True)
        with torch.enable_grad(), mixed_precision(images.device):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        return torch.autograd.grad(loss, images)[0]

    return Graphed(gradient)


def lengths(images: Tensor) -> Tensor:
    """L2 norm of every image, (B, 1, 1, 1), above zero."""
    found: Tensor = images.flatten(1).norm(dim=1).clamp(min=1e-12)
    return found.view(-1, 1, 1, 1)


def climb(
    images: Images,
    gradient: Callable[[Tensor], Tensor],
    *,
    norm: Norm,
    epsilon: float,
    step: float,
    steps: int,
    start: Tensor | None = None,
) -> Images:
    """Images (B, C, H, W) in [0, 1] after projected steps along `gradient`, each for itself.

    Args:
        gradient: of what is to grow, by images.
        epsilon: how far an image may go in `norm`; a step goes as far as `step` in it.
        start: noise to begin with; none by default.
    """
    noise = torch.zeros_like(images) if start is None else start
    for _ in range(steps):
        slope = gradient(images + noise)
        if norm == "linf":
            noise = (noise + step * slope.sign()).clamp(-epsilon, epsilon)
        else:
            noise = noise + step * slope / lengths(slope)
            noise = noise * (epsilon / lengths(noise)).clamp(max=1)
        noise = (images + noise).clamp(0, 1) - images
    return (images + noise).clamp(0, 1)


class Perturbing(PoisoningAttack):
    """Base of clean-label attacks that add adversarial noise; not registered itself.

    The noise is found by projected gradient steps on a surrogate, which is trained on auxiliary
    images that nobody else sees: from the image itself, `steps` steps of `step`, never farther
    than `epsilon` in `norm`.
    """

    clean_label = True
    norm: Norm = "linf"
    epsilon: Positive
    step: Positive
    steps: Count
    #: 1 moves images away from the class, -1 towards it.
    direction: ClassVar[int]

    @property
    @abstractmethod
    def moved_by(self) -> int:
        """The class that images are moved away from, or towards."""

    def harden(self, surrogate: Classifier, rng: Generator) -> BatchHook:
        """What the surrogate's training does to its batches: nothing."""
        return lambda images, labels: (images, labels)

    def prepare(self, rng: Generator) -> None:
        surrogate = self.view.new_model(rng)
        hook = self.harden(surrogate, rng)
        self.view.trainer.fit(surrogate, self.view.auxiliary, rng, on_batch=hook)
        self.state.update(surrogate.state_dict())

    @cached_property
    def _gradient(self) -> Graphed[Tensor]:
        model = self.view.new_model(Generator(self.view.auxiliary.device))
        model.load_state_dict(self.state)
        return loss_gradient(model.requires_grad_(False).eval())

    def perturb(self, images: Images) -> Images:
        """Return copies with adversarial noise, in [0, 1]."""
        labels = torch.full((len(images),), self.moved_by, device=images.device)
        return climb(
            images,
            lambda noisy: self.direction * self._gradient(noisy, labels),
            norm=self.norm,
            epsilon=self.epsilon,
            step=self.step,
            steps=self.steps,
        )
