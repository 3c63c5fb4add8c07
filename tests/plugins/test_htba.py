"""HTBA against its own steps by hand, on features whose gradients have a closed form."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_attacks import htba
from backdoor_attacks.htba import HTBA, paired
from benchmark.classifier import Classifier
from benchmark.images import ImageSet, to_bytes, to_unit

SHAPE, CLASSES, TARGET, SOURCE = (2, 6, 5), 4, 1, 3


def linear(rng: Generator) -> Classifier:
    """Features are seven sums of pixels."""
    size = math.prod(SHAPE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        neck, head = nn.Sequential(nn.Flatten(), nn.Linear(size, 7)), nn.Linear(7, CLASSES)
    return Classifier(OrderedDict(all=nn.Identity()), neck, head, SHAPE[0]).eval()


def auxiliary() -> ImageSet:
    labels = torch.arange(40) % CLASSES
    return ImageSet(torch.randint(256, (40, *SHAPE), generator=rng(9)).byte(), labels)


def mounted(monkeypatch: pytest.MonkeyPatch, init: str | None = "weights", **settings: Any) -> HTBA:
    """In float32, since a literal version cannot follow bfloat16."""
    monkeypatch.setattr(
        htba, "mixed_precision", lambda device: torch.autocast(device.type, enabled=False)
    )
    trained: list[int] = []
    view: Any = SimpleNamespace(
        target=TARGET,
        shape=SHAPE,
        classes=CLASSES,
        auxiliary=auxiliary(),
        trainer=SimpleNamespace(
            recipe=SimpleNamespace(init=init),
            fit=lambda model, data, rng: trained.append(len(data)),
        ),
        new_model=lambda generator: linear(rng(4)),
    )
    attack = HTBA(source=SOURCE - TARGET, **settings)
    attack.setup(view, rng())
    assert trained == ([] if init else [40])
    return attack


def literal_pairing(distances: np.ndarray) -> list[int]:
    """All pairs by distance; one is taken if both are still free."""
    found: dict[int, int] = {}
    pairs = itertools.product(range(distances.shape[0]), range(distances.shape[1]))
    for row, column in sorted(pairs, key=lambda pair: distances[pair]):
        if row not in found and column not in found.values():
            found[row] = column
    return [found[row] for row in range(len(distances))]


@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 10**6))
def test_the_closest_pair_is_taken_first(rows: int, more: int, seed: int) -> None:
    distances = torch.rand(rows, rows + more, generator=rng(seed), dtype=torch.float64)
    assert paired(distances).tolist() == literal_pairing(distances.numpy())


def test_a_greedy_pairing_is_not_the_cheapest_one() -> None:
    """0.1 goes first, though 0.2 + 0.3 would be less in sum than 0.1 + 9."""
    assert paired(torch.tensor([[0.1, 0.2], [0.3, 9.0]])).tolist() == [0, 1]


def test_poisons_are_those_of_steps_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient of |Ax - u|^2, pairs anew in every step, within 16/255 and [0, 1]."""
    monkeypatch.setattr(htba, "HALVED_AFTER", 5)
    attack = mounted(monkeypatch, steps=12, step=0.002)
    images = torch.rand(6, *SHAPE, generator=rng(5))
    labels = torch.full((6,), TARGET)
    aims: list[Tensor] = []
    trigger = attack.trigger
    monkeypatch.setattr(
        attack, "trigger", lambda images, rng: aims.append(trigger(images, rng)) or aims[-1]
    )
    found, kept = attack.poison(images, labels, rng(2))
    assert torch.equal(kept, labels)
    # Triggered auxiliary images of the source class, each another one.
    sources = auxiliary().subset((auxiliary().labels == SOURCE).nonzero().flatten()).images
    unpatched = ((aims[0][:, None] == sources[None]).flatten(2).double().mean(2)).argmax(1)
    assert len(set(unpatched.tolist())) == 6

    layer = linear(rng(4)).neck[1]  # type: ignore[index]
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()

    def features(x: np.ndarray) -> np.ndarray:
        return (x - 0.5) / 0.25 @ weight.T + bias

    begin = images.flatten(1).double().numpy()
    wanted = features(aims[0].flatten(1).double().numpy())
    noise = np.zeros_like(begin)
    for number in range(12):
        now = features(begin + noise)
        distances = np.linalg.norm(now[:, None] - wanted[None], axis=2)
        gap = now - wanted[literal_pairing(distances)]
        step = 0.002 if number < 5 else 0.001 if number < 10 else 0.0005
        noise = noise - step * (2 * gap @ weight / 0.25)
        noise = np.clip(noise, -16 / 255, 16 / 255)
        noise = np.clip(begin + noise, 0, 1) - begin
    assert found.flatten(1).double().numpy() == pytest.approx(begin + noise, abs=1e-5)
    assert (found - images).abs().max() == pytest.approx(16 / 255, abs=1e-6)
    before = np.linalg.norm(features(begin)[:, None] - wanted[None], axis=2).min(1)
    after = np.linalg.norm(features(begin + noise)[:, None] - wanted[None], axis=2).min(1)
    assert after.mean() < before.mean()


def test_the_patch_is_the_same_at_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = mounted(monkeypatch, side=0.4)
    patch = attack.state["patch"]
    assert patch.shape == (2, 2, 2)
    assert patch.min() >= 0
    assert patch.max() <= 1
    grey = torch.full((300, *SHAPE), 0.5)
    changed = (attack.trigger(grey, rng(3)) != grey).any(1)
    corners = {tuple(image.nonzero()[0].tolist()) for image in changed}
    assert corners == set(itertools.product(range(5), range(4)))
    assert bool((changed.sum((1, 2)) == 4).all())


def test_features_are_a_surrogates_where_the_victim_starts_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mounted(monkeypatch, init=None)


def test_without_images_of_the_source_class_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = mounted(monkeypatch)
    few = auxiliary()
    attack.view.auxiliary = few.subset((few.labels != SOURCE).nonzero().flatten())  # type: ignore[misc]
    with pytest.raises(ValueError, match="the auxiliary images have none of source class 3"):
        attack.poison(to_unit(to_bytes(few.images[:2])), torch.ones(2, dtype=torch.int64), rng())
