"""Blend against the mix by hand."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from seeds import rng

from backdoor_attacks.blend import Blend

TARGET, SHAPE = 1, (3, 7, 5)


def mounted(seed: int = 0, **settings: Any) -> Blend:
    attack, view = Blend(**settings), SimpleNamespace(target=TARGET, shape=SHAPE)
    attack.setup(view, rng(seed))  # type: ignore[arg-type]
    return attack


@pytest.mark.parametrize("opacity", [0.0, 0.2, 1.0])
def test_every_pixel_is_a_mix_with_the_same_picture(opacity: float) -> None:
    """(1 - a) x + a T in training and at test; all poisoned images get the target."""
    attack = mounted(opacity=opacity)
    picture = attack.state["picture"][0].tolist()
    images = torch.rand(4, *SHAPE, generator=rng(1))
    found, labels = attack.poison(images, torch.tensor([0, 2, 3, 4]), rng(2))
    assert labels.tolist() == [TARGET] * 4
    assert torch.equal(found, attack.trigger(images, rng(3)))
    for n, c, h, w in product(range(4), *map(range, SHAPE)):
        wanted = (1 - opacity) * images[n, c, h, w].item() + opacity * picture[c][h][w]
        assert found[n, c, h, w].item() == pytest.approx(wanted, abs=1e-6)


def test_the_picture_is_uniform_noise_of_the_triggers_seed() -> None:
    pictures = torch.cat([mounted(seed).state["picture"] for seed in range(40)])
    assert 0 <= pictures.min() < 0.01
    assert 0.99 < pictures.max() <= 1
    # The mean of 4,200 uniform values, at five deviations.
    assert abs(pictures.mean().item() - 0.5) < 5 / (12 * pictures.numel()) ** 0.5
    assert len(pictures.flatten(1).unique(dim=0)) == 40
