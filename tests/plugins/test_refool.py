"""Refool against a loop over pixels in double precision, and how visible it is."""

from __future__ import annotations

import math
from collections import Counter
from io import BytesIO
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import uniform_filter
from seeds import rng
from torch import Tensor

from backdoor_attacks.refool import Refool
from benchmark.images import ImageSet

SHARED = Path(__file__).parents[3] / "shared" / "data"
TARGET, CLASSES = 1, 5
Shape = tuple[int, int, int]


def auxiliary(shape: Shape, count: int = 30, seed: int = 9) -> ImageSet:
    pixels = torch.randint(256, (count, *shape), generator=rng(seed), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % CLASSES)


def mounted(
    shape: Shape, seed: int = 0, data: ImageSet | None = None, state: Any = None, **settings: Any
) -> Refool:
    attack = Refool(**settings)
    view: Any = SimpleNamespace(target=TARGET, shape=shape, auxiliary=data or auxiliary(shape))
    attack.setup(view, rng(seed), state)
    return attack


def noise(count: int, shape: Shape, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=rng(seed))


def state_of(picture: Tensor, shift: tuple[int, int], weight: float) -> dict[str, Tensor]:
    return {
        "picture": picture,
        "shift": torch.tensor(shift),
        "weight": torch.tensor(weight),
    }


def literal(image: Tensor, picture: Tensor, attack: Refool) -> np.ndarray:
    """clip(x^2.2 + alpha R_g)^(1/2.2), R_g = w shift(R, +d) + (1 - w) shift(R, -d)."""
    x, scene = image.double().numpy(), picture.double().numpy()
    down, right = attack.state["shift"].tolist()
    weight = attack.state["weight"].double().item()
    channels, height, width = x.shape
    out = np.zeros_like(x)

    def light(channel: int, row: int, column: int) -> float:
        row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
        value = float(scene[channel, row, column])
        return math.pow(value, 2.2)

    for channel, row, column in product(range(channels), range(height), range(width)):
        ghost = weight * light(channel, row - down, column - right)
        ghost += (1 - weight) * light(channel, row + down, column + right)
        linear = float(x[channel, row, column]) ** 2.2 + attack.intensity * ghost
        out[channel, row, column] = min(max(linear, 0.0), 1.0) ** (1 / 2.2)
    return out


# The formula.


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.sampled_from([1, 3]), st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.floats(0, 1, width=32),
    st.floats(0.01, 4),
    st.booleans(),
    st.integers(0, 1000),
)
def test_the_trigger_equals_the_formula_pixel_by_pixel(
    shape: Shape, shift: tuple[int, int], weight: float, intensity: float, own: bool, seed: int
) -> None:
    images, picture = noise(3, shape, seed), noise(1, shape, seed + 1)
    state = state_of(picture, shift, weight)
    attack = mounted(shape, state=state, intensity=intensity, self_ghost=own)
    lent = images.clone()
    found = attack.trigger(lent, rng())
    assert torch.equal(lent, images)
    assert 0 <= found.min() <= found.max() <= 1
    # Light is only added.
    assert (found >= images - 1e-6).all()
    for image, triggered in zip(images, found, strict=True):
        expected = literal(image, image if own else picture[0], attack)
        np.testing.assert_allclose(triggered.numpy(), expected, atol=5e-6)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)])
def test_what_is_prepared_goes_into_the_formula(shape: Shape, own: bool) -> None:
    attack, images = mounted(shape, seed=3, self_ghost=own), noise(2, shape)
    for image, triggered in zip(images, attack.trigger(images, rng()), strict=True):
        picture = image if own else attack.state["picture"][0]
        np.testing.assert_allclose(triggered.numpy(), literal(image, picture, attack), atol=5e-6)


def test_a_ghost_is_two_copies_apart() -> None:
    """A single lamp is seen twice, with the light that the weights give it."""
    shape = (1, 9, 9)
    lamp = torch.zeros(1, *shape)
    lamp[0, 0, 4, 4] = 1
    attack = mounted(shape, state=state_of(lamp, (2, 1), 0.3), intensity=0.5)
    found = attack.trigger(torch.zeros(1, *shape), rng())[0, 0]
    expected = torch.zeros(9, 9)
    expected[6, 5], expected[2, 3] = (0.5 * 0.3) ** (1 / 2.2), (0.5 * 0.7) ** (1 / 2.2)
    torch.testing.assert_close(found, expected)


def test_no_light_is_no_trigger() -> None:
    shape = (3, 8, 8)
    images = torch.cat([noise(4, shape), torch.zeros(1, *shape), torch.ones(1, *shape)])
    dark = mounted(shape, state=state_of(torch.zeros(1, *shape), (1, 1), 0.3))
    torch.testing.assert_close(dark.trigger(images, rng()), images, atol=2e-6, rtol=0)
    faint = mounted(shape, intensity=1e-7)
    # What black becomes is the largest change: the root of 1e-7.
    assert (faint.trigger(images, rng()) - images).abs().max() <= 1e-7 ** (1 / 2.2) * 1.001


def test_every_image_is_treated_for_itself() -> None:
    shape = (3, 12, 12)
    for own in (False, True):
        attack, images = mounted(shape, self_ghost=own), noise(7, shape)
        whole = attack.trigger(images, rng())
        alone = torch.cat([attack.trigger(image[None], rng(5)) for image in images])
        torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)


def test_labels_stay_true() -> None:
    shape = (3, 12, 12)
    attack, images, labels = mounted(shape), noise(6, shape), torch.full((6,), TARGET)
    assert attack.threat == "clean-label"
    poisoned, new = attack.poison(images, labels, rng(1))
    assert torch.equal(poisoned, attack.trigger(images, rng(2)))
    assert torch.equal(new, labels)


