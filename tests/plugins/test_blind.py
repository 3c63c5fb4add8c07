"""Blind attacks: MGDA against its closed form, triggers pixel by pixel, what is trained."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng
from torch import Tensor, nn

from backdoor_attacks.blind import (
    AdaptiveBlindPattern,
    AdaptiveBlindPixel,
    Blind,
    BlindGaussian,
    BlindPattern,
    BlindPixel,
)
from backdoor_attacks.mgda import balanced, min_norm_weights
from benchmark.classifier import Classifier
from benchmark.images import ImageSet
from benchmark.models import SmallResNet
from benchmark.protocol import Augmentation, Recipe
from benchmark.training import Trainer

ALL = [BlindPattern, BlindPixel, BlindGaussian, AdaptiveBlindPattern, AdaptiveBlindPixel]


def mounted(attack: Blind, shape: tuple[int, int, int] = (1, 28, 28), target: int = 2) -> Blind:
    view: Any = SimpleNamespace(target=target, shape=shape, classes=10)
    attack.setup(view, rng())
    return attack


# MGDA.

vectors = st.lists(
    st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4), min_size=2, max_size=2
)


@settings(deadline=None, max_examples=200)
@given(vectors)
def test_two_tasks_have_the_closed_form(pair: list[list[float]]) -> None:
    """a1 = clip(((g2 - g1) g2) / |g1 - g2|^2, 0.001, 0.999), as in the authors' code."""
    g1, g2 = np.array(pair)
    gap = float(((g1 - g2) ** 2).sum())
    if gap < 1e-3:
        return
    first = min(max(float((g2 - g1) @ g2) / gap, 0.001), 0.999)
    found = min_norm_weights(np.array([[g1 @ g1, g1 @ g2], [g1 @ g2, g2 @ g2]]))
    assert found == pytest.approx([first, 1 - first], abs=2e-4)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_no_other_combination_is_shorter(seed: int, tasks: int) -> None:
    draw = np.random.default_rng(seed)
    gradients = draw.normal(size=(tasks, 6)) * draw.uniform(0.1, 10, size=(tasks, 1))
    gram = gradients @ gradients.T
    weights = min_norm_weights(gram)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0.001 - 1e-12
    grid = np.linspace(0, 1, 21)
    shortest = min(
        float(np.array(point) @ gram @ np.array(point))
        for point in itertools.product(grid, repeat=tasks)
        if abs(sum(point) - 1) < 1e-9
    )
    # The least weight of 0.001 may cost a little.
    assert weights @ gram @ weights <= shortest + 0.01 * gram.diagonal().max()


def test_parallel_gradients_and_zero_gradients_do_not_break_it() -> None:
    for gram in (np.ones((2, 2)), np.zeros((3, 3)), np.diag([0.0, 1.0])):
        weights = min_norm_weights(gram)
        assert np.isfinite(weights).all()
        assert weights.sum() == pytest.approx(1)


def test_losses_are_balanced_after_dividing_by_loss_times_norm() -> None:
    """The authors' "loss+": divide g by min(L |g|, 10), weight, sum the undivided gradients."""
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    bias = torch.tensor([0.5], requires_grad=True)
    losses = [
        (weight**2).sum() + 3 * bias.sum(),
        2 * (weight * torch.tensor([2.0, 1.0])).sum() + bias.sum() ** 2 + 4,
    ]
    gradients = np.array([[2.0, -4.0, 3.0], [4.0, 2.0, 1.0]])
    values = [1 + 4 + 1.5, 2 * (2 - 2) + 0.25 + 4]
    divided = [g / min(v * np.linalg.norm(g), 10) for g, v in zip(gradients, values, strict=True)]
    gap = divided[1] - divided[0]
    first = np.clip((gap @ divided[1]) / (gap @ gap), 0.001, 0.999)
    weights, combined = balanced(losses, [weight, bias])
    assert weights == pytest.approx([first, 1 - first], abs=1e-5)
    expected = first * gradients[0] + (1 - first) * gradients[1]
    assert torch.cat(combined).numpy() == pytest.approx(expected, abs=1e-4)


# Triggers.


def test_the_pattern_is_the_published_one() -> None:
    """At 224 pixels: white and black at the paper's places, row 3 and column 23 on."""
    grey = torch.full((2, 3, 224, 224), 0.5)
    stamped = mounted(BlindPattern()).trigger(grey, rng())
    white = {(3, 23), (3, 25), (4, 24), (6, 24), (7, 23), (7, 25)}
    black = {(3, 24), (5, 25), (7, 24)}
    for channel in range(3):
        changed = (stamped[0, channel] != 0.5).nonzero().tolist()
        assert {tuple(place) for place in changed} == white | black
    assert all(stamped[0, 0, row, column] == 1 for row, column in white)
    assert all(stamped[0, 0, row, column] == 0 for row, column in black)
    assert torch.equal(grey, torch.full_like(grey, 0.5))


