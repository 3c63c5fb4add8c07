"""SmoothInv and PlainAdv against the paper's formulas, number by number."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng
from torch import Tensor, nn

from backdoor_defenses.plainadv import PlainAdv
from backdoor_defenses.smoothinv import inverters
from backdoor_defenses.smoothinv.inverters import (
    SmoothInv,
    SmoothInvFromBlank,
    SmoothInvWithDiffusion,
    add_noise,
    log_smoothed,
    project,
)
from benchmark import Inverter, Starts
from benchmark.classifier import Classifier

SHAPE = (2, 5, 5)


def small_model(seed: int = 0, classes: int = 3, sharpness: float = 1.0) -> Classifier:
    """A convolution with a curved response, so that gradients differ from place to place."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stage = nn.Sequential(nn.Conv2d(SHAPE[0], 6, 3, padding=1), nn.Tanh())
        head = nn.Linear(6 * SHAPE[1] * SHAPE[2], classes)
    with torch.no_grad():
        head.weight.mul_(sharpness)
    return Classifier(OrderedDict(only=stage), nn.Flatten(), head, SHAPE[0]).eval()


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=rng(seed))


def last(inverter: Inverter, model: Classifier, starts: Starts, seed: int = 0) -> Tensor:
    """The final perturbations (J, C, H, W)."""
    *_, trigger = inverter.invert(model, starts, rng(seed))
    return trigger.variables[0]


# The smoothed classifier.


def test_probabilities_are_averaged_and_not_logits() -> None:
    model, images, sigma, samples = small_model(sharpness=20), pictures(4), 0.7, 6
    found = log_smoothed(model, images, sigma, samples, rng(3)).exp()
    noise = torch.randn(4 * samples, *SHAPE, generator=rng(3)).view(4, samples, *SHAPE)
    probabilities, logits = torch.zeros(4, 3), torch.zeros(4, 3)
    for j in range(4):
        for i in range(samples):
            answer = model((images[j] + sigma * noise[j, i])[None])[0]
            probabilities[j] += answer.softmax(0) / samples
            logits[j] += answer / samples
    assert torch.allclose(found, probabilities, atol=1e-5)
    assert not torch.allclose(found, logits.softmax(1), atol=0.02)
    assert torch.allclose(found.sum(1), torch.ones(4), atol=1e-5)


def test_the_gradient_of_the_smoothed_loss_agrees_with_finite_differences() -> None:
    model = small_model(sharpness=5).double()
    images = pictures(1).double().requires_grad_(True)

    def loss(at: Tensor) -> Tensor:
        # The same generator each time: the same noise.
        return -log_smoothed_double(model, at)[0, 1]

    def log_smoothed_double(model: Classifier, at: Tensor) -> Tensor:
        noise = torch.randn(5, *SHAPE, generator=rng(8)).double()
        each = model(at + 0.3 * noise).log_softmax(1)
        return (each.exp().mean(0)).log()[None]

    (literal,) = torch.autograd.grad(loss(images), images)
    step, numeric = 1e-5, torch.zeros_like(images)
    for place in torch.cartesian_prod(*map(torch.arange, SHAPE)):
        shift = torch.zeros_like(images)
        shift[0, place[0], place[1], place[2]] = step
        difference = loss(images.detach() + shift) - loss(images.detach() - shift)
        numeric[0, place[0], place[1], place[2]] = difference.item() / (2 * step)
    assert torch.allclose(literal, numeric, atol=1e-6)

    single = images.detach().float().requires_grad_(True)
    value = -log_smoothed(model.float(), single, 0.3, 5, rng(8))[0, 1]
    (found,) = torch.autograd.grad(value, single)
    assert torch.allclose(found.double(), numeric, atol=1e-4)


def test_the_loss_is_finite_where_all_probabilities_vanish() -> None:
    model, images = small_model(sharpness=4000), pictures(3)
    logs = log_smoothed(model, images, 0.1, 4, rng())
    assert bool(logs.isfinite().all())
    assert logs.min() < math.log(1e-20)


