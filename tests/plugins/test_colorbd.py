"""Color Backdoor: colour spaces against the standard library, the shift and its search by hand."""

from __future__ import annotations

import colorsys
import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_attacks import colorbd
from backdoor_attacks.colorbd import ColorBD, FixedColorBD, search, unnaturalness
from backdoor_attacks.colour import SPACES, Space, rgb_to_lab, shifted
from backdoor_defenses.similarity import structural_similarity
from benchmark.classifier import Classifier
from benchmark.images import ImageSet
from benchmark.protocol import Augmentation, Recipe
from benchmark.training import Trainer

TARGET, CLASSES, SHAPE = 1, 3, (3, 12, 9)
UNIT = st.floats(0, 1, width=32)


def pixel(*colour: float) -> Tensor:
    return torch.tensor(colour).view(1, 3, 1, 1)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(UNIT, UNIT, UNIT)
def test_every_space_leads_back(red: float, green: float, blue: float) -> None:
    for space in SPACES:
        there, back = SPACES[space][:2]
        torch.testing.assert_close(
            back(there(pixel(red, green, blue))), pixel(red, green, blue), atol=2e-4, rtol=0
        )


@settings(deadline=None, max_examples=60, derandomize=True)
@given(UNIT, UNIT, UNIT)
def test_hsv_is_that_of_the_standard_library(red: float, green: float, blue: float) -> None:
    """Also after the published shift, with hue wrapped and the rest clipped."""
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    moved = ((hue + 0.131) % 1, min(saturation + 0.109, 1), min(value + 0.121, 1))
    found = FixedColorBD().trigger(pixel(red, green, blue), rng()).flatten().tolist()
    assert found == pytest.approx(colorsys.hsv_to_rgb(*moved), abs=2e-4)


def test_reds_wrap_around() -> None:
    """A red on the edge of the hue circle goes on to the other side."""
    almost_red = colorsys.hsv_to_rgb(0.98, 1, 1)
    found = shifted(pixel(*almost_red), "hsv", torch.tensor([0.1, 0, 0]))
    assert found.flatten().tolist() == pytest.approx(colorsys.hsv_to_rgb(0.08, 1, 1), abs=1e-4)


