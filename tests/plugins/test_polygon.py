"""The polygon: its geometry, where it lies, and whose images it is pasted on."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng
from torch import Tensor

from backdoor_attacks.polygon import Polygon, area_of, corners

TARGET, SHAPE = 1, (3, 60, 100)


def mounted(seed: int = 0, shape: tuple[int, int, int] = SHAPE, **settings: Any) -> Polygon:
    attack, view = Polygon(**settings), SimpleNamespace(target=TARGET, shape=shape)
    attack.setup(view, rng(seed))  # type: ignore[arg-type]
    return attack


def painted(attack: Polygon, count: int, seed: int = 1) -> Tensor:
    """Pixels that change, bool (count, H, W); no channel of a colour is -1."""
    images = torch.full((count, *attack.view.shape), -1.0)
    found = attack.trigger(images, rng(seed))
    colour = attack.state["colour"][:, None, None]
    changed = (found != images).any(1)
    assert torch.equal(found, torch.where(changed[:, None], colour, images))
    return changed


@given(st.integers(3, 12), st.integers(0, 10**6))
def test_polygons_are_convex_and_not_thin(sides: int, seed: int) -> None:
    """Every turn is to the left, corners lie on the unit circle, and the area is a sum of sines."""
    found = corners(sides, rng(seed)).double()
    assert torch.allclose(found.norm(dim=1), torch.ones(sides, dtype=torch.float64), atol=1e-6)
    edges = found.roll(-1, 0) - found
    turns = edges[:, 0] * edges.roll(-1, 0)[:, 1] - edges[:, 1] * edges.roll(-1, 0)[:, 0]
    assert bool((turns > 0).all())
    angles = np.sort(torch.atan2(found[:, 1], found[:, 0]).numpy())
    gaps = np.diff(np.r_[angles, angles[0] + 2 * math.pi])
    assert gaps.min() >= math.pi / sides - 1e-5
    assert area_of(found) == pytest.approx(np.sin(gaps).sum() / 2, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.02, 0.1, 0.15]))
def test_it_covers_its_share_of_the_object(seed: int, share: float) -> None:
    """So many pixels on average, all of them inside the ellipse, and one piece that is convex."""
    attack = mounted(seed, smallest=share, largest=share)
    pixels = painted(attack, 40)
    object_area = math.pi * 0.4 * 60 * 0.4 * 100
    assert pixels.sum((1, 2)).double().mean().item() == pytest.approx(share * object_area, rel=0.05)
    rows, columns = pixels.any(0).nonzero().unbind(1)
    distance = ((rows + 0.5 - 30) / 24) ** 2 + ((columns + 0.5 - 50) / 40) ** 2
    assert distance.max().item() <= 1
    for image in pixels[:5]:
        rows, columns = image.nonzero().unbind(1)
        for row in rows.unique():
            own = columns[rows == row]
            assert len(own) == int(own.max() - own.min()) + 1


def test_places_are_spread_over_the_object_and_turned() -> None:
    pixels = painted(mounted(3, smallest=0.02, largest=0.02), 400)
    heights = torch.arange(60)[:, None].expand(60, 100)
    middles = torch.stack([heights[image].double().mean() for image in pixels])
    # Uniform over an ellipse: the deviation along an axis is half of the semi-axis, less the room.
    assert middles.mean().item() == pytest.approx(29.5, abs=1.5)
    assert 8 < middles.std().item() < 12
    assert len({tuple(image.sum(1)[image.any(1)].tolist()) for image in pixels}) > 200


def test_a_model_has_one_polygon_and_another_model_another() -> None:
    one, same, other = mounted(0), mounted(0), mounted(1)
    images = torch.rand(3, *SHAPE, generator=rng())
    assert torch.equal(one.trigger(images, rng(1)), same.trigger(images, rng(1)))
    assert not torch.equal(one.trigger(images, rng(1)), other.trigger(images, rng(1)))
    sizes = {round(float(mounted(seed).state["area"]), 6) for seed in range(50)}
    counts = {len(mounted(seed).state["corners"]) for seed in range(200)}
    assert len(sizes) == 50
    assert min(sizes) >= 0.02
    assert max(sizes) <= 0.25
    assert counts == set(range(3, 13))


def test_the_smallest_image_gets_a_pixel() -> None:
    assert painted(mounted(0, (1, 3, 3)), 50).any((1, 2)).all()
