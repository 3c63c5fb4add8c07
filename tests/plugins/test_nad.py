"""Neural Attention Distillation against literal versions of its map, its loss and its steps."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_defenses.fine_tuning import FineTuning
from backdoor_defenses.nad import NAD, Stages, attention, distilled
from benchmark.api import Defense
from benchmark.classifier import Classifier
from benchmark.images import TrustedData
from benchmark.models import SmallResNet
from benchmark.registry import Registry
from benchmark.specs import RegistryError


@dataclass
class Plain(FineTuning):
    """What all repairs have in common, and nothing else."""

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        return self.fine_tune(model, trusted, rng)


def run(repair: FineTuning, model: Classifier, data: TrustedData, own: Generator) -> int:
    return sum(1 for _ in repair.repair(model, data, own))


def trusted(count: int = 24, side: int = 8, classes: int = 3) -> TrustedData:
    """Noise that is brighter in a row of the class."""
    pixels = torch.randint(100, (count, 1, side, side), generator=rng(), dtype=torch.uint8)
    labels = torch.arange(count) % classes
    pixels[torch.arange(count), 0, labels] += 120
    return TrustedData(pixels, labels, pad=1, flip=True)


def resnet() -> Classifier:
    torch.manual_seed(0)
    return SmallResNet(width=16).build((1, 8, 8), 3)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(value, found) for value, found in pairs)


# The attention map.


def literal_attention(maps: Any, p: float) -> Any:
    """METHODS 3.4 for one image, (C, H, W), pixel by pixel."""
    channels, height, width = maps.shape
    sums = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            for channel in range(channels):
                sums[row, column] += abs(maps[channel, row, column]) ** p
    return (sums / np.sqrt((sums**2).sum())).flatten()


shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
powers = st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0])


def activations(shape: tuple[int, ...], seed: int) -> Tensor:
    return 0.2 + torch.randn(shape, generator=rng(seed)).abs()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(shapes, powers, st.booleans(), st.integers(0, 2**31))
def test_attention_equals_its_definition(
    shape: tuple[int, ...], p: float, rounded: bool, seed: int
) -> None:
    """In float32, also of a network's bfloat16, and of negative activations."""
    maps = activations(shape, seed) * torch.randn(shape, generator=rng(seed)).sign()
    maps = maps.to(torch.bfloat16) if rounded else maps
    found = attention(maps, p)
    assert found.dtype == torch.float32
    for one, image in zip(found, maps.double().numpy(), strict=True):
        np.testing.assert_allclose(one.numpy(), literal_attention(image, p), rtol=2e-5, atol=1e-7)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(shapes, powers, st.floats(0.05, 1000), st.integers(0, 2**31))
def test_attention_has_length_one_and_forgets_the_scale(
    shape: tuple[int, ...], p: float, scale: float, seed: int
) -> None:
    """Of every image by itself."""
    maps = activations(shape, seed)
    found = attention(maps, p)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(shape[0]))
    scales = torch.full((shape[0], 1, 1, 1), scale)
    scales[0] = 1.0
    torch.testing.assert_close(attention(scales * maps, p), found, rtol=1e-4, atol=1e-6)


def test_a_higher_power_looks_at_the_peak() -> None:
    maps = torch.tensor([[[[1.0, 1.0], [1.0, 2.0]]]])
    peaks = [attention(maps, p)[0, 3].item() for p in (1.0, 2.0, 4.0)]
    assert peaks == pytest.approx([2 / 7**0.5, 4 / 19**0.5, 16 / 259**0.5])