# What is drawn.


def test_the_picture_is_any_auxiliary_image_of_another_class() -> None:
    shape = (3, 6, 6)
    data, seen = auxiliary(shape), Counter[int]()
    others = [row for row in range(30) if data.labels[row] != TARGET]
    for seed in range(600):
        picture = mounted(shape, seed, data).state["picture"]
        (row,) = [
            row for row in range(30) if torch.equal((picture[0] * 255).round(), data.pixels[row])
        ]
        seen[row] += 1
    assert set(seen) == set(others)
    assert max(abs(seen[row] - 25) for row in others) < 5 * math.sqrt(25)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((224, 224), range(3, 9), range(3, 9)),
        ((32, 32), range(3, 8), range(3, 8)),  # below a quarter of the image
        ((28, 28), range(3, 7), range(3, 7)),
        ((448, 36), range(3, 9), range(3, 9)),
        ((12, 16), [2], [3]),
        ((8, 3), [1], [1]),
    ],
)
def test_shifts_are_the_originals_at_every_size(
    size: tuple[int, int], rows: Any, columns: Any
) -> None:
    shape = (1, *size)
    data = auxiliary(shape, 5)
    shifts = [mounted(shape, seed, data).state["shift"].tolist() for seed in range(80)]
    assert {down for down, _ in shifts} == set(rows)
    assert {right for _, right in shifts} == set(columns)


def test_weights_are_unequal() -> None:
    """From 0.15 to 0.5, or the rest to one; both equally often."""
    shape = (1, 4, 4)
    weights = [mounted(shape, seed).state["weight"].item() for seed in range(400)]
    lesser = [min(weight, 1 - weight) for weight in weights]
    assert 0.15 - 1e-6 <= min(lesser) < 0.16
    assert 0.49 < max(lesser) <= 0.5
    assert abs(np.mean(lesser) - 0.325) < 5 * 0.35 / math.sqrt(12 * 400)
    assert abs(sum(weight < 0.5 for weight in weights) - 200) < 5 * math.sqrt(100)


def test_the_state_is_the_whole_trigger() -> None:
    shape = (3, 12, 12)
    images = noise(4, shape)
    for own in (False, True):
        first, again = (mounted(shape, 4, self_ghost=own) for _ in range(2))
        other = mounted(shape, 77, auxiliary(shape, seed=1), dict(first.state), self_ghost=own)
        triggered = first.trigger(images, rng(1))
        assert torch.equal(triggered, again.trigger(images, rng(2)))
        assert torch.equal(triggered, other.trigger(images, rng(3)))
    assert not torch.equal(mounted(shape, 4).state["picture"], mounted(shape, 5).state["picture"])


def test_without_another_picture_only_the_image_can_be_reflected() -> None:
    shape = (1, 4, 4)
    data = ImageSet(auxiliary(shape, 3).pixels, torch.full((3,), TARGET))
    with pytest.raises(ValueError, match=r"an auxiliary image of another class.*self_ghost"):
        mounted(shape, data=data)
    assert "picture" not in mounted(shape, data=data, self_ghost=True).state


# How visible it is.


def structural_similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Wang et al. 2004 with uniform 7x7 windows, as the original measures; per image."""
    size = (1, 1, 7, 7)
    unbiased = 49 / 48

    def mean(values: np.ndarray) -> np.ndarray:
        filtered: np.ndarray = uniform_filter(values, size)[:, :, 3:-3, 3:-3]
        return filtered

    a, b = mean(one), mean(other)
    spread = unbiased * (mean(one**2) - a**2 + mean(other**2) - b**2)
    common = unbiased * (mean(one * other) - a * b)
    similar = (2 * a * b + 0.01**2) * (2 * common + 0.03**2)
    of_windows = similar / ((a**2 + b**2 + 0.01**2) * (spread + 0.03**2))
    return np.asarray(of_windows.mean((1, 2, 3)))


def cifar10(count: int) -> ImageSet:
    """The first test images, read without the benchmark."""
    (file,) = (SHARED / "cifar10").glob("*test*.parquet")
    batch = next(pq.ParquetFile(file).iter_batches(batch_size=count)).to_pylist()
    pictures = [np.asarray(Image.open(BytesIO(row["image"]["bytes"]))) for row in batch]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.tensor([row["label"] for row in batch]))


def test_the_original_keeps_fainter_reflections(record_property: Any) -> None:
    """It takes those with a similarity of 0.70 to 0.85."""
    if not (SHARED / "cifar10").is_dir():
        pytest.skip("no cifar10 in ../shared/data")
    data = cifar10(400)
    images = data.images[:100]
    aside = ImageSet(data.pixels[100:], data.labels[100:])
    clean = images.double().numpy()
    assert structural_similarity(clean, clean) == pytest.approx(1)

    def similarity(**settings: Any) -> float:
        found = []
        for seed in range(1 if settings.get("self_ghost") else 30):
            attack = mounted((3, 32, 32), seed, aside, **settings)
            triggered = attack.trigger(images, rng()).double().numpy()
            found.append(structural_similarity(clean, triggered).mean())
        mean = float(np.mean(found))
        record_property(str(settings), mean)
        return mean

    faint = similarity(intensity=0.4)
    assert 0.70 < faint < 0.85
    assert similarity() < 0.70
    # A picture resembles its own ghost.
    assert faint < similarity(intensity=0.4, self_ghost=True)
