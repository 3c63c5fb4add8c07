"""Neural Cleanse's repair against a literal version, and on a model with a backdoor."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_defenses import fine_tuning
from backdoor_defenses.fine_tuning import FineTuning
from backdoor_defenses.neural_cleanse_additive import AdditiveNeuralCleanse
from backdoor_defenses.neural_cleanse_repair import NeuralCleanseRepair
from benchmark.api import Defense
from benchmark.classifier import Classifier
from benchmark.images import TrustedData, to_unit
from benchmark.models import SmallResNet
from benchmark.registry import Registry
from benchmark.specs import RegistryError

CLASSES, SIDE, TARGET = 4, 12, 2


@dataclass
class Plain(FineTuning):
    """What all repairs have in common, and nothing else."""

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        return self.fine_tune(model, trusted, rng)


def run(repair: FineTuning, model: Classifier, data: TrustedData, seed: int = 0) -> int:
    return sum(1 for _ in repair.repair(model, data, rng(seed)))


def bars(count: int, seed: int) -> TrustedData:
    """Noise that is brighter in two rows of the class, and never as bright as a stamp."""
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(160, (count, 1, SIDE, SIDE), generator=rng(seed), dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[0, 2 + 2 * label : 4 + 2 * label, 2:] += 90
    return TrustedData(pixels, labels)


def linear() -> Classifier:
    torch.manual_seed(0)
    stages = OrderedDict[str, nn.Module](all=nn.Identity())
    return Classifier(stages, nn.Flatten(), nn.Linear(SIDE**2, CLASSES), 1)


def smallest(
    inversion: AdditiveNeuralCleanse, model: Classifier, data: TrustedData, own: Generator
) -> Tensor:
    """The detector's trigger (1, H, W) with the smallest sum of absolute values."""
    found = inversion.detect(copy.deepcopy(model), data, own).trigger
    assert found is not None
    pictures = found.pictures["sum"]
    norms = [math.fsum(map(abs, picture.flatten().tolist())) for picture in pictures]
    assert sorted(norms)[0] < sorted(norms)[1]
    return pictures[norms.index(min(norms))]


# What is trained on.


def test_stamped_and_clean_batches_take_turns() -> None:
    """The smallest trigger on whole batches, behind the augmentation; images stay in [0, 1]."""
    data = bars(20, 3)
    data = TrustedData(data.pixels, data.labels, pad=1, flip=True)
    inversion, model, own = AdditiveNeuralCleanse(steps=7, batch_size=5), linear(), rng(4)
    stamp = smallest(inversion, model, data, own)
    batches = data.batches(6, own)

    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    repair = NeuralCleanseRepair(steps=7, batch_size=6, inversion=inversion)
    assert run(repair, model, data, 4) == len(seen) == 7
    for number, images in enumerate(seen):
        clean, _ = next(batches)
        stamped = torch.clamp(clean + stamp, min=0, max=1)
        assert not torch.equal(stamped, clean)
        assert torch.equal(images, clean if number % 2 else stamped)
    assert torch.equal(data.pixels, bars(20, 3).pixels)


