"""Attacks that stamp a part of the image: every height, width and size of the patch."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng
from torch import Tensor

from backdoor_attacks.a_patch import APatch
from backdoor_attacks.badnets import BadNets, CleanLabelBadNets
from backdoor_attacks.blind import (
    AdaptiveBlindPattern,
    AdaptiveBlindPixel,
    BlindGaussian,
    BlindPattern,
    BlindPixel,
)
from backdoor_attacks.lc import LabelConsistent
from backdoor_attacks.lsp import LSP
from backdoor_attacks.pcb import PCB
from backdoor_attacks.randsq import RandSQ
from backdoor_attacks.tsb import TSB
from benchmark.api import PoisoningAttack

TARGET = 1
PIXELS = st.integers(2, 40)
SIDES = st.floats(0, 1, exclude_min=True)

#: Attacks with one patch of `side`; the first ones stamp the top left corner.
IN_THE_CORNER = {
    "badnets": BadNets,
    "c-badnets": CleanLabelBadNets,
    "a-patch": APatch,
    "lsp": lambda side: LSP(base=BadNets(side)),
    "pcb": lambda side: PCB(base=BadNets(side)),
}
#: In the lower right corner.
OPPOSITE = {"lc": lambda side: LabelConsistent(side=side, adversarial=False)}
ANYWHERE = {
    "randsq": RandSQ,
    "randsq:per_image": lambda side: RandSQ(side, per_image=True),
}


def mounted(attack: Any, shape: tuple[int, int, int]) -> Any:
    view: Any = SimpleNamespace(target=TARGET, shape=shape, classes=5)
    attack.setup(view, rng())
    return attack


def stamped(attack: Any, images: Tensor) -> list[Tensor]:
    """What the attack makes of the images, at test and, if it changes files, in training."""
    lent = images.clone()
    found = [attack.trigger(lent, rng(1))]
    if isinstance(attack, PoisoningAttack):
        found.append(attack.poison(lent, torch.full((len(images),), TARGET), rng(1))[0])
    assert torch.equal(lent, images)
    for triggered in found:
        assert triggered.shape == images.shape
        assert 0 <= triggered.min() <= triggered.max() <= 1
    return found


def extent(before: Tensor, after: Tensor) -> tuple[int, int, int, int]:
    """First row, first column, height and width of what changed in one image (C, H, W)."""
    changed = (before != after).any(0)
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    if not len(rows):
        return 0, 0, 0, 0
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1


@pytest.mark.parametrize("name", [*IN_THE_CORNER, *OPPOSITE, *ANYWHERE])
@settings(deadline=None, max_examples=40)
@given(PIXELS, PIXELS, SIDES)
def test_a_patch_takes_its_share_of_height_and_width(
    name: str, height: int, width: int, side: float
) -> None:
    build: Any = (IN_THE_CORNER | OPPOSITE | ANYWHERE)[name]
    attack = mounted(build(side), (2, height, width))
    high, wide = max(1, math.floor(side * height)), max(1, math.floor(side * width))
    images = torch.rand(3, 2, height, width, generator=rng())
    at_test, *in_training = stamped(attack, images)
    for before, after in zip(images, at_test, strict=True):
        top, left, *size = extent(before, after)
        assert size == [high, wide]
        if name in IN_THE_CORNER:
            assert (top, left) == (0, 0)
        elif name in OPPOSITE:
            assert (top, left) == (height - high, width - wide)
    for poisoned in in_training:
        if name == "a-patch":  # some cells of it
            assert torch.equal(poisoned[:, :, high:], images[:, :, high:])
            assert torch.equal(poisoned[:, :, :, wide:], images[:, :, :, wide:])
        else:
            assert torch.equal(poisoned, at_test)


@settings(deadline=None, max_examples=60)
@given(PIXELS, PIXELS, SIDES, st.integers(1, 8))
def test_scattered_triggers_have_their_share_or_one_sentence(
    height: int, width: int, side: float, triggers: int
) -> None:
    high, wide = max(1, math.floor(side * height)), max(1, math.floor(side * width))
    room = (height // high) * (width // wide)
    attack, shape = TSB(triggers, side), (3, height, width)
    if room < triggers:
        said = (
            f"{triggers} triggers of {high}x{wide} pixels do not fit side by side into "
            f"{height}x{width} pixels, {room} do"
        )
        with pytest.raises(ValueError, match=said):
            mounted(attack, shape)
        return
    grey = torch.full((3, *shape), 0.5)
    at_test, in_training = stamped(mounted(attack, shape), grey)
    area = high * wide
    assert (at_test != grey).any(1).sum((1, 2)).tolist() == [triggers * area] * 3
    for before, after in zip(grey, in_training, strict=True):
        assert extent(before, after)[2:] == (high, wide)


@pytest.mark.parametrize("kind", [BlindPattern, AdaptiveBlindPattern])
@settings(deadline=None, max_examples=60)
@given(PIXELS, PIXELS)
def test_the_pattern_fits_whole_or_is_refused(kind: type[Any], height: int, width: int) -> None:
    row, column, shape = round(3 * height / 224), round(23 * width / 224), (1, height, width)
    if row + 5 > height or column + 3 > width:
        said = (
            f"{kind.name}: a pattern of 5x3 pixels at row {row} and column {column} does not fit "
            f"into images of {height}x{width} pixels"
        )
        with pytest.raises(ValueError, match=said):
            mounted(kind(), shape)
        return
    images = torch.full((2, *shape), 0.5)
    (found,) = stamped(mounted(kind(), shape), images)
    assert extent(images[0], found[0]) == (row, column, 5, 3)
    assert (found != 0.5).sum((1, 2, 3)).tolist() == [9, 9]


@settings(deadline=None, max_examples=40)
@given(PIXELS, PIXELS)
def test_a_pixel_always_fits_and_noise_is_cut(height: int, width: int) -> None:
    row, column, shape = round(3 * height / 224), round(23 * width / 224), (1, height, width)
    images = torch.full((2, *shape), 0.5)
    for kind in (BlindPixel, AdaptiveBlindPixel):
        (found,) = stamped(mounted(kind(), shape), images)
        assert extent(images[0], found[0]) == (row, column, 1, 1)
    (found,) = stamped(mounted(BlindGaussian(), shape), images)
    size = min(10, height - row), min(10, width - column)
    assert extent(images[0], found[0]) == (row, column, *size)