def test_no_power_that_is_allowed_overflows(registry: Registry) -> None:
    maps = 1000 * torch.rand(2, 512, 4, 4, generator=rng())
    torch.testing.assert_close(attention(maps, 4).norm(dim=1), torch.ones(2))
    with pytest.raises(RegistryError, match=r"p=4\.1 is not allowed"):
        registry.create(Defense, "nad:p=4.1")


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_the_gradient_is_that_of_finite_differences(p: float) -> None:
    maps, wanted = activations((1, 3, 2, 3), 1), activations((1, 3, 2, 3), 2)

    def error(values: Any) -> float:
        return float(((literal_attention(values, p) - literal_attention(target, p)) ** 2).mean())

    target = wanted[0].double().numpy()
    maps.requires_grad_(True)
    nn.functional.mse_loss(attention(maps, p), attention(wanted, p)).backward()
    assert maps.grad is not None
    values, found = maps[0].detach().double().numpy(), maps.grad[0].numpy()
    for place in np.ndindex(values.shape):
        step = np.zeros_like(values)
        step[place] = 1e-5
        slope = (error(values + step) - error(values - step)) / 2e-5
        assert found[place] == pytest.approx(slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_a_silent_stage_has_neither_attention_nor_a_broken_gradient(p: float) -> None:
    maps = torch.zeros(2, 3, 2, 2, requires_grad=True)
    found = attention(maps, p)
    assert not found.any()
    found.square().sum().backward()
    assert maps.grad is not None
    assert not maps.grad.any()


# Which stages.


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([32, 32, 16, 8, 4], [16, 8, 4]),  # the stem and four groups of a ResNet-18
        ([16, 16, 8, 4], [16, 8, 4]),  # the stem and the three groups of a small one
        ([16, 8, 4, 2, 1], [8, 4, 2]),  # VGG-16 on images of 32x32 ends in one pixel
        ([6], [6]),
        ([1], []),
    ],
)
def test_the_last_three_stages_with_a_map_are_distilled(
    sides: list[int], expected: list[int]
) -> None:
    maps = [torch.zeros(2, 5, side, side) for side in sides]
    assert [stage.shape[3] for stage in distilled(maps)] == expected
    assert [stage.shape[3] for stage in distilled(maps, "all")] == [s for s in sides if s > 1]


# The repair, step by step.


def stacked(norms: bool = True) -> Classifier:
    """Four stages with maps of their own sizes."""
    torch.manual_seed(0)
    stages = OrderedDict[str, nn.Module]()
    for number, (inputs, outputs, stride) in enumerate(
        [(1, 4, 1), (4, 4, 2), (4, 5, 1), (5, 6, 2)]
    ):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
        norm = nn.BatchNorm2d(outputs) if norms else nn.Identity()
        stages[f"stage{number}"] = nn.Sequential(conv, norm, nn.Softplus())
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(stages, neck, nn.Linear(6, 3), 1)


def slow_attention(maps: Tensor, p: float) -> Tensor:
    images = []
    for image in maps:
        sums = torch.stack([abs(channel) ** p for channel in image]).sum(0)
        images.append(sums / (sums * sums).sum().sqrt())
    return torch.stack(images)


def maps_of(model: Classifier, images: Tensor) -> list[Tensor]:
    found, hidden = [], (images - model.mean) / model.std
    for stage in model.stages:
        found.append(hidden := stage(hidden))
    return found


