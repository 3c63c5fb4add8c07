"""One-shot denoising against the literal formulas, the published time steps and diffusers."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from backdoor_defenses.smoothinv import training
from backdoor_defenses.smoothinv.denoiser import Denoiser, DenoiserError, time_step
from benchmark.images import ImageSet


def linear() -> Any:
    return diffusers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02)


def cosine() -> Any:
    return diffusers.DDPMScheduler(4000, beta_schedule="squaredcos_cap_v2")


SCHEDULES = {"linear": linear().alphas_cumprod, "cosine": cosine().alphas_cumprod}


def level(step: int, abar: Tensor) -> float:
    """Deviation of a step's noise, on images in [0, 1]."""
    share = float(abar[step])
    return math.sqrt((1 - share) / share) / 2


class Fake(nn.Module):
    """Stands for a network; keeps what it is given."""

    def __init__(self, answer: Any, channels: int = 1, levels: int = 3) -> None:
        super().__init__()
        self.config = {"in_channels": channels, "block_out_channels": (8,) * levels}
        self.answer, self.seen = answer, []

    def forward(self, noisy: Tensor, step: int) -> SimpleNamespace:
        self.seen.append((noisy, step))
        return SimpleNamespace(sample=self.answer(noisy))


def wrapped(answer: Any, **words: int) -> tuple[Denoiser, Any]:
    made = Denoiser(Fake(answer, **words), linear(), "float32")  # type: ignore[arg-type]
    return made, made.unet


def draw(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = Generator().manual_seed(seed)
    return torch.rand(shape, generator=rng), torch.randn(shape, generator=rng)


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any]:
    """A network of diffusers' own, hardly trained, and its schedule."""
    pixels = (255 * draw(20, 1, 16, 16)[0]).byte()
    images = ImageSet(pixels, torch.zeros(20, dtype=torch.int64))
    return training.train(images, steps=1, seed=3, width=8)


# Time steps.


@pytest.mark.parametrize(
    ("schedule", "steps"), [("linear", (70, 145, 259, 396)), ("cosine", (573, 1158, 1984, 2809))]
)
def test_time_steps_are_the_published_ones(schedule: str, steps: tuple[int, ...]) -> None:
    found = tuple(time_step(sigma, SCHEDULES[schedule]) for sigma in (0.12, 0.25, 0.5, 1.0))
    assert found == steps


@settings(deadline=None)
@given(st.sampled_from([*SCHEDULES]), st.floats(0, 50))
@example("linear", 0.0)
@example("linear", level(483, SCHEDULES["linear"]))  # torch's square root is off by the last bit
@example("cosine", level(150, SCHEDULES["cosine"]))
def test_the_step_is_the_first_that_is_noisy_enough(schedule: str, sigma: float) -> None:
    abar = SCHEDULES[schedule]
    step = time_step(sigma, abar)
    assert level(step, abar) >= sigma
    assert step == 0 or level(step - 1, abar) < sigma


@pytest.mark.parametrize("sigma", [-0.1, 80.0, math.inf, math.nan])
def test_noise_that_no_step_has_is_refused(sigma: float) -> None:
    with pytest.raises(DenoiserError, match=r"not among the denoiser's steps; choose sigma from 0"):
        time_step(sigma, SCHEDULES["linear"])


# One pass.


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
def test_a_network_that_sees_no_noise_leaves_it_on(sigma: float) -> None:
    images, noise = draw(3, 1, 8, 8)
    made, _ = wrapped(torch.zeros_like)
    added = level(time_step(sigma, SCHEDULES["linear"]), SCHEDULES["linear"])
    assert sigma <= added < sigma * 1.02
    expected = (images + added * noise).clamp(0, 1)
    torch.testing.assert_close(made(images, noise, sigma), expected, atol=2e-6, rtol=0)