def test_the_single_pixel_is_the_published_one() -> None:
    stamped = mounted(BlindPixel()).trigger(torch.zeros(1, 3, 224, 224), rng())
    assert stamped.nonzero()[:, 2:].unique(dim=0).tolist() == [[3, 23]]


@pytest.mark.parametrize(("side", "corner"), [(28, (0, 3)), (32, (0, 3)), (16, (0, 2))])
def test_the_corner_moves_with_the_size(side: int, corner: tuple[int, int]) -> None:
    stamped = mounted(BlindPixel()).trigger(torch.zeros(1, 1, side, side), rng())
    assert tuple(stamped.nonzero()[0, 2:].tolist()) == corner


def test_the_gaussian_patch_is_fixed_clipped_and_ten_wide() -> None:
    attack = mounted(BlindGaussian(), (3, 32, 32))
    images = torch.full((2, 3, 32, 32), 0.5)
    stamped = attack.trigger(images, rng(1))
    assert torch.equal(stamped, attack.trigger(images, rng(2)))
    patch = stamped[0, :, 0:10, 3:13]
    expected = torch.randn(3, 10, 10, generator=rng()).clamp(0, 1)
    assert torch.equal(patch, expected)
    rest = stamped.clone()
    rest[:, :, 0:10, 3:13] = 0.5
    assert torch.equal(rest, images)
    again = BlindGaussian()
    again.setup(attack.view, rng(9), attack.state)
    assert torch.equal(again.trigger(images, rng()), stamped)


def test_a_patch_that_does_not_fit_is_cut() -> None:
    stamped = mounted(BlindGaussian(), (1, 8, 8)).trigger(torch.zeros(1, 1, 8, 8), rng())
    assert stamped.shape == (1, 1, 8, 8)


# Training.


def two_kinds(count: int = 300) -> ImageSet:
    """Dark and bright images with noise, classes 0 and 1."""
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 1, 12, 12), generator=rng(3))
    pixels = (noise + 120 * labels[:, None, None, None]).to(torch.uint8)
    return ImageSet(pixels, labels)


def trained(attack: Blind, data: ImageSet) -> Classifier:
    recipe = Recipe(epochs=6, batch_size=30, learning_rate=0.05, precision="float32")
    torch.manual_seed(0)
    model = SmallResNet(width=16).build((1, 12, 12), 3)
    attack.train(model, data, Trainer(recipe, Augmentation()), rng(1))
    return model.eval()


@pytest.mark.parametrize("kind", [BlindPattern, AdaptiveBlindPixel])
def test_the_task_is_learnt_together_with_the_backdoor(kind: type[Blind]) -> None:
    data, attack = two_kinds(), mounted(kind(), (1, 12, 12))
    model = trained(attack, data)
    images = data.pixels.float() / 255
    with torch.no_grad():
        assert (model(images).argmax(1) == data.labels).float().mean() > 0.95
        assert (model(attack.trigger(images, rng())).argmax(1) == 2).float().mean() > 0.95


class Recorder(nn.Module):
    """Notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[Tensor] = []

    def settle(self) -> None:
        """As classifiers have it."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        total = images.flatten(1).mean(1, keepdim=True)
        return self.weight * torch.cat([total, -total, total**2], 1)


@pytest.mark.parametrize("kind", ALL)
def test_a_share_of_every_batch_is_triggered_in_the_same_pass(kind: type[Blind]) -> None:
    attack = mounted(kind(share=0.4), (1, 12, 12))
    recipe = Recipe(epochs=1, batch_size=30, learning_rate=0.1, precision="float32")
    model: Any = Recorder()
    attack.train(model, two_kinds(60), Trainer(recipe, Augmentation()), rng(1))
    assert len(model.seen) == 2
    for seen in model.seen:
        clean, triggered, noisy = seen[:30], seen[30:42], seen[42:]
        assert torch.equal(triggered, attack.trigger(clean[:12], rng()))
        if attack.noise:
            assert abs((noisy - triggered).std().item() - 0.25) < 0.02
            assert len(noisy) == 12
        else:
            assert len(noisy) == 0


def test_the_noisy_backdoor_keeps_the_true_label() -> None:
    """The three tasks of Blind-P*: true labels, the target, true labels again."""
    attack = mounted(AdaptiveBlindPattern(share=0.5, noise=0.1), (1, 12, 12))
    data = two_kinds(20)
    images, labels = data.pixels.float() / 255, data.labels
    recipe = Recipe(epochs=1, batch_size=30, learning_rate=0.1, precision="float32")
    model: Any = Recorder()
    losses = attack._losses(model, images, labels, Trainer(recipe, Augmentation()), rng(5))
    (seen,) = model.seen
    logits = Recorder()(seen)
    wanted = [labels, torch.full((10,), 2), labels[:10]]
    parts = logits.split([20, 10, 10])
    for loss, part, label in zip(losses, parts, wanted, strict=True):
        literal = torch.stack([-p.log_softmax(0)[y] for p, y in zip(part, label, strict=True)])
        assert loss.item() == pytest.approx(literal.mean().item(), abs=1e-5)