def softmax_gradients(x: Any, labels: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    scores = np.exp(x @ weight.T + bias)
    error = scores / scores.sum(1, keepdims=True)
    error[np.arange(len(x)), labels] -= 1
    return error.T @ x / len(x), error.mean(0)


def test_it_descends_on_true_labels(exact: None) -> None:
    """Softmax regression on all images at once, those of the trigger's class included."""
    model, data = linear(), bars(16, 3)
    inversion = AdditiveNeuralCleanse(steps=30, batch_size=16)
    stamp = smallest(inversion, model, data, rng(4)).double().numpy()
    clean = data.pixels.double().numpy() / 255
    now = [value.detach().double().numpy().copy() for value in model.head.parameters()]
    speed = [np.zeros_like(value) for value in now]
    for step in range(6):
        images = clean if step % 2 else np.clip(clean + stamp, 0, 1)
        x = (images.reshape(16, -1) - 0.5) / 0.25
        gradients = softmax_gradients(x, data.labels.numpy(), *now)
        speed = [0.9 * v + g for v, g in zip(speed, gradients, strict=True)]
        now = [value - 0.02 * v for value, v in zip(now, speed, strict=True)]

    assert run(
        NeuralCleanseRepair(steps=6, learning_rate=0.02, inversion=inversion), model, data, 4
    )
    for found, expected in zip(model.head.parameters(), now, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-3, atol=1e-5)


# On a backdoor.


def stamped(pixels: Tensor) -> Tensor:
    pixels = pixels.clone()
    pixels[..., :2, :2] = 255
    return pixels


@pytest.fixture(scope="module")
def suspect() -> Classifier:
    """Trained on images, a sixth of which are stamped and of the target class."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, data = SmallResNet(width=16).build((1, SIDE, SIDE), CLASSES), bars(240, 1)
    rows = (data.labels != TARGET).nonzero().flatten()[:40]
    poisoned = data.replace(rows, stamped(data.pixels[rows]), torch.full_like(rows, TARGET))
    lent = TrustedData(poisoned.pixels, poisoned.labels)
    run(Plain(steps=60, batch_size=48, learning_rate=0.05), model, lent)
    return model.eval()


@torch.no_grad()
def rates(model: Classifier) -> tuple[float, float]:
    """Clean accuracy, and the share of stamped images of other classes in the target class."""
    test = bars(200, 2)
    others = test.pixels[test.labels != TARGET]
    model.eval()
    right = model(test.images).argmax(1) == test.labels
    hit = model(to_unit(stamped(others))).argmax(1) == TARGET
    return right.float().mean().item(), hit.float().mean().item()


def test_it_removes_a_backdoor_that_fine_tuning_leaves(suspect: Classifier) -> None:
    assert min(rates(suspect)) > 0.95
    before = copy.deepcopy(suspect.state_dict())
    found = {}
    for kind in (Plain, NeuralCleanseRepair):
        model = copy.deepcopy(suspect)
        assert run(kind(steps=40, batch_size=32, learning_rate=0.02), model, bars(60, 3)) == 40
        found[kind] = rates(model)
    assert found[Plain][1] > 0.9
    assert found[NeuralCleanseRepair][1] < 0.3
    assert found[NeuralCleanseRepair][0] > 0.95
    # The suspect itself was only ever copied.
    assert all(torch.equal(before[name], value) for name, value in suspect.state_dict().items())


def test_nothing_happens_to_the_model_while_triggers_are_reversed(suspect: Classifier) -> None:
    """The first yield is after the first step, which is that of fine-tuning on stamped images."""
    model, plain, data, own = copy.deepcopy(suspect), copy.deepcopy(suspect), bars(60, 3), rng(4)
    inversion = AdditiveNeuralCleanse(steps=5)
    stamp = smallest(inversion, plain, data, own)
    steps = NeuralCleanseRepair(steps=1, inversion=inversion).repair(model, data, rng(4))
    for name, value in suspect.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    next(steps)

    images, labels = next(data.batches(128, own))
    plain.train()
    fine_tuning.classification_loss(plain, (images + stamp).clamp(0, 1), labels).backward()
    torch.optim.SGD(plain.parameters(), 0.001, 0.9).step()
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert list(steps) == []


# Settings.


def test_the_inversion_is_that_of_pick_your_poison_and_can_be_set(registry: Registry) -> None:
    usual: Any = registry.create(Defense, "neural-cleanse-repair")
    assert usual.inversion == AdditiveNeuralCleanse(steps=100, norm_weight=0.02)
    assert (usual.steps, usual.learning_rate, usual.batch_size) == (1000, 0.001, 128)
    changed: Any = registry.create(Defense, "neural-cleanse-repair:inversion.steps=200,steps=7")
    assert (changed.inversion.steps, changed.steps) == (200, 7)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("steps=0", "steps"),
        ("learning_rate=0", "learning_rate"),
        ("inversion.norm_weight=-1", "norm_weight"),
        ("inversion=strip", "inversion"),
    ],
)
def test_parameters_out_of_range_are_refused(registry: Registry, settings: str, said: str) -> None:
    with pytest.raises(RegistryError, match=said):
        registry.create(Defense, f"neural-cleanse-repair:{settings}")