def test_the_network_is_given_scaled_images_and_the_step() -> None:
    images, noise = draw(3, 1, 8, 8)
    made, unet = wrapped(torch.zeros_like)
    made(images, noise, 0.5)
    ((noisy, step),) = unet.seen
    assert step == 259
    abar = SCHEDULES["linear"][259]
    literal = abar.sqrt() * (2 * images - 1) + (1 - abar).sqrt() * noise
    torch.testing.assert_close(noisy, literal, atol=2e-6, rtol=0)
    times = torch.full((3,), 259)
    theirs = linear().add_noise(2 * images - 1, noise, times)
    torch.testing.assert_close(noisy, theirs, atol=2e-6, rtol=0)


def test_the_answer_is_the_literal_formula_and_that_of_diffusers(network: tuple[Any, Any]) -> None:
    unet, scheduler = network
    images, noise = draw(3, 1, 16, 16)
    step = time_step(0.25, scheduler.alphas_cumprod)
    abar = scheduler.alphas_cumprod[step]
    noisy = abar.sqrt() * (2 * images - 1) + (1 - abar).sqrt() * noise
    with torch.no_grad():
        seen = unet.eval()(noisy, step).sample
    literal = ((noisy - (1 - abar).sqrt() * seen) / abar.sqrt()).clamp(-1, 1)
    theirs = scheduler.step(seen, step, noisy).pred_original_sample
    found = Denoiser(unet, scheduler, "float32")(images, noise, 0.25)
    torch.testing.assert_close(found, (literal + 1) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(found, (theirs + 1) / 2, atol=1e-5, rtol=0)


def test_learned_variances_are_left_aside() -> None:
    images, noise = draw(2, 3, 8, 8)
    made, _ = wrapped(lambda noisy: torch.cat([noise, torch.full_like(noise, 9)], 1), channels=3)
    torch.testing.assert_close(made(images, noise, 0.25), images, atol=2e-6, rtol=0)


def test_without_noise_images_stay_as_they_are() -> None:
    images, noise = draw(2, 1, 8, 8)
    made, unet = wrapped(torch.zeros_like)
    assert torch.equal(made(images, noise, 0), images)
    assert not unet.seen


def test_gradients_are_finite_differences(network: tuple[Any, Any]) -> None:
    images, noise = draw(1, 1, 16, 16)
    images = (images / 2 + 0.25).requires_grad_()  # away from where the clipping has a corner
    made = Denoiser(*network, "float32")
    weights, direction = torch.randn(
        2, *images.shape, generator=Generator().manual_seed(5)
    ).unbind()
    (made(images, noise, 0.12) * weights).sum().backward()
    assert images.grad is not None
    with torch.no_grad():
        ahead, behind = (
            (made(images + h * direction, noise, 0.12) * weights).sum() for h in (1e-3, -1e-3)
        )
    slope = float((ahead - behind) / 2e-3)
    assert float((images.grad * direction).sum()) == pytest.approx(slope, rel=0.03)
    assert all(weight.grad is None for weight in made.unet.parameters())


def test_bfloat16_hardly_differs_and_leaves_the_given_network_alone(
    network: tuple[Any, Any],
) -> None:
    images, noise = draw(4, 1, 16, 16)
    fast, exact = Denoiser(*network), Denoiser(*network, "float32")
    found = fast(images, noise, 0.25)
    assert found.dtype == torch.float32
    assert float((found - exact(images, noise, 0.25)).abs().mean()) < 0.01
    assert fast.sha256 == exact.sha256
    assert all(weight.dtype == torch.float32 for weight in network[0].parameters())
    assert all(weight.requires_grad for weight in network[0].parameters())


def test_images_that_do_not_fit_are_refused() -> None:
    made, _ = wrapped(torch.zeros_like)
    with pytest.raises(DenoiserError, match="for images of 1 channels, these have 3; choose"):
        made(*draw(2, 3, 8, 8), 0.25)
    with pytest.raises(DenoiserError, match="that 4 divides, these images have 8 x 10; choose"):
        made(*draw(2, 1, 8, 10), 0.25)


def test_a_network_that_predicts_something_else_is_refused() -> None:
    other = diffusers.DDPMScheduler(prediction_type="v_prediction")
    with pytest.raises(DenoiserError, match="predicts 'v_prediction'; choose one"):
        Denoiser(Fake(torch.zeros_like), other)  # type: ignore[arg-type]