@pytest.mark.parametrize(
    ("colour", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.74, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_the_primaries(colour: Any, lab: Any) -> None:
    """Published values of sRGB over D65."""
    assert (100 * rgb_to_lab(pixel(*colour))).flatten().tolist() == pytest.approx(lab, abs=0.05)


def test_a_shift_in_yuv_is_one_in_rgb() -> None:
    """Y'UV is linear: R' moves by dY + 1.13983 dV, and so on (BT.601)."""
    before = torch.full((1, 3, 2, 2), 0.5)
    found = shifted(before, "yuv", torch.tensor([0.05, 0.1, -0.04])) - before
    wanted = (0.05 - 1.13983 * 0.04, 0.05 - 0.39465 * 0.1 + 0.58060 * 0.04, 0.05 + 2.03211 * 0.1)
    for channel, move in enumerate(wanted):
        assert found[0, channel].flatten().tolist() == pytest.approx([move] * 4, abs=1e-4)


@pytest.mark.parametrize("space", SPACES)
def test_grey_images_stay_grey(space: Space) -> None:
    images = torch.rand(3, 1, 5, 4, generator=rng())
    found = shifted(images, space, torch.tensor([0.1, 0.1, 0.1]))
    assert found.shape == images.shape
    assert (found > images).float().mean() > 0.9


def literal_similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. 2004, uniform 7x7 windows, window by window."""
    found = []
    for channel in range(one.shape[0]):
        for y in range(one.shape[1] - 6):
            for x in range(one.shape[2] - 6):
                a, b = (p[channel, y : y + 7, x : x + 7].ravel() for p in (one, other))
                cov = np.cov(a, b)
                found.append(
                    (2 * a.mean() * b.mean() + 1e-4)
                    * (2 * cov[0, 1] + 9e-4)
                    / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4))
                )
    return float(np.mean(found))


def test_similarity_and_limits_equal_their_definitions() -> None:
    images = torch.stack(
        [torch.from_numpy(uniform_filter(x, 3)) for x in torch.rand(4, *SHAPE, generator=rng())]
    )
    other = (images + 0.1 * torch.randn(images.shape, generator=rng(1))).clamp(0, 1)
    pairs = list(zip(images.double().numpy(), other.double().numpy(), strict=True))
    ssim = [literal_similarity(a, b) for a, b in pairs]
    assert structural_similarity(images, other).tolist() == pytest.approx(ssim, abs=1e-4)
    assert structural_similarity(images, images).tolist() == pytest.approx([1] * 4)
    psnr = np.mean([-10 * math.log10(((a - b) ** 2).mean()) for a, b in pairs])
    found = unnaturalness(images, other, 2 * psnr, float(np.mean(ssim)) + 0.2)
    assert found == pytest.approx(0.5 + 0.2, abs=1e-4)
    assert unnaturalness(images, other, psnr - 0.1, float(np.mean(ssim)) - 0.01) == 0


def test_the_search_finds_the_least_cost_within_the_limits() -> None:
    """A known optimum: as far along (1, 1, 1) as a ball of radius 0.2 allows, in Lab."""
    best = torch.full((3,), 0.2 / math.sqrt(3))

    def cost(space: Space, shift: Tensor) -> float:
        assert shift.norm() <= 0.2
        return -shift.sum().item() + (0.3 if space != "lab" else 0.0)

    space, shift = search(cost, lambda _, s: max(0.0, s.norm().item() - 0.2), 60, seed=3)
    assert space == "lab"
    assert shift.norm() <= 0.2
    assert shift.sum() > 0.75 * best.sum()


def test_where_nothing_is_natural_it_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="lower least_psnr"):
        search(lambda space, shift: 0.0, lambda space, shift: 1.0, 3, seed=0)


def linear(rng: Generator) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        head = nn.Linear(math.prod(SHAPE), CLASSES)
    return Classifier(OrderedDict(all=nn.Identity()), nn.Flatten(), head, SHAPE[0]).eval()


def mounted(attack: ColorBD) -> ColorBD:
    labels = torch.arange(60) % CLASSES
    noise = torch.randint(100, 150, (60, *SHAPE), generator=rng(9))
    noise[torch.arange(60), labels] += 60
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=0.02, precision="float32")
    view: Any = SimpleNamespace(
        target=TARGET,
        shape=SHAPE,
        classes=CLASSES,
        auxiliary=ImageSet(noise.byte(), labels),
        trainer=Trainer(recipe, Augmentation()),
        new_model=linear,
    )
    attack.setup(view, rng())
    return attack


def test_what_was_found_is_natural_and_is_the_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: dict[tuple[Any, ...], float] = {}
    whole = ColorBD.difficulty

    def noted(self: ColorBD, *arguments: Any) -> float:
        cost = whole(self, *arguments)
        costs[arguments[-2], *arguments[-1].tolist()] = cost
        return cost

    monkeypatch.setattr(colorbd.ColorBD, "difficulty", noted)
    attack = mounted(ColorBD(trials=30, steps=5, least_psnr=20, least_ssim=0.3))
    space = list(SPACES)[int(attack.state["space"])]
    shift = attack.state["shift"]
    assert costs[space, *shift.tolist()] == min(costs.values())
    assert 1 < len(costs) < 90
    auxiliary = attack.view.auxiliary
    images = auxiliary.images[auxiliary.labels != TARGET]
    triggered = attack.trigger(images, rng())
    assert torch.equal(triggered, shifted(images, space, shift))
    assert unnaturalness(images, triggered, 20, 0.3) == 0
    _, labels = attack.poison(images, torch.zeros(len(images)).long(), rng())
    assert set(labels.tolist()) == {TARGET}


def test_without_other_classes_there_is_nothing_to_search_on() -> None:
    data = ImageSet(torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.tensor([TARGET, TARGET]))
    view: Any = SimpleNamespace(target=TARGET, auxiliary=data)
    with pytest.raises(ValueError, match="colorbd-fixed"):
        ColorBD().setup(view, rng())
