"""SmoothInv: the gradient of a smoothed classifier shows the trigger in a single image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from backdoor_defenses.smoothinv.denoiser import load
from benchmark import Classifier, Count, Images, Inverter, Positive, Starts, hookimpl
from benchmark.inversion import FrozenClassifier
from benchmark.memory import IMAGES_PER_PASS, images_per_pass
from benchmark.triggers import Additive, Trigger

Place = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_./~@-]+$",
        description="a folder, a data set, or OWNER/NAME@COMMIT on the hub",
    ),
]

#: A step's length as a share of the ball's radius: 0.5 * epsilon / 10 (Sun and Kolter).
STEP = 0.05

#: Probabilities below this give no gradient.
LEAST_PROBABILITY = 1e-20

#: log G(x) (J, K) of images x (J, C, H, W).
LogProbabilities = Callable[[Tensor], Tensor]

#: T(x + sigma * noise) from images, standard normal noise and sigma.
Corruption = Callable[[Tensor, Tensor, float], Tensor]


def add_noise(images: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """x + sigma * noise: T is the identity, nothing is clipped."""
    return images + sigma * noise


def log_smoothed(
    model: Classifier,
    images: Tensor,
    sigma: float,
    samples: int,
    rng: Generator,
    corrupt: Corruption = add_noise,
) -> Tensor:
    """log G (J, K), G(x) = mean over N draws of softmax f(T(x + delta)), delta ~ N(0, sigma^2 I).

    It is the probabilities that are averaged, not the logits (Sun and Kolter, Sec. 3).
    """
    repeated = images.repeat_interleave(samples, 0)
    noise = torch.randn(repeated.shape, generator=rng, device=images.device)
    noisy = corrupt(repeated, noise, sigma).contiguous(memory_format=torch.channels_last)
    each: Tensor = model(noisy).float().log_softmax(1)
    return each.view(len(images), samples, -1).logsumexp(1) - math.log(samples)


def project(images: Tensor, change: Tensor, radius: float) -> Tensor:
    """The nearest-by-steps p with x + p in [0, 1] and then |p|_2 <= radius, (J, C, H, W).

    Shrinking p cannot leave [0, 1] again.
    """
    change = (images + change).clamp(0, 1) - images
    norms = change.flatten(1).norm(dim=1)
    shrunk: Tensor = change * (radius / norms.clamp(min=1e-12)).clamp(max=1)[:, None, None, None]
    return shrunk


def ascend(
    starts: Starts,
    radius: float,
    steps: int,
    log_probabilities: LogProbabilities,
    rng: Generator,
    at_once: int,
) -> Iterator[Additive]:
    """Raise the probability of the targets inside an L2 ball, by steps of one length each.

    The paper's listing adds the gradient of a loss that is minimised; it is descended (C21).

    Args:
        at_once: inversions that share a pass.
    """
    images, change = starts.images, torch.zeros_like(starts.images)
    if starts.restart:
        draw = torch.randn(images.shape, generator=rng, device=images.device)
        length = torch.rand(len(images), 1, 1, 1, generator=rng, device=images.device)
        unit = draw / draw.flatten(1).norm(dim=1)[:, None, None, None]
        change = project(images, radius * length * unit, radius)

    def gradient(images: Tensor, targets: Tensor) -> Tensor:
        images = images.requires_grad_(True)
        chosen = log_probabilities(images).gather(1, targets[:, None])
        loss = -chosen.clamp(min=math.log(LEAST_PROBABILITY)).sum()
        return torch.autograd.grad(loss, images)[0]

    for _ in range(steps):
        parts = zip((images + change).split(at_once), starts.targets.split(at_once), strict=True)
        slope = torch.cat([gradient(*part) for part in parts])
        norms = slope.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None, None]
        change = project(images, change - STEP * radius * slope / norms, radius)
        yield Additive(change.clone())


@dataclass
class SmoothInv(Inverter):
    """Perturb one image until the model, smoothed by Gaussian noise, gives the target.

    Minimises -log G(x + p)_t in an L2 ball by 400 normalised gradient steps with fresh noise
    each. `epsilon` is the ball's radius, an L2 norm in [0, 1] pixels: nobody knows the true
    trigger's. The paper takes the best of 5 and 10, and of sigma 0.12, 0.25, 0.5 and 1; of the
    radii 1, 2, 4 and 8 for small images the default is the smallest that holds its Blind-P
    trigger, whose norm is 3.08. `sigma` is the noise level; `samples` is the number of draws N,
    of which the paper takes 40 and finds 10 usually enough. The momentum of the authors' code and
    its shorter steps from step 300 on are left out, the paper has neither.
    """

    name, version, paper = "smoothinv", 2, "Sun and Kolter, CVPR 2023, Sec. 3"
    epsilon: Positive = 4.0
    sigma: Positive = 0.25
    samples: Count = 10
    steps: Count = 400
    #: To bound the memory, which denoisers need much more of.
    images_per_pass: ClassVar[int] = IMAGES_PER_PASS

    def corruption(self, device: torch.device) -> Corruption:
        return add_noise

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        frozen, corrupt = FrozenClassifier(model), self.corruption(model.mean.device)

        def log_probabilities(images: Tensor) -> Tensor:
            return log_smoothed(frozen, images, self.sigma, self.samples, rng, corrupt)

        most = min(self.images_per_pass, images_per_pass(frozen, starts.images.shape[1:]))
        at_once = max(1, most // self.samples)
        yield from ascend(starts, self.epsilon, self.steps, log_probabilities, rng, at_once)

    def smoothed(self, model: Classifier, sigma: float) -> Callable[[Images, Generator], Tensor]:
        frozen, corrupt = FrozenClassifier(model), self.corruption(model.mean.device)

        def probabilities(images: Images, rng: Generator) -> Tensor:
            with torch.no_grad():
                return log_smoothed(frozen, images, sigma, self.samples, rng, corrupt).exp()

        return probabilities


@dataclass
class SmoothInvWithDiffusion(SmoothInv):
    """SmoothInv on a classifier that removes the noise first, by one pass of a diffusion model.

    `denoiser` is a folder, the name of a data set that `poisongames denoiser train` was run for,
    or OWNER/NAME@COMMIT on the Hugging Face hub. Gradients flow through the denoiser.
    """

    name, version, paper = "smoothinv-diffusion", 2, "Sun and Kolter, CVPR 2023, Sec. 3"
    denoiser: Place = "google/ddpm-cifar10-32@267b167dc01f0e4e61923ea244e8b988f84deb80"
    images_per_pass = 100

    def corruption(self, device: torch.device) -> Corruption:
        return load(self.denoiser).to(device)

    def uses(self) -> dict[str, str]:
        return {"denoiser": load(self.denoiser).sha256}


@dataclass
class SmoothInvFromBlank(SmoothInv):
    """SmoothInv that begins from an image without an object, as its authors try out (Fig. 9).

    `start` is all white, all black, or black with random pixels in the lower right quarter. What
    the start images of the game show is not used.
    """

    name, version, paper = "smoothinv-blank", 1, "Sun and Kolter, CVPR 2023, Fig. 9"
    start: Literal["white", "black", "corner"] = "white"

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        images = torch.full_like(starts.images, float(self.start == "white"))
        if self.start == "corner":
            quarter = images[:, :, images.shape[2] // 2 :, images.shape[3] // 2 :]
            quarter.copy_(torch.rand(quarter.shape, generator=rng, device=images.device))
        yield from super().invert(model, replace(starts, images=images), rng)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(SmoothInv)
    register(SmoothInvFromBlank)
    register(SmoothInvWithDiffusion)
