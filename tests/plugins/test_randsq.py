"""RandSQ: what is drawn, and what is painted."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from seeds import rng
from torch import Tensor

from backdoor_attacks.randsq import RandSQ

TARGET, SHAPE = 1, (3, 32, 32)


def mounted(seed: int = 0, **settings: Any) -> RandSQ:
    attack, view = RandSQ(**settings), SimpleNamespace(target=TARGET, shape=SHAPE)
    attack.setup(view, rng(seed))  # type: ignore[arg-type]
    return attack


def square(before: Tensor, after: Tensor) -> tuple[int, int, list[float]]:
    """Row, column and colour of the one 3x3 square that changed."""
    rows, columns = (before != after).any(0).nonzero().unbind(1)
    row, column = int(rows.min()), int(columns.min())
    expected = before.clone()
    colour = after[:, row, column]
    for y in range(3):
        for x in range(3):
            expected[:, row + y, column + x] = colour
    assert torch.equal(after, expected)
    return row, column, colour.tolist()


def test_one_model_has_one_square_of_nine_pixels() -> None:
    """9 of 1,024 pixels of one colour (METHODS 2.6); another model has another."""
    images = torch.rand(5, *SHAPE, generator=rng())
    attack = mounted()
    found, labels = attack.poison(images, torch.tensor([0, 2, 3, 4, 0]), rng(1))
    assert labels.tolist() == [TARGET] * 5
    assert len({str(square(*pair)) for pair in zip(images, found, strict=True)}) == 1
    assert torch.equal(found, attack.trigger(images, rng(2)))
    assert not torch.equal(found, mounted(1).trigger(images, rng(1)))


@pytest.mark.parametrize("per_image", [False, True])
def test_places_and_colours_are_uniform(per_image: bool) -> None:
    """30 rows and columns, colours from 0 to 1, at five standard deviations."""
    grey, count = torch.full((600, *SHAPE), 0.5), 600
    if per_image:
        found = mounted(per_image=True).trigger(grey, rng(3))
    else:
        found = torch.cat([mounted(seed).trigger(grey[:1], rng()) for seed in range(count)])
    rows, columns, colours = zip(
        *(square(*pair) for pair in zip(grey, found, strict=True)), strict=True
    )
    for places in (rows, columns):
        assert (min(places), max(places)) == (0, 29)
        assert abs(sum(places) / count - 14.5) < 5 * math.sqrt((30**2 - 1) / 12 / count)
    levels = torch.tensor(colours)
    assert levels.min() >= 0
    assert levels.max() <= 1
    assert ((levels.mean(0) - 0.5).abs() < 5 / math.sqrt(12 * count)).all()
    assert abs(torch.corrcoef(levels.T)[0, 1]) < 5 / math.sqrt(count)


def test_squares_of_images_depend_on_the_generator_alone() -> None:
    attack, images = mounted(per_image=True), torch.rand(6, *SHAPE, generator=rng())
    assert attack.state == {}
    assert torch.equal(attack.trigger(images, rng(1)), attack.trigger(images, rng(1)))
    assert not torch.equal(attack.trigger(images, rng(1)), attack.trigger(images, rng(2)))
