"""The label-consistent attack against projected gradient ascent by hand."""

from __future__ import annotations

import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from backdoor_attacks import advclean
from backdoor_attacks.badnets import BadNets
from backdoor_attacks.lc import LabelConsistent
from backdoor_attacks.lsp import LSP, target_confidence
from benchmark.classifier import Classifier
from benchmark.images import ImageSet
from benchmark.protocol import Augmentation, Recipe
from benchmark.training import Trainer

SHAPE, CLASSES, TARGET = (2, 5, 4), 5, 1


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def linear(rng: Generator) -> Classifier:
    """Softmax regression, whose gradients have a closed form."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        head = nn.Linear(math.prod(SHAPE), CLASSES)
    return Classifier(OrderedDict(all=nn.Identity()), nn.Flatten(), head, SHAPE[0]).eval()


def auxiliary() -> ImageSet:
    labels = torch.arange(80) % CLASSES
    noise = torch.randint(128, (80, *SHAPE), generator=rng(9))
    return ImageSet((noise + 30 * labels[:, None, None, None]).byte(), labels)


def mounted(attack: Any, target: int = TARGET, state: dict[str, Tensor] | None = None) -> Any:
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=0.1, precision="float32")
    view: Any = SimpleNamespace(
        target=target,
        shape=SHAPE,
        classes=CLASSES,
        auxiliary=auxiliary(),
        trainer=Trainer(recipe, Augmentation()),
        new_model=linear,
    )
    attack.setup(view, rng(), state)
    return attack


def images(count: int = 6) -> Tensor:
    return torch.rand(count, *SHAPE, generator=rng(5))


@pytest.mark.parametrize("target", [1, 4])
@pytest.mark.parametrize(("epsilon", "step", "steps"), [(0.1, 0.04, 4), (0.05, 0.2, 1)])
def test_poisons_climb_the_loss_of_their_class_and_carry_the_patch(
    monkeypatch: pytest.MonkeyPatch, target: int, epsilon: float, step: float, steps: int
) -> None:
    """On softmax regression, whose gradient is W^T (p - e) / std."""
    monkeypatch.setattr(
        advclean, "mixed_precision", lambda device: torch.autocast(device.type, enabled=False)
    )
    model = linear(rng())
    model.normalise_by(torch.tensor([0.4, 0.6]), torch.tensor([0.2, 0.3]))
    attack = LabelConsistent(side=0.5, epsilon=epsilon, step=step, steps=steps)
    mounted(attack, target, model.state_dict())
    lent, labels = images(), torch.full((6,), target)
    found, kept = attack.poison(lent, labels, rng())
    assert torch.equal(lent, images())
    assert torch.equal(kept, labels)

    weight = model.head.weight.detach().double().numpy()
    bias = model.head.bias.detach().double().numpy()
    mean, std = (np.repeat(values, 20) for values in ([0.4, 0.6], [0.2, 0.3]))
    for image, poisoned in zip(images().double().flatten(1).numpy(), found, strict=True):
        x = image.copy()
        for _ in range(steps):
            scores = np.exp(weight @ ((x - mean) / std) + bias)
            error = scores / scores.sum()
            error[target] -= 1
            gradient = (weight.T @ error) / std
            for pixel in range(len(x)):
                moved = x[pixel] + step * np.sign(gradient[pixel])
                moved = min(max(moved, image[pixel] - epsilon), image[pixel] + epsilon)
                x[pixel] = min(max(moved, 0.0), 1.0)
        noisy = torch.from_numpy(x).float().view(1, *SHAPE)
        expected = BadNets(side=0.5).trigger(noisy, rng())[0]
        torch.testing.assert_close(poisoned, expected, atol=1e-6, rtol=0)


def test_the_surrogate_that_was_trained_is_led_away_from_the_target() -> None:
    attack, data = mounted(LabelConsistent(epsilon=0.3, step=0.1)), auxiliary()
    surrogate = linear(rng())
    surrogate.load_state_dict(attack.state)
    of_target = data.images[data.labels == TARGET]
    noisy = attack.perturb(of_target)
    before, after = (surrogate(x).softmax(1)[:, TARGET].detach() for x in (of_target, noisy))
    assert (after < before).all()
    assert (noisy - of_target).abs().max() <= 0.3 + 1e-6


def test_at_test_there_is_the_patch_alone() -> None:
    attack = mounted(LabelConsistent(side=0.5))
    assert attack.threat == "clean-label"
    assert torch.equal(attack.trigger(images(), rng()), BadNets(side=0.5).trigger(images(), rng()))


def test_without_noise_nothing_is_trained_and_the_patch_is_stamped() -> None:
    attack = LabelConsistent(side=0.5, adversarial=False)
    attack.setup(SimpleNamespace(target=TARGET, shape=SHAPE), rng())  # type: ignore[arg-type]
    assert attack.state == {}
    labels = torch.full((6,), TARGET)
    found, kept = attack.poison(images(), labels, rng())
    assert torch.equal(found, BadNets(side=0.5).trigger(images(), rng()))
    assert torch.equal(kept, labels)


def test_under_lsp_its_labels_become_soft() -> None:
    """It then is no longer clean-label (METHODS 2.8), but still poisons the target's images."""
    base = LabelConsistent(side=0.5)
    attack = mounted(LSP(base=base, rate=3.7))
    assert attack.clean_label
    assert attack.threat == "code"
    labels = torch.full((6,), TARGET)
    found, soft = attack.poison(images(), labels, rng())
    assert torch.equal(found, base.poison(images(), labels, rng())[0])
    confidence = target_confidence(3.7, CLASSES)
    other = (1 - confidence) / (CLASSES - 1)
    for row in soft.tolist():
        assert row == pytest.approx([confidence if k == TARGET else other for k in range(CLASSES)])
