"""How many images go through a network at once, against sizes counted by hand."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from benchmark import memory
from benchmark.classifier import Classifier
from benchmark.inversion import FrozenClassifier
from benchmark.memory import activation_bytes, images_per_pass
from benchmark.models import VGG16, SmallResNet


def counted() -> Classifier:
    """Outputs of 5 * 6 * 4, half of that pooled, and 3 float32; ReLU and flattening make none."""
    first = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(inplace=True))
    stages = OrderedDict[str, nn.Module](first=first, second=nn.MaxPool2d((2, 1)))
    return Classifier(stages, nn.Flatten(), nn.Linear(60, 3), 2).eval()


def test_outputs_of_all_layers_are_counted_once() -> None:
    assert activation_bytes(counted(), (2, 6, 4)) == 4 * (120 + 60 + 3)


def test_sums_that_no_layer_of_its_own_makes_are_counted() -> None:
    """A small ResNet by hand: two convolutions, their batch norms and the sum of every block.

    The second ones also have a shortcut of a convolution and a batch norm.
    """
    values = 2 * 16 * 64  # the stem: a convolution and a batch norm
    values += 5 * 16 * 64
    values += 7 * 32 * 16
    values += 7 * 64 * 4
    values += 64 + 10
    assert activation_bytes(SmallResNet().build((1, 8, 8), 10).eval(), (1, 8, 8)) == 4 * values


@pytest.mark.parametrize(
    ("budget", "images"), [(731, 1), (732, 1), (7319, 9), (7320, 10), (10**9, 1000)]
)
def test_a_pass_holds_as_many_images_as_the_budget(
    monkeypatch: pytest.MonkeyPatch, budget: int, images: int
) -> None:
    """At least one, at most a thousand."""
    monkeypatch.setattr(memory, "BYTES_PER_PASS", budget)
    assert images_per_pass(counted(), (2, 6, 4)) == images


def test_small_networks_take_a_thousand_and_large_ones_what_two_gib_hold() -> None:
    small = SmallResNet().build((1, 28, 28), 10).eval()
    assert images_per_pass(small, (1, 28, 28)) == 1000
    assert images_per_pass(FrozenClassifier(small), (1, 28, 28)) == 1000
    large = VGG16().build((3, 224, 224), 10).eval()
    size = activation_bytes(large, (3, 224, 224))
    # Its convolutions alone make 13.5 million values, as many as their batch norms.
    assert size > 2 * 4 * 13.5e6
    images = images_per_pass(large, (3, 224, 224))
    assert images * size <= 2 * 1024**3 < (images + 1) * size


def test_measuring_leaves_the_model_as_it_is() -> None:
    model = SmallResNet().build((1, 8, 8), 10).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images_per_pass(model, (1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError):
        images_per_pass(model, (2, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())