# Steps and projection.


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 1000), radius=st.floats(0.01, 5), length=st.floats(0, 10), count=st.just(3)
)
def test_projection_stays_in_the_ball_and_in_the_image_range(
    seed: int, radius: float, length: float, count: int
) -> None:
    images = pictures(count, seed)
    change = length * torch.randn(count, *SHAPE, generator=rng(seed + 1))
    found = project(images, change, radius)
    assert bool((found.flatten(1).norm(dim=1) <= radius * (1 + 1e-5)).all())
    assert bool(((images + found) >= -1e-6).all())
    assert bool(((images + found) <= 1 + 1e-6).all())
    # It is a projection: what is inside stays.
    assert torch.allclose(project(images, found, radius), found, atol=1e-6)


def test_every_step_is_the_papers(exact: None) -> None:
    """A literal version: one image at a time, loss -log G, normalised steps, clip, project."""
    model, sigma, samples, steps = small_model(4, sharpness=8), 0.4, 3, 12
    images, targets, radius = pictures(2, 5), torch.tensor([2, 0]), 1.2
    inverter = SmoothInv(epsilon=radius, sigma=sigma, samples=samples, steps=steps)
    found = [
        trigger.variables[0] for trigger in inverter.invert(model, Starts(images, targets), rng(7))
    ]
    assert len(found) == steps
    draws, p = rng(7), torch.zeros_like(images)
    for step in range(steps):
        noise = torch.randn(2 * samples, *SHAPE, generator=draws).view(2, samples, *SHAPE)
        for j in range(2):
            x = (images[j] + p[j]).requires_grad_(True)
            total = sum(
                model((x + sigma * noise[j, i])[None])[0].softmax(0)[targets[j]]
                for i in range(samples)
            )
            loss = -torch.log(torch.clamp(torch.as_tensor(total / samples), min=1e-20))
            (g,) = torch.autograd.grad(loss, x)
            new = p[j] - (0.5 * radius / 10) * g / g.norm()
            new = (images[j] + new).clamp(0, 1) - images[j]
            p[j] = new * min(1.0, radius / new.norm().item())
        assert torch.allclose(found[step], p, atol=1e-4)


def test_the_targets_probability_rises_and_the_listing_would_lower_it(exact: None) -> None:
    """C21: the printed sign ascends the loss."""
    model, images, targets = small_model(1, sharpness=5), pictures(4), torch.full((4,), 1)
    change = last(SmoothInv(sigma=0.2, steps=30), model, Starts(images, targets))
    before = log_smoothed(model, images, 0.2, 200, rng())[:, 1]
    after = log_smoothed(model, images + change, 0.2, 200, rng())[:, 1]
    assert bool((after > before + 0.5).all())


def test_a_batch_of_inversions_is_as_good_as_each_alone(exact: None) -> None:
    """PlainAdv draws nothing, so that a batch must take the very steps of single runs."""
    model, images, targets = small_model(2), pictures(5), torch.tensor([0, 1, 2, 1, 0])
    together = last(PlainAdv(steps=15), model, Starts(images, targets))
    for j in range(5):
        alone = Starts(images[j : j + 1], targets[j : j + 1])
        assert torch.allclose(last(PlainAdv(steps=15), model, alone)[0], together[j], atol=1e-5)


