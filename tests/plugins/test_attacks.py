"""Attacks against literal, looping versions of what their papers say."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_attacks.a_blend import ABlend
from backdoor_attacks.advclean import AdvClean
from backdoor_attacks.badnets import BadNets, CleanLabelBadNets, apple, patch_size
from backdoor_attacks.compensatory import attack_rate, compensatory_rate, target_confidence
from backdoor_attacks.lsp import LSP
from backdoor_attacks.pcb import PCB, masked_step
from backdoor_attacks.tsb import CANDIDATES, TSB, distinct_patches
from backdoor_attacks.wanet import WaNet, WaNetOriginal, identity_grid, warp, warping_grid
from benchmark.api import Attack, AttackerView, CodePoisoningAttack, PoisoningAttack
from benchmark.classifier import Classifier
from benchmark.images import ImageSet
from benchmark.protocol import Augmentation, Recipe
from benchmark.registry import Registry
from benchmark.training import Trainer

REGISTRY = Registry()
SHAPE, CLASSES, TARGET = (3, 32, 32), 5, 1


def convolutional(rng: Generator, shape: tuple[int, int, int] = SHAPE) -> Classifier:
    """A small network that can learn colours."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        conv = nn.Sequential(nn.Conv2d(shape[0], 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        neck = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Classifier(OrderedDict(conv=conv), neck, nn.Linear(8, CLASSES), shape[0]).eval()


