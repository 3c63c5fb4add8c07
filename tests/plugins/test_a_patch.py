"""Adaptive Patch, cell by cell."""

from __future__ import annotations

import math
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng
from torch import Tensor

from backdoor_attacks.a_patch import APatch
from backdoor_attacks.badnets import BadNets

TARGET = 1
Shape = tuple[int, int, int]


def mounted(shape: Shape, **settings: Any) -> APatch:
    view: Any = SimpleNamespace(target=TARGET, shape=shape, classes=5)
    attack = APatch(**settings)
    attack.setup(view, rng())
    return attack


def noise(count: int, shape: Shape, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=rng(seed))


def stays(
    before: Tensor, after: Tensor, stamped: Tensor, size: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Which cells are there, bool (count, *grid); fails where one is there by half.

    Pixel p of a side of the patch belongs to cell floor(p * cells / side).
    """
    found = np.zeros((len(before), *grid), dtype=bool)
    row_of, column_of = (
        [pixel * cells // side for pixel in range(side)]
        for side, cells in zip(size, grid, strict=True)
    )
    for image, y, x in product(range(len(before)), range(grid[0]), range(grid[1])):
        pixels = [
            (r, c)
            for r, c in product(range(size[0]), range(size[1]))
            if (row_of[r], column_of[c]) == (y, x)
        ]
        assert pixels
        there = [torch.equal(after[image, :, r, c], stamped[image, :, r, c]) for r, c in pixels]
        bare = [torch.equal(after[image, :, r, c], before[image, :, r, c]) for r, c in pixels]
        assert all(there) != all(bare)
        found[image, y, x] = all(there)
    return found


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        *(((3, 32, 32), {}), ((1, 28, 28), {}), ((3, 20, 43), {})),
        *(((1, 30, 30), {"side": 0.3}), ((1, 8, 36), {"side": 0.3})),
    ],
)
def test_the_whole_trigger_is_that_of_badnets(shape: Shape, settings: dict[str, float]) -> None:
    images = noise(5, shape)
    found = mounted(shape, **settings).trigger(images, rng(1))
    assert torch.equal(found, BadNets(**settings).trigger(images, rng(2)))


@pytest.mark.parametrize(
    ("shape", "share", "asked", "size", "grid"),
    [
        ((3, 32, 32), 3 / 32, 4, (3, 3), (3, 3)),  # fewer pixels than cells (C6)
        ((1, 16, 16), 3 / 32, 4, (1, 1), (1, 1)),
        ((3, 64, 64), 3 / 32, 4, (6, 6), (4, 4)),
        ((3, 85, 85), 3 / 32, 4, (7, 7), (4, 4)),
        ((1, 40, 32), 0.25, 3, (10, 8), (3, 3)),
        ((1, 32, 32), 0.25, 2, (8, 8), (2, 2)),
        ((1, 8, 36), 0.3, 4, (2, 10), (2, 4)),
    ],
)
def test_each_cell_is_there_or_not_like_a_coin(
    shape: Shape, share: float, asked: int, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    attack, images = mounted(shape, side=share, cells=asked), noise(300, shape)
    lent = images.clone()
    found, _ = attack.poison(lent, torch.zeros(300).long(), rng(1))
    assert torch.equal(lent, images)
    assert torch.equal(found[:, :, size[0] :], images[:, :, size[0] :])
    assert torch.equal(found[:, :, :, size[1] :], images[:, :, :, size[1] :])
    kept = stays(images, found, attack.trigger(images, rng()), size, grid).reshape(300, -1)
    # Five deviations: every cell alone, and every pair of cells alike or not.
    assert (abs(kept.mean(0) - 0.5) < 5 * math.sqrt(0.25 / 300)).all()
    for one, other in product(range(grid[0] * grid[1]), repeat=2):
        if one < other:
            alike = (kept[:, one] == kept[:, other]).mean()
            assert abs(alike - 0.5) < 5 * math.sqrt(0.25 / 300)


def test_a_patch_has_no_more_cells_than_pixels() -> None:
    """A patch of 3 pixels has 3 x 3 cells, not 4 x 4 of which some are never seen (C6)."""
    shape = (3, 32, 32)
    images, labels = noise(50, shape), torch.zeros(50).long()
    four, three, two = (
        mounted(shape, cells=cells).poison(images, labels, rng(1))[0] for cells in (4, 3, 2)
    )
    assert torch.equal(four, three)
    assert not torch.equal(three, two)


@pytest.mark.parametrize("occlusion", [0.0, 0.2, 0.8, 1.0])
def test_cells_are_dropped_as_often_as_asked(occlusion: float) -> None:
    shape = (1, 64, 64)
    attack, images = mounted(shape, occlusion=occlusion), noise(200, shape)
    found, _ = attack.poison(images, torch.zeros(200).long(), rng(1))
    kept = stays(images, found, attack.trigger(images, rng()), (6, 6), (4, 4))
    slack = 5 * math.sqrt(occlusion * (1 - occlusion) / kept.size)
    assert abs(kept.mean() - (1 - occlusion)) <= slack


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 2, 3, 4]), min_size=1, max_size=60), st.floats(0, 1))
def test_payload_and_regularisation(labels: list[int], conservatism: float) -> None:
    """m counts both; the first are relabelled, the others are triggered with true labels."""
    shape, count = (1, 12, 12), len(labels)
    attack = mounted(shape, conservatism=conservatism, occlusion=0.0)
    lent = torch.tensor(labels)
    found, new = attack.poison(noise(count, shape), lent, rng(1))
    assert lent.tolist() == labels
    true = math.floor(conservatism * count)
    assert new.dtype == torch.int64
    assert new.tolist() == [TARGET] * (count - true) + labels[count - true :]
    assert torch.equal(found, attack.trigger(noise(count, shape), rng()))


def test_half_of_fifty_images_are_payload() -> None:
    """Pick your Poison, Tab. II: m = 50 (C24: half of them are relabelled)."""
    shape = (3, 32, 32)
    _, new = mounted(shape).poison(noise(50, shape), torch.full((50,), 3), rng(1))
    assert new.bincount(minlength=5).tolist() == [0, 25, 0, 25, 0]


def test_cells_depend_on_the_generator_and_nothing_else() -> None:
    shape = (3, 32, 32)
    attack, images, labels = mounted(shape), noise(40, shape), torch.zeros(40).long()
    first, again, other = (attack.poison(images, labels, rng(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert attack.state == {}