def test_chunks_do_not_change_the_steps(exact: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, targets = small_model(2), pictures(5), torch.tensor([0, 1, 2, 1, 0])
    inverter, starts = SmoothInv(samples=4, steps=5), Starts(images, targets)
    whole = last(inverter, model, starts)
    monkeypatch.setattr(SmoothInv, "images_per_pass", 8)
    assert torch.allclose(last(inverter, model, starts), whole, atol=1e-5)


def test_restarts_begin_elsewhere_inside_the_ball(exact: None) -> None:
    model, images = small_model(), pictures(3)
    targets = torch.zeros(3, dtype=torch.int64)
    inverter = PlainAdv(epsilon=2, steps=1)
    first = next(iter(inverter.invert(model, Starts(images, targets), rng())))
    again = next(iter(inverter.invert(model, Starts(images, targets, restart=1), rng())))
    # From nothing, one step is as long as a step is.
    assert bool((first.variables[0].flatten(1).norm(dim=1) <= 0.05 * 2 + 1e-5).all())
    assert bool((again.variables[0].flatten(1).norm(dim=1) > 0.1).any())
    assert bool((again.variables[0].flatten(1).norm(dim=1) <= 2 + 1e-5).all())


# Variants.


def test_plainadv_is_smoothinv_without_noise(exact: None) -> None:
    model, starts = small_model(6), Starts(pictures(2), torch.tensor([1, 2]))
    plain = last(PlainAdv(steps=10), model, starts)
    smoothed = last(SmoothInv(steps=10, samples=1, sigma=1e-9), model, starts)
    assert torch.allclose(plain, smoothed, atol=1e-5)


def test_a_denoiser_that_is_the_identity_gives_the_undenoised_method(
    exact: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Identity:
        sha256 = "0" * 64

        def to(self, device: torch.device) -> Identity:
            return self

        def __call__(self, images: Tensor, noise: Tensor, sigma: float) -> Tensor:
            return add_noise(images, noise, sigma)

    monkeypatch.setattr(inverters, "load", lambda name: Identity())
    model, starts = small_model(3), Starts(pictures(2), torch.tensor([1, 2]))
    settings = {"steps": 8, "samples": 3, "sigma": 0.5}
    with_diffusion = SmoothInvWithDiffusion(**settings, denoiser="identity")
    assert torch.equal(
        last(with_diffusion, model, starts), last(SmoothInv(**settings), model, starts)
    )
    assert with_diffusion.uses() == {"denoiser": "0" * 64}
    assert SmoothInv().uses() == {}


def test_a_denoiser_gets_clean_images_noise_and_sigma(
    exact: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes all noise here, so that the smoothed gradient is the plain one."""

    class Perfect:
        def to(self, device: torch.device) -> Perfect:
            return self

        def __call__(self, images: Tensor, noise: Tensor, sigma: float) -> Tensor:
            assert sigma == 0.5
            assert abs(noise.std().item() - 1) < 0.3
            return images

    monkeypatch.setattr(inverters, "load", lambda name: Perfect())
    model, starts = small_model(3), Starts(pictures(2), torch.tensor([1, 2]))
    found = last(SmoothInvWithDiffusion(steps=8, samples=3, sigma=0.5), model, starts)
    assert torch.allclose(found, last(PlainAdv(steps=8), model, starts), atol=1e-5)


def test_the_smoothed_classifier_is_the_one_that_is_inverted(exact: None) -> None:
    model, images = small_model(5), pictures(6)
    classify = SmoothInv(samples=7).smoothed(model, 0.3)
    expected = log_smoothed(model, images, 0.3, 7, rng(2)).exp()
    assert torch.allclose(classify(images, rng(2)), expected, atol=1e-5)
    still = SmoothInv(samples=2).smoothed(model, 0.0)
    assert torch.allclose(still(images, rng()), model(images).softmax(1), atol=1e-5)
    assert PlainAdv().smoothed(model, 0.3) is None


@pytest.mark.parametrize("start", ["white", "black", "corner"])
def test_a_blank_start_is_smoothinv_on_that_image(exact: None, start: str) -> None:
    """Whatever the game's images show; white and black have no randomness of their own."""
    model, targets = small_model(), torch.tensor([0, 2])
    blank = torch.full((2, *SHAPE), 1.0 if start == "white" else 0.0)
    draws = rng(3)
    if start == "corner":
        blank[:, :, 2:, 2:] = torch.rand(2, SHAPE[0], 3, 3, generator=draws)
    *_, wanted = SmoothInv(steps=5).invert(model, Starts(blank, targets), draws)
    own = SmoothInvFromBlank(steps=5, start=start)  # type: ignore[arg-type]
    for seed in range(2):
        *_, found = own.invert(model, Starts(pictures(2, seed), targets), rng(3))
        assert torch.equal(found.variables[0], wanted.variables[0])