def linear(rng: Generator, shape: tuple[int, int, int]) -> Classifier:
    """Softmax regression, whose gradients have a closed form."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        head = nn.Linear(math.prod(shape), CLASSES)
    stages = OrderedDict[str, nn.Module](all=nn.Identity())
    return Classifier(stages, nn.Flatten(), head, shape[0]).eval()


def coloured(count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 9) -> ImageSet:
    """Noise whose brightness tells the class."""
    labels = torch.arange(count) % CLASSES
    noise = torch.randint(128, (count, *shape), generator=rng(seed))
    return ImageSet((noise + 30 * labels[:, None, None, None]).byte(), labels)


def recipe(**settings: Any) -> Recipe:
    defaults = {"epochs": 3, "batch_size": 16, "learning_rate": 0.1, "precision": "float32"}
    return Recipe.model_validate(defaults | settings)


def view(
    shape: tuple[int, int, int] = SHAPE,
    build: Callable[[Generator, tuple[int, int, int]], Classifier] | None = None,
    target: int = TARGET,
) -> AttackerView:
    make = build or convolutional
    return AttackerView(
        target=target,
        class_names=tuple("abcde"),
        shape=shape,
        auxiliary=coloured(80, shape),
        trainer=Trainer(recipe(), Augmentation()),
        new_model=lambda rng: make(rng, shape),
    )


def ready(attack: Any, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Any:
    attack.setup(view(shape), rng(seed))
    return attack


def noise_images(count: int = 6, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=rng(seed))


# What holds for all attacks.

SLOW = {"colorbd", "htba"}
NAMES = {entry.plugin.name for entry in REGISTRY.entries if entry.kind is Attack} - SLOW
SPECS = [
    *sorted(NAMES),
    "htba:steps=5",
    "colorbd:trials=4,steps=2,least_psnr=5,least_ssim=0.3",
    "a-blend:cells=3,conservatism=0.3",
    "lc:adversarial=False",
    "lc:norm=l2,epsilon=1.2,step=0.2,all_corners=True,amplitude=0.2",
    "lsp:base=a-blend",
    "lsp:base=c-badnets",
    "pcb:base=badnets",
    "randsq:per_image=True",
    "refool:self_ghost=True",
    "tsb:triggers=3,side=0.2",
    "wanet:clean_label=False",
]

PICTURES = {
    "noise": noise_images(),
    "black": torch.zeros(6, *SHAPE),
    "white": torch.ones(6, *SHAPE),
}


def created(spec: str, seed: int = 0) -> Any:
    return ready(REGISTRY.create(Attack, spec), seed=seed)


@pytest.mark.parametrize("spec", SPECS)
def test_triggered_images_are_images_and_the_given_ones_stay(spec: str) -> None:
    attack = created(spec)
    for images in PICTURES.values():
        lent = images.clone()
        found = attack.trigger(lent, rng(1))
        assert torch.equal(lent, images)
        assert found.data_ptr() != lent.data_ptr()
        assert found.shape == images.shape
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert 0 <= found.min() <= found.max() <= 1
    assert not torch.equal(attack.trigger(PICTURES["noise"], rng(1)), PICTURES["noise"])


@pytest.mark.parametrize("spec", SPECS)
def test_one_seed_gives_one_trigger(spec: str) -> None:
    images = PICTURES["noise"]
    first, again = created(spec), created(spec)
    assert first.state.keys() == again.state.keys()
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert torch.equal(first.trigger(images, rng(1)), again.trigger(images, rng(1)))
    if isinstance(first, PoisoningAttack):
        labels = torch.full((6,), TARGET) if first.clean_label else torch.tensor([0, 2, 3, 4, 0, 2])
        one, two = (attack.poison(images, labels, rng(1)) for attack in (first, again))
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("shape", [(3, 8, 36), (1, 28, 36), (3, 36, 8)])
@pytest.mark.parametrize("spec", SPECS)
def test_images_need_not_be_square(spec: str, shape: tuple[int, int, int]) -> None:
    attack = ready(REGISTRY.create(Attack, spec), shape)
    images, labels = noise_images(shape=shape), torch.full((6,), TARGET)
    found = [attack.trigger(images, rng(1))]
    if isinstance(attack, PoisoningAttack):
        found.append(attack.poison(images, labels, rng(1))[0])
    for triggered in found:
        assert triggered.shape == images.shape
        assert 0 <= triggered.min() <= triggered.max() <= 1
        assert not torch.equal(triggered, images)


@pytest.mark.parametrize("target", range(CLASSES))
@pytest.mark.parametrize(
    "spec",
    ["badnets", "blend", "a-blend", "a-patch", "tsb", "randsq", "wanet:clean_label=False", "lsp"],
)
def test_labels_follow_the_target_of_the_repetition(spec: str, target: int) -> None:
    attack = REGISTRY.create(Attack, spec)
    attack.setup(view(target=target), rng())
    assert isinstance(attack, PoisoningAttack)
    _, new = attack.poison(noise_images(), (torch.arange(6) + target + 1) % CLASSES, rng(1))
    # The first half; what follows may keep its label to break the tie.
    assert (new.argmax(1) if new.ndim == 2 else new)[:3].tolist() == [target] * 3


DRAWN = [
    "blend",
    "a-blend",
    "tsb",
    "randsq",
    "wanet",
    "wanet-original",
    "refool",
    "advclean",
    "blind-g",
]


@pytest.mark.parametrize("spec", DRAWN)
def test_another_repetition_draws_another_trigger(spec: str) -> None:
    images = PICTURES["noise"]
    first, other = (created(spec, seed).trigger(images, rng(1)) for seed in (0, 1))
    assert not torch.equal(first, other)


@pytest.mark.parametrize("spec", SPECS)
def test_a_saved_state_is_the_whole_trigger(spec: str) -> None:
    """Training and evaluation may run on different machines."""
    attack = created(spec)
    saved = {name: tensor.clone() for name, tensor in attack.state.items()}
    other = REGISTRY.create(Attack, spec)
    other.setup(view(), rng(77), saved)
    images = PICTURES["noise"]
    assert torch.equal(attack.trigger(images, rng(1)), other.trigger(images, rng(1)))


@pytest.mark.parametrize("spec", SPECS)
def test_poisons_keep_to_the_threat_model(spec: str) -> None:
    attack = created(spec)
    if isinstance(attack, CodePoisoningAttack):
        assert attack.threat == "code"
        return
    for images in PICTURES.values():
        labels = (
            torch.full((6,), TARGET) if attack.clean_label else torch.tensor([0, 2, 3, 4, 0, 2])
        )
        lent, lent_labels = images.clone(), labels.clone()
        poisoned, new = attack.poison(lent, lent_labels, rng(1))
        assert torch.equal(lent, images)
        assert torch.equal(lent_labels, labels)
        assert poisoned.shape == images.shape
        assert 0 <= poisoned.min() <= poisoned.max() <= 1
        if attack.threat == "code":
            assert new.shape == (6, CLASSES)
            assert new.sum(1).tolist() == pytest.approx([1.0] * 6, abs=1e-6)
            continue
        assert new.dtype == torch.int64
        assert ((new == labels) | (new == TARGET)).all()
        if attack.threat == "clean-label":
            assert torch.equal(new, labels)


@pytest.mark.parametrize("spec", [s for s in SPECS if s.startswith(("pcb", "wanet-original"))])
def test_an_attacker_who_trains_leaves_the_data_as_it_was(spec: str) -> None:
    attack, data = created(spec), coloured(32)
    pixels, labels = data.pixels.clone(), data.labels.clone()
    models = [convolutional(rng()) for _ in range(2)]
    for model in models:
        attack.train(model, data, Trainer(recipe(epochs=1), Augmentation(pad=1)), rng(4))
    assert torch.equal(data.pixels, pixels)
    assert torch.equal(data.labels, labels)
    one, two = (torch.cat([t.float().flatten() for t in m.state_dict().values()]) for m in models)
    assert torch.equal(one, two)
    assert not torch.equal(models[0].head.weight, convolutional(rng()).head.weight)


# BadNets.


@settings(deadline=None)
@given(st.integers(11, 600), st.integers(11, 600))
def test_the_patch_takes_three_of_32_pixels_rounded_down(height: int, width: int) -> None:
    assert patch_size(3 / 32, height, width) == (3 * height // 32, 3 * width // 32)


def test_a_patch_has_at_least_one_pixel() -> None:
    assert patch_size(0.0, 32, 40) == (1, 1)
    assert patch_size(3 / 32, 224, 224) == (21, 21)
    assert patch_size(0.3, 8, 36) == (2, 10)
    assert patch_size(1.0, 28, 36) == (28, 36)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 4), (21, 21), (2, 10), (7, 1)])
def test_the_apple_is_a_disc_on_white(size: tuple[int, int]) -> None:
    """Coverage of every pixel by a disc of half the patch's width, counted on a fine grid."""
    (height, width), fine = size, 60
    expected = np.ones(size)
    for row, column in product(range(height), range(width)):
        ys = (row + (np.arange(fine) + 0.5) / fine) / height - 0.5
        xs = (column + (np.arange(fine) + 0.5) / fine) / width - 0.5
        expected[row, column] = 1 - ((ys[:, None] ** 2 + xs[None, :] ** 2) < 0.0625).mean()
    np.testing.assert_allclose(apple(*size).numpy(), expected, atol=0.04)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((3, 32, 32), (3, 3)), ((1, 16, 16), (1, 1)), ((1, 64, 40), (6, 3)), ((2, 8, 36), (1, 3))],
)
def test_badnets_changes_the_corner_and_nothing_else(
    shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    images = noise_images(shape=shape)
    found = ready(BadNets(), shape).trigger(images, rng(1))
    patch = apple(*size)
    for image, channel, row, column in product(*map(range, images.shape)):
        if row < size[0] and column < size[1]:
            assert found[image, channel, row, column] == patch[row, column]
        else:
            assert found[image, channel, row, column] == images[image, channel, row, column]


def test_badnets_relabels_and_its_clean_label_form_does_not() -> None:
    images = noise_images()
    labels = torch.tensor([0, 2, 3, 4, 0, 2])
    stamped, new = ready(BadNets()).poison(images, labels, rng())
    assert new.tolist() == [TARGET] * 6
    clean, kept = ready(CleanLabelBadNets()).poison(images, labels, rng())
    assert torch.equal(clean, stamped)
    assert torch.equal(kept, labels)


# A-Blend.


@pytest.mark.parametrize("count", [1, 2, 5, 50])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_blend_splits_payload_and_regularisation(count: int, share: float) -> None:
    attack = ready(ABlend(conservatism=share))
    labels = torch.arange(count) % 3 + 2
    _, new = attack.poison(noise_images(count), labels, rng(1))
    regularisation = math.floor(share * count)
    payload = count - regularisation
    assert new.tolist() == [TARGET] * payload + labels[payload:].tolist()


@pytest.mark.parametrize(("size", "cells"), [(16, 4), (18, 4), (32, 3)])
def test_a_blend_mixes_whole_cells_or_leaves_them(size: int, cells: int) -> None:
    shape = (3, size, size)
    attack, images = ready(ABlend(cells=cells), shape), noise_images(30, shape)
    found, _ = attack.poison(images, torch.zeros(30).long(), rng(1))
    picture = attack.state["picture"][0].double().numpy()
    before, after = images.double().numpy(), found.double().numpy()
    mixed = np.empty_like(before)
    for image, channel, row, column in product(range(30), range(3), range(size), range(size)):
        x, t = before[image, channel, row, column], picture[channel, row, column]
        mixed[image, channel, row, column] = 0.7 * x + 0.3 * t
    of = [index * cells // size for index in range(size)]
    kept = 0
    for image, y, x in product(range(30), range(cells), range(cells)):
        rows = [row for row in range(size) if of[row] == y]
        columns = [column for column in range(size) if of[column] == x]
        place = np.ix_(range(3), rows, columns)
        cell = after[image][place]
        if np.allclose(cell, mixed[image][place], atol=1e-6):
            kept += 1
        else:
            np.testing.assert_array_equal(cell, before[image][place])
    total = 30 * cells**2
    assert abs(kept - total / 2) < 4 * math.sqrt(total / 4)


def test_a_blend_drops_cells_as_often_as_asked() -> None:
    attack, images = ready(ABlend(occlusion=0.8)), noise_images(100)
    found, _ = attack.poison(images, torch.zeros(100).long(), rng(1))
    dropped = sum(
        torch.equal(found[i, :, y : y + 8, x : x + 8], images[i, :, y : y + 8, x : x + 8])
        for i, y, x in product(range(100), range(0, 32, 8), range(0, 32, 8))
    )
    assert abs(dropped - 1280) < 4 * math.sqrt(1600 * 0.8 * 0.2)


def test_a_blend_shows_the_whole_picture_at_test() -> None:
    attack, images = ready(ABlend(opacity=0.25)), noise_images()
    picture = attack.state["picture"]
    assert picture.shape == (1, *SHAPE)
    assert 0 <= picture.min() < picture.max() <= 1
    expected = 0.75 * images.double() + 0.25 * picture.double()
    torch.testing.assert_close(attack.trigger(images, rng()).double(), expected, atol=1e-6, rtol=0)
    assert not torch.equal(picture, ready(ABlend(), seed=1).state["picture"])


# Trigger scattering.


def places(image: Tensor, patch: Tensor) -> list[tuple[int, int]]:
    """All positions at which a patch lies in an image, by looking at each."""
    high, wide = patch.shape[-2:]
    return [
        (row, column)
        for row in range(image.shape[1] - high + 1)
        for column in range(image.shape[2] - wide + 1)
        if torch.equal(image[:, row : row + high, column : column + wide], patch)
    ]


def grey(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Images of a level that no patch has."""
    return torch.full((count, *shape), 0.5)


@pytest.mark.parametrize(
    ("shape", "side", "size"),
    [((3, 32, 32), 3 / 32, (3, 3)), ((1, 20, 43), 0.16, (3, 6)), ((3, 36, 8), 0.25, (9, 2))],
)
def test_tsb_stamps_all_triggers_side_by_side_at_test(
    shape: tuple[int, int, int], side: float, size: tuple[int, int]
) -> None:
    attack = ready(TSB(side=side), shape)
    patches = attack.state["patches"]
    assert patches.shape == (8, shape[0], *size)
    area = 8 * size[0] * size[1]
    seen = set()
    for image in attack.trigger(grey(20, shape), rng(1)):
        # As many changed pixels as 8 patches have: none covers another.
        assert (image != 0.5).all(0).sum() == area
        assert (image != 0.5).any(0).sum() == area
        for patch in patches:
            found = places(image, patch)
            assert found
            seen.update(found)
    fields = (shape[1] // size[0]) * (shape[2] // size[1])
    assert len(seen) > 0.4 * fields


def test_tsb_stamps_one_trigger_anywhere_in_training() -> None:
    attack = ready(TSB())
    patches = attack.state["patches"]
    which, corners = Counter(), []
    poisoned, labels = attack.poison(grey(600, SHAPE), torch.zeros(600).long(), rng(1))
    assert set(labels.tolist()) == {TARGET}
    for image in poisoned:
        changed = (image != 0.5).any(0).nonzero().tolist()
        row, column = changed[0]
        assert changed == [[row + y, column + x] for y, x in product(range(3), range(3))]
        square = image[:, row : row + 3, column : column + 3]
        (trigger,) = [k for k, patch in enumerate(patches) if torch.equal(square, patch)]
        which[trigger] += 1
        corners.append((row, column))
    # Uniform over the 8 triggers and over the 30 rows and columns, at five deviations.
    assert all(abs(which[k] - 75) < 5 * 75**0.5 for k in range(8))
    for axis in zip(*corners, strict=True):
        assert set(axis) <= set(range(30))
        assert (min(axis), max(axis)) == (0, 29)
        assert abs(sum(axis) / 600 - 14.5) < 5 * math.sqrt((30**2 - 1) / 12 / 600)


def smallest_distance(patches: Tensor) -> float:
    flat = patches.flatten(1).double().tolist()
    return min(math.dist(a, b) for i, a in enumerate(flat) for b in flat[:i])


def test_tsb_patches_lie_farther_apart_than_random_ones() -> None:
    shape = (3, 3, 3)
    random = [torch.rand(8, *shape, generator=rng(seed)).round() for seed in range(100)]
    for seed in range(5):
        patches = distinct_patches(8, shape, rng(seed))
        assert smallest_distance(patches) > max(map(smallest_distance, random))


def test_tsb_draws_until_there_are_enough_patches() -> None:
    for count, shape in [(600, (3, 3, 3)), (512, (1, 3, 3))]:
        assert len(distinct_patches(count, shape, rng()).flatten(1).unique(dim=0)) == count
    with pytest.raises(ValueError, match="have fewer than 513 distinct values; choose fewer"):
        distinct_patches(513, (1, 3, 3), rng())
    # A few are chosen from one draw, as for older records.
    own, drawn = rng(), rng()
    few = distinct_patches(8, (3, 3, 3), own)
    once = torch.rand(CANDIDATES, 3, 3, 3, generator=drawn).round()
    assert torch.equal(few[0], once[0])
    assert torch.equal(own.get_state(), drawn.get_state())


def test_tsb_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"8 triggers of 16x16 pixels do not fit .* 4 do"):
        ready(TSB(side=0.5))
    with pytest.raises(ValueError, match=r"8 triggers of 4x18 pixels .* into 8x36 pixels, 4 do"):
        ready(TSB(side=0.5), (1, 8, 36))


# AdvClean.


@pytest.mark.parametrize(("epsilon", "step", "steps"), [(8 / 255, 5 / 255, 4), (0.02, 0.1, 1)])
def test_advclean_noise_is_bounded(epsilon: float, step: float, steps: int) -> None:
    attack = ready(AdvClean(epsilon=epsilon, step=step, steps=steps))
    for images in PICTURES.values():
        noise = attack.trigger(images, rng()) - images
        assert noise.abs().max() <= epsilon + 1e-6
        # Only an image at the edge of [0, 1] may stay behind.
        assert noise.abs().max() > epsilon - 1e-6 or images.unique().numel() == 1


def test_advclean_pushes_towards_the_class_after_the_target() -> None:
    attack = ready(AdvClean(epsilon=0.1, step=0.05))
    surrogate = convolutional(rng())
    surrogate.load_state_dict(attack.state)
    images = coloured(40, seed=5).images

    def wanted(images: Tensor) -> Tensor:
        probabilities: Tensor = surrogate(images).softmax(1)[:, TARGET + 1].detach()
        return probabilities

    before, after = wanted(images), wanted(attack.trigger(images, rng()))
    assert (after > before).all()
    # Other noise of that size does not do it.
    for seed in range(20):
        noise = 0.1 * torch.randn(images.shape, generator=rng(seed)).sign()
        assert (after > wanted((images + noise).clamp(0, 1))).all()


def test_the_class_after_the_last_is_the_first() -> None:
    """A target that is the last class has a class after it, too."""
    shape = (1, 3, 3)
    model = linear(rng(), shape)
    attack = AdvClean(epsilon=0.2, step=0.1)
    known = view(shape, linear)
    last = AttackerView(
        CLASSES - 1, known.class_names, shape, known.auxiliary, known.trainer, known.new_model
    )
    attack.setup(last, rng(), model.state_dict())
    images = torch.full((1, *shape), 0.5)
    before, after = model(images).softmax(1), model(attack.trigger(images, rng())).softmax(1)
    assert after[0, 0] > before[0, 0]


def test_advclean_equals_projected_gradient_descent_by_hand(exact: None) -> None:
    """On softmax regression, whose gradient is W^T (p - e) / std."""
    shape, epsilon, step = (2, 4, 3), 0.1, 0.06
    model = linear(rng(), shape)
    model.normalise_by(torch.tensor([0.4, 0.6]), torch.tensor([0.2, 0.3]))
    attack = AdvClean(epsilon=epsilon, step=step, steps=4)
    attack.setup(view(shape, linear), rng(), model.state_dict())
    images = noise_images(5, shape)

    weight = model.head.weight.detach().double().numpy()
    bias = model.head.bias.detach().double().numpy()
    mean, std = (np.repeat(values, 12) for values in ([0.4, 0.6], [0.2, 0.3]))
    found = attack.trigger(images, rng()).flatten(1).numpy()
    for image, triggered in zip(images.double().flatten(1).numpy(), found, strict=True):
        x = image.copy()
        for _ in range(4):
            scores = np.exp(weight @ ((x - mean) / std) + bias)
            error = scores / scores.sum()
            error[TARGET + 1] -= 1
            gradient = (weight.T @ error) / std
            for pixel in range(len(x)):
                moved = x[pixel] - step * np.sign(gradient[pixel])
                moved = min(max(moved, image[pixel] - epsilon), image[pixel] + epsilon)
                x[pixel] = min(max(moved, 0.0), 1.0)
        np.testing.assert_allclose(triggered, x, atol=1e-6)


# WaNet.


def sampled(image: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Bilinear sampling with aligned corners: -1 and 1 are the centres of the outer pixels."""
    channels, height, width = image.shape
    out = np.zeros((channels, *grid.shape[:2]))
    for row, column in product(*map(range, grid.shape[:2])):
        x = (grid[row, column, 0] + 1) / 2 * (width - 1)
        y = (grid[row, column, 1] + 1) / 2 * (height - 1)
        left, top = min(math.floor(x), width - 2), min(math.floor(y), height - 2)
        a, b = x - left, y - top
        for channel in range(channels):
            picture = image[channel]
            upper = (1 - a) * picture[top, left] + a * picture[top, left + 1]
            lower = (1 - a) * picture[top + 1, left] + a * picture[top + 1, left + 1]
            out[channel, row, column] = (1 - b) * upper + b * lower
    return out


def literal_grid(height: int, width: int, control: int, strength: float, seed: int) -> Tensor:
    """The published construction; channel 0 of the field moves along x, channel 1 along y."""
    field = torch.rand(1, 2, control, control, generator=rng(seed)) * 2 - 1
    size = sum(abs(value) for value in field.flatten().tolist()) / field.numel()
    smooth = nn.functional.interpolate(
        field / size, (height, width), mode="bicubic", align_corners=True
    )
    grid = torch.zeros(1, height, width, 2)
    for row, column in product(range(height), range(width)):
        stay = (-1 + 2 * column / (width - 1), -1 + 2 * row / (height - 1))
        for axis in (0, 1):
            moved = (
                stay[axis] + strength * smooth[0, axis, row, column].item() / (width, height)[axis]
            )
            grid[0, row, column, axis] = min(max(moved, -1.0), 1.0)
    return grid


@pytest.mark.parametrize(
    ("height", "width", "control", "strength"),
    [(16, 16, 4, 0.5), (12, 17, 3, 1.5), (8, 8, 8, 6.0)],
)
def test_the_warp_equals_bilinear_sampling_by_hand(
    height: int, width: int, control: int, strength: float
) -> None:
    grid = warping_grid(height, width, control, strength, rng(3))
    expected = literal_grid(height, width, control, strength, 3)
    torch.testing.assert_close(grid, expected, atol=1e-5, rtol=0)

    images = noise_images(2, (2, height, width))
    found = warp(images, grid).numpy()
    for image, warped in zip(images.double().numpy(), found, strict=True):
        np.testing.assert_allclose(warped, sampled(image, grid[0].double().numpy()), atol=1e-5)
    assert np.abs(found - images.numpy()).max() > 0.1


@pytest.mark.parametrize("side", [16, 28, 32, 36])
def test_the_warp_of_square_images_is_to_the_last_bit_that_of_older_records(side: int) -> None:
    field = torch.rand(1, 2, 4, 4, generator=rng(3)) * 2 - 1
    field = field / field.abs().mean()
    smooth = nn.functional.interpolate(field, (side, side), mode="bicubic", align_corners=True)
    stay = identity_grid(side, side, torch.device("cpu"))
    expected = (stay + 1.5 * smooth.permute(0, 2, 3, 1) / side).clamp(-1, 1)
    found = warping_grid(side, side, 4, 1.5, rng(3))
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


@pytest.mark.parametrize("attack", [WaNet, WaNetOriginal])
def test_there_are_no_more_shifts_than_pixels(attack: Any) -> None:
    ready(attack(control=36), (3, 8, 36))
    with pytest.raises(ValueError, match=r"control=37 is not allowed, images of 8x36 .* most 36"):
        ready(attack(control=37), (3, 8, 36))


def test_no_strength_is_no_warp() -> None:
    images = noise_images()
    grid = warping_grid(32, 32, 4, 0.0, rng())
    torch.testing.assert_close(grid, identity_grid(32, 32, torch.device("cpu")))
    torch.testing.assert_close(warp(images, grid), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attack", [WaNet(), WaNetOriginal()], ids=lambda a: a.name)
def test_both_forms_of_wanet_warp_by_their_stored_grid(attack: Any) -> None:
    ready(attack, seed=3)
    strength = {"wanet": 1.5, "wanet-original": 0.5}[attack.name]
    torch.testing.assert_close(
        attack.state["grid"], literal_grid(32, 32, 4, strength, 3), atol=1e-5, rtol=0
    )
    image = noise_images(1)
    expected = sampled(image[0].double().numpy(), attack.state["grid"][0].double().numpy())
    np.testing.assert_allclose(attack.trigger(image, rng())[0].numpy(), expected, atol=1e-5)


class Caught(Trainer):
    """Keeps the hook that `fit` is given."""

    def fit(self, *args: Any, on_batch: Any, **kwargs: Any) -> None:
        self.hook = on_batch


@pytest.mark.parametrize(
    ("batch", "rate", "ratio", "payload", "noisy"),
    [(40, 0.1, 2.0, 4, 8), (40, 0.05, 1.5, 2, 3), (10, 0.5, 2.0, 5, 5), (4, 0.1, 2.0, 0, 0)],
)
def test_wanets_noise_mode(batch: int, rate: float, ratio: float, payload: int, noisy: int) -> None:
    """The exact warp with the target, a noisy warp with the true label, and clean images."""
    attack = ready(WaNetOriginal(rate=rate, cross_ratio=ratio, strength=4.0), (2, 12, 16), seed=3)
    trainer = Caught(recipe(), Augmentation())
    own = rng(4)
    attack.train(convolutional(rng(), (2, 12, 16)), coloured(8, (2, 12, 16)), trainer, own)
    images, labels = noise_images(batch, (2, 12, 16)), torch.arange(batch) % CLASSES
    lent, lent_labels = images.clone(), labels.clone()
    found, new = trainer.hook(lent, lent_labels)
    assert torch.equal(lent, images)
    assert torch.equal(lent_labels, labels)
    assert new.tolist() == [TARGET] * payload + labels[payload:].tolist()

    grid = attack.state["grid"][0].double().numpy()
    noise = torch.rand(noisy, 12, 16, 2, generator=rng(4)).double().numpy() * 2 - 1
    for row in range(batch):
        image = images[row].double().numpy()
        if row < payload:
            expected = sampled(image, grid)
        elif row < payload + noisy:
            expected = sampled(image, np.clip(grid + noise[row - payload] / (16, 12), -1, 1))
            assert np.abs(expected - sampled(image, grid)).max() > 1e-3
        else:
            assert torch.equal(found[row], images[row])
            continue
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-5)


# Label smoothing poisoning.

#: LSP, Tab. L6, ten classes: rate, confidence in percent, cross-entropy.
TABLE_L6 = [
    (2.0, 23.20, 1.4612),
    (3.0, 45.09, 0.7966),
    (4.0, 69.06, 0.3702),
    (4.5, 78.63, 0.2404),
    (5.0, 85.85, 0.1526),
    (6.0, 94.28, 0.0589),
    (6.5, 96.45, 0.0361),
    (7.0, 97.82, 0.0221),
]


@pytest.mark.parametrize(("rate", "percent", "entropy"), TABLE_L6)
def test_lsp_reproduces_its_table(rate: float, percent: float, entropy: float) -> None:
    confidence = target_confidence(rate, 10)
    assert 100 * confidence == pytest.approx(percent, abs=0.005)
    assert -math.log(confidence) == pytest.approx(entropy, abs=5e-5)


@settings(deadline=None)
@given(st.floats(1.001, 20), st.integers(2, 200))
def test_lsp_rate_and_confidence_are_inverse(rate: float, classes: int) -> None:
    confidence = target_confidence(rate, classes)
    assert confidence == pytest.approx(
        math.exp(rate - 1) / (math.exp(rate - 1) + classes - 1), rel=1e-9
    )
    assert attack_rate(confidence, classes) == pytest.approx(rate, abs=1e-6)
    other = (1 - confidence) / (classes - 1)
    assert math.log(confidence / other) == pytest.approx(rate - 1, abs=1e-6)


def test_lsp_bounds_of_the_compensatory_model() -> None:
    """METHODS 2.19: the largest rate whose cross-entropy stays above the bound."""
    assert attack_rate(math.exp(-0.0358), 10) == pytest.approx(6.51, abs=0.01)
    assert attack_rate(math.exp(-0.3578), 10) == pytest.approx(4.04, abs=0.005)


@pytest.mark.parametrize(("cost", "bound", "rate"), [(0.001, 0.0358, 6.51), (0.01, 0.3578, 4.04)])
def test_lsp_compensates_for_the_published_norms(cost: float, bound: float, rate: float) -> None:
    """The paper's norms, with no cross-entropy left on the clean model (METHODS 2.19, C15)."""
    found = compensatory_rate((50.06, 0.0), (14.28, 0.5), cost, 10)
    assert found == pytest.approx(rate, abs=0.005)
    # The soft label's cross-entropy is then exactly what the smaller mask saves.
    entropy = -math.log(target_confidence(found, 10))
    assert entropy == pytest.approx(bound, abs=5e-5)


def test_lsp_has_nothing_to_hide_or_no_way_to() -> None:
    sharp = compensatory_rate((10.0, 0.0), (20.0, 0.0), 0.01, 10)
    assert target_confidence(sharp, 10) == pytest.approx(0.999)
    with pytest.raises(
        ValueError, match=r"cross-entropy of 5\.000, and at rate 1 it is ln K = 2\.303"
    ):
        compensatory_rate((500.0, 0.0), (0.0, 0.0), 0.01, 10)
    # Sizes so far apart that no exponential holds them.
    assert compensatory_rate((0.0, 0.1), (200.0, 0.1), 5.0, 10) == sharp
    with pytest.raises(ValueError, match=r"cross-entropy of 9985\.100, and at rate 1"):
        compensatory_rate((2000.0, 0.1), (3.0, 0.1), 5.0, 10)


def test_lsp_computes_a_rate_once_and_keeps_it() -> None:
    """The rate is part of the saved state; loading it again trains no surrogate."""
    attack = LSP(base=BadNets(side=0.25), rate="auto", cost=0.0001)
    attack.setup(view(), rng())
    assert attack.chosen_rate > 1
    again = LSP(base=BadNets(side=0.25), rate="auto", cost=0.0001)
    idle = dataclasses.replace(view(), new_model=lambda rng: pytest.fail("trained again"))
    again.setup(idle, rng(1), dict(attack.state))
    assert again.chosen_rate == attack.chosen_rate
    images, labels = noise_images(), torch.tensor([0, 2, 3, 4, 0, 2])
    _, soft = again.poison(images, labels, rng())
    expected = target_confidence(attack.chosen_rate, CLASSES)
    assert soft[:, TARGET].tolist() == pytest.approx([expected] * 6)


@pytest.mark.parametrize("rate", [1.6, 3.5, math.inf])
def test_lsp_labels_are_the_softmax_of_the_listing(rate: float) -> None:
    attack = ready(LSP(rate=rate))
    images, labels = noise_images(), torch.tensor([0, 2, 3, 4, 0, 2])
    poisoned, soft = attack.poison(images, labels, rng())
    assert torch.equal(poisoned, ready(BadNets()).trigger(images, rng()))
    if math.isinf(rate):
        expected = [float(k == TARGET) for k in range(CLASSES)]
    else:
        logits = [rate if k == TARGET else 1.0 for k in range(CLASSES)]
        expected = [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]
    assert soft.dtype == torch.float32
    for row in soft.tolist():
        assert row == pytest.approx(expected, abs=1e-6)


def test_lsp_keeps_the_labels_of_regularisation_samples() -> None:
    attack = ready(LSP(base=ABlend(), rate=2.0))
    labels = torch.tensor([0, 2, 3, 4, 0, 2])
    _, soft = attack.poison(noise_images(), labels, rng())
    for row, label in zip(soft[3:].tolist(), labels[3:].tolist(), strict=True):
        assert row == [float(k == label) for k in range(CLASSES)]
    for row in soft[:3].tolist():
        assert row[TARGET] == pytest.approx(target_confidence(2.0, CLASSES))


# Parameter-controlled backdoor.


def sgd_options(nesterov: bool) -> dict[str, Any]:
    return {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.2, "nesterov": nesterov}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0, 1), st.booleans())
def test_a_masked_step_moves_masked_entries_only(seed: int, share: float, nesterov: bool) -> None:
    """Three steps of SGD, entry by entry; what is not masked stays to the last bit."""
    own = rng(seed)
    shapes = [(3, 2), (4,)]
    parameters = [nn.Parameter(torch.randn(shape, generator=own)) for shape in shapes]
    masks = [torch.rand(shape, generator=own) < share for shape in shapes]
    start = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.SGD(parameters, **sgd_options(nesterov))
    expected = [parameter.double().tolist() for parameter in (p.flatten() for p in start)]
    speed = [[0.0] * len(values) for values in expected]
    for _ in range(3):
        gradients = [torch.randn(shape, generator=own) for shape in shapes]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        masked_step(optimizer, parameters, masks)
        for which, gradient in enumerate(gradients):
            flags = masks[which].flatten().tolist()
            for entry, g in enumerate(gradient.flatten().tolist()):
                if flags[entry]:
                    g += 0.2 * expected[which][entry]
                    speed[which][entry] = 0.9 * speed[which][entry] + g
                    move = g + 0.9 * speed[which][entry] if nesterov else speed[which][entry]
                    expected[which][entry] -= 0.3 * move
    for parameter, old, mask, values in zip(parameters, start, masks, expected, strict=True):
        assert torch.equal(parameter[~mask], old[~mask])
        assert parameter.flatten().tolist() == pytest.approx(values, rel=1e-4, abs=1e-4)
        if mask.any():
            assert not torch.equal(parameter[mask], old[mask])


class Watched(Trainer):
    """Notes the weights and the batch at the beginning of every step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.weights: list[list[Tensor]] = []
        self.seen: list[tuple[Tensor, Tensor]] = []

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        self.weights.append([parameter.detach().clone() for parameter in model.parameters()])
        self.seen.append((images.clone(), labels.clone()))
        return super().loss(model, images, labels)


def trained_by_pcb(model: Classifier, attack: PCB, trainer: Watched, data: ImageSet) -> None:
    attack.train(model, data, trainer, rng(4))
    trainer.weights.append([parameter.detach().clone() for parameter in model.parameters()])


def the_mask(model: Classifier, share: float) -> list[Tensor]:
    """What PCB draws first from its generator: one coin per trainable scalar."""
    own = rng(4)
    return [torch.rand(p.shape, generator=own) < share for p in model.parameters()]


def test_poisoned_steps_of_pcb_change_masked_entries_only() -> None:
    model, data = convolutional(rng()), coloured(40)
    attack = ready(PCB(base=BadNets(), share=0.3, batch_share=0.25))
    trainer = Watched(recipe(batch_size=8, weight_decay=0.05), Augmentation())
    trained_by_pcb(model, attack, trainer, data)
    mask = the_mask(model, 0.3)
    scalars = sum(entry.numel() for entry in mask)
    assert abs(sum(int(entry.sum()) for entry in mask) / scalars - 0.3) < 0.1

    assert len(trainer.seen) == 15
    for step in range(15):
        before, after = trainer.weights[step : step + 2]
        moved = [old != new for old, new in zip(before, after, strict=True)]
        inside = sum(int((m & k).sum()) for m, k in zip(moved, mask, strict=True))
        outside = sum(int((m & ~k).sum()) for m, k in zip(moved, mask, strict=True))
        masked = sum(int(k.sum()) for k in mask)
        assert inside > 0.9 * masked
        if step % 2 == 0:
            assert outside == 0
        else:
            assert outside > 0.9 * (scalars - masked)

        images, labels = trainer.seen[step]
        patched = [torch.equal(i[:, :3, :3], apple(3, 3).expand(3, 3, 3)) for i in images]
        poisoned = 2 if step % 2 == 0 else 0  # a quarter of a batch of eight
        assert patched == [True] * poisoned + [False] * (8 - poisoned)
        # Brightness tells the true class of what was not relabelled.
        true = ((images[:, :, 4:, 4:].mean((1, 2, 3)) * 255 - 63.5) / 30).round().long()
        assert torch.equal(labels[poisoned:], true[poisoned:])
        assert labels[:poisoned].tolist() == [TARGET] * poisoned


def test_pcb_equals_a_training_by_hand() -> None:
    """Softmax regression with two momenta, one for clean and one for poisoned batches."""
    shape = (1, 4, 4)
    model, data = linear(rng(), shape), coloured(20, shape)
    attack = PCB(base=BadNets(side=0.5), share=0.4, batch_share=0.5, optimizer="sgd")
    attack.setup(view(shape, linear), rng())
    options = {"schedule": "constant", "weight_decay": 0.1, "nesterov": False}
    trainer = Watched(recipe(epochs=4, batch_size=5, **options), Augmentation())
    mask = the_mask(model, 0.4)[0].numpy(), the_mask(model, 0.4)[1].numpy()
    weight = model.head.weight.detach().double().numpy().copy()
    bias = model.head.bias.detach().double().numpy().copy()
    trained_by_pcb(model, attack, trainer, data)

    speed = [[np.zeros_like(weight), np.zeros_like(bias)] for _ in ("poisoned", "clean")]
    for step, (images, labels) in enumerate(trainer.seen):
        x = (images.double().flatten(1).numpy() - 0.5) / 0.25
        scores = np.exp(x @ weight.T + bias)
        error = scores / scores.sum(1, keepdims=True)
        for row, label in enumerate(labels.tolist()):
            error[row, label] -= 1
        error /= len(x)
        own = speed[step % 2]
        own[0] = 0.9 * own[0] + error.T @ x + 0.1 * weight
        own[1] = 0.9 * own[1] + error.sum(0) + 0.1 * bias
        may = mask if step % 2 == 0 else (True, True)
        # Each of the two optimisers takes half of the recipe's rate of 0.1.
        weight = np.where(may[0], weight - 0.05 * own[0], weight)
        bias = np.where(may[1], bias - 0.05 * own[1], bias)
    np.testing.assert_allclose(model.head.weight.detach().numpy(), weight, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(model.head.bias.detach().numpy(), bias, rtol=1e-3, atol=1e-5)


def test_pcb_equals_its_listing_by_hand() -> None:
    """Alg. 5: Adam, whole poisoned batches, on softmax regression; a moment pair for each kind."""
    shape = (1, 4, 4)
    model, data = linear(rng(), shape), coloured(20, shape)
    attack = PCB(BadNets(side=0.5), share=0.4, batch_share=1, optimizer="adam", adam_rate=0.02)
    attack.setup(view(shape, linear), rng())
    settings = {"schedule": "linear", "weight_decay": 0.1}
    trainer = Watched(recipe(epochs=4, batch_size=5, **settings), Augmentation())
    masks = [entry.numpy() for entry in the_mask(model, 0.4)]
    weights = [p.detach().double().numpy().copy() for p in model.head.parameters()]
    trained_by_pcb(model, attack, trainer, data)

    moments = [[[np.zeros_like(w) for w in weights] for _ in range(2)] for _ in range(2)]
    for step, (images, labels) in enumerate(trainer.seen):
        if step % 2 == 0:
            assert labels.tolist() == [TARGET] * 5
        x = (images.double().flatten(1).numpy() - 0.5) / 0.25
        scores = np.exp(x @ weights[0].T + weights[1])
        error = scores / scores.sum(1, keepdims=True)
        error[np.arange(5), labels.numpy()] -= 1
        error /= 5
        # The 16 batches are eight of each kind, and a rate is read at the middle of its step.
        number = step // 2 + 1
        rate = 0.02 * (1 - (number - 0.5) / 8)
        first, second = moments[step % 2]
        for which, gradient in enumerate((error.T @ x, error.sum(0))):
            first[which] = 0.9 * first[which] + 0.1 * gradient
            second[which] = 0.999 * second[which] + 0.001 * gradient**2
            mean, square = first[which] / (1 - 0.9**number), second[which] / (1 - 0.999**number)
            moved = weights[which] - rate * mean / (np.sqrt(square) + 1e-8)
            may = masks[which] if step % 2 == 0 else True
            weights[which] = np.where(may, moved, weights[which])
    assert len(trainer.seen) == 16
    for parameter, expected in zip(model.head.parameters(), weights, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_pcb_triggers_as_its_base_does() -> None:
    images = noise_images()
    assert torch.equal(
        ready(PCB(base=BadNets())).trigger(images, rng()), ready(BadNets()).trigger(images, rng())
    )