def literal_steps(
    model: Classifier,
    data: TrustedData,
    steps: int,
    weight: float,
    p: float,
    teacher: Any = None,
    first: int = 1,
) -> None:
    """SGD with momentum 0.9 at 0.05 on all images at once, in training mode."""
    model.train()
    speed = [torch.zeros_like(value) for value in model.parameters()]
    for _ in range(steps):
        own = maps_of(model, data.images)
        logits = model.head(model.neck(own[-1]))
        loss = -logits.log_softmax(1)[range(len(data)), data.labels].mean()
        if teacher is not None:
            wanted = [stage.detach() for stage in maps_of(teacher, data.images)]
            for one, other in list(zip(own, wanted, strict=True))[first:]:
                gap = slow_attention(one, p) - slow_attention(other, p)
                loss = loss + weight * (gap**2).sum() / gap.numel()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for value, v, g in zip(model.parameters(), speed, gradients, strict=True):
                v.mul_(0.9).add_(g)
                value.sub_(0.05 * v)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("weight", "p", "stages"),
    [(30.0, 2.0, "last"), (30.0, 3.0, "last"), (300.0, 2.0, "last"), (300.0, 2.0, "all")],
)
def test_the_repair_equals_the_algorithm(weight: float, p: float, stages: Stages) -> None:
    """A teacher from plain steps, frozen; then CE + weight * sum of mean squared gaps."""
    model, data = stacked(), TrustedData(trusted().pixels, trusted().labels)
    student, teacher = copy.deepcopy(model), copy.deepcopy(model)
    repair = NAD(steps=4, learning_rate=0.05, teacher_steps=7, p=p, lambda_at=weight, stages=stages)
    assert run(repair, model, data, rng()) == 4

    literal_steps(teacher, data, 7, 0.0, p)
    first = 0 if stages == "all" else 1
    literal_steps(student, data, 4, weight, p, teacher.eval(), first)
    for name, value in student.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=2e-3, atol=2e-5)


def test_without_distillation_it_is_plain_fine_tuning_bit_for_bit() -> None:
    """After every step: nothing happens to the model before the first one, teacher or not."""
    model, plain, data = resnet(), resnet(), trusted()
    given = {"batch_size": 10, "learning_rate": 0.05}
    own = rng(3)
    run(Plain(steps=6, **given), resnet(), data, own)  # the teacher draws first
    expected = Plain(steps=5, **given).repair(plain, data, own)
    steps = NAD(steps=5, teacher_steps=6, lambda_at=0.0, **given).repair(model, data, rng(3))
    assert same_weights(model, resnet())
    for _ in range(5):
        next(steps), next(expected)
        assert same_weights(model, plain)
    assert list(steps) == []


def test_a_teacher_with_the_same_maps_teaches_nothing() -> None:
    """Where only the head is tuned, the maps of both are those of the suspect."""
    model, plain, other = (stacked(norms=False) for _ in range(3))
    for one in (model, plain, other):
        one.stages.requires_grad_(False)
    data, own = trusted(), rng(3)
    run(Plain(steps=6, learning_rate=0.05), other, data, own)
    run(Plain(steps=5, learning_rate=0.05), plain, data, own)
    run(NAD(steps=5, learning_rate=0.05, teacher_steps=6, lambda_at=1e6), model, data, rng(3))
    assert not torch.equal(model.head.weight, stacked(norms=False).head.weight)
    assert same_weights(model, plain)


def test_attention_stays_nearer_to_the_teachers() -> None:
    """Than fine-tuning alone takes it, for a teacher of a single step."""
    data, own = trusted(), rng(3)
    teacher = stacked(norms=False)
    run(Plain(steps=1, learning_rate=0.05), teacher, data, own)

    def gap(weight: float) -> float:
        model = stacked(norms=False)
        repair = NAD(steps=60, learning_rate=0.05, teacher_steps=1, lambda_at=weight)
        run(repair, model, data, rng(3))
        with torch.no_grad():
            own, wanted = (maps_of(m, data.images)[1:] for m in (model, teacher))
        pairs = [(attention(a, 2), attention(b, 2)) for a, b in zip(own, wanted, strict=True)]
        return sum(float((a - b).square().mean()) for a, b in pairs)

    assert gap(100.0) < 0.5 * gap(0.0)


@pytest.mark.parametrize(
    "settings",
    ["p=0.5", "p=nan", "lambda_at=-1", "lambda_at=inf", "teacher_steps=0", "steps=0", "stages=2"],
)
def test_parameters_out_of_range_are_refused(registry: Registry, settings: str) -> None:
    registry.create(Defense, "nad:p=4,lambda_at=0,teacher_steps=1")
    with pytest.raises(RegistryError, match=settings.partition("=")[0]):
        registry.create(Defense, f"nad:{settings}")
