"""The label-consistent attack against projected gradient ascent by hand."""

from __future__ import annotations

import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_attacks.compensatory import target_confidence
from backdoor_attacks.lc import LabelConsistent, signs
from backdoor_attacks.lsp import LSP
from benchmark.classifier import Classifier
from benchmark.images import ImageSet
from benchmark.protocol import Augmentation, Recipe
from benchmark.training import Trainer

SHAPE, CLASSES, TARGET = (2, 5, 4), 5, 1


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


def literal_climb(
    model: Classifier, image: np.ndarray, label: int, norm: str, attack: LabelConsistent
) -> np.ndarray:
    """Steps on softmax regression, whose gradient is W^T (p - e) / std; one flat image."""
    weight = model.head.weight.detach().double().numpy()
    bias = model.head.bias.detach().double().numpy()
    mean, std = (np.repeat(v.flatten().double().numpy(), 20) for v in (model.mean, model.std))
    x = image.copy()
    for _ in range(attack.steps):
        scores = np.exp(weight @ ((x - mean) / std) + bias)
        error = scores / scores.sum()
        error[label] -= 1
        gradient = (weight.T @ error) / std
        if norm == "linf":
            moved = x - image + attack.step * np.sign(gradient)
            noise = np.array([min(max(n, -attack.epsilon), attack.epsilon) for n in moved])
        else:
            noise = x - image + attack.step * gradient / math.hypot(*gradient)
            noise = noise * min(1.0, attack.epsilon / math.hypot(*noise))
        x = np.array([min(max(v, 0.0), 1.0) for v in image + noise])
    return x


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("target", [1, 4])
@pytest.mark.parametrize(
    ("norm", "epsilon", "step", "steps"),
    [("linf", 0.1, 0.04, 4), ("linf", 0.05, 0.2, 1), ("l2", 0.5, 0.2, 5), ("l2", 0.3, 0.9, 2)],
)
def test_poisons_climb_the_loss_of_their_class_and_carry_the_patch(
    target: int, norm: Any, epsilon: float, step: float, steps: int
) -> None:
    model = linear(rng())
    model.normalise_by(torch.tensor([0.4, 0.6]), torch.tensor([0.2, 0.3]))
    attack = LabelConsistent(side=0.8, norm=norm, epsilon=epsilon, step=step, steps=steps)
    mounted(attack, target, model.state_dict())
    lent, labels = images(), torch.full((6,), target)
    found, kept = attack.poison(lent, labels, rng())
    assert torch.equal(lent, images())
    assert torch.equal(kept, labels)
    for image, poisoned in zip(images().double().flatten(1).numpy(), found, strict=True):
        x = literal_climb(model, image, target, norm, attack)
        noisy = torch.from_numpy(x).float().view(1, *SHAPE)
        expected = attack.trigger(noisy, rng())[0]
        torch.testing.assert_close(poisoned, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_surrogate_that_was_trained_is_led_away_from_the_target(norm: Any) -> None:
    attack, data = mounted(LabelConsistent(norm=norm, epsilon=0.3, step=0.1)), auxiliary()
    surrogate = linear(rng())
    surrogate.load_state_dict(attack.state)
    of_target = data.images[data.labels == TARGET]
    noisy = attack.perturb(of_target)
    before, after = (surrogate(x).softmax(1)[:, TARGET].detach() for x in (of_target, noisy))
    assert (after < before).all()
    noise = (noisy - of_target).flatten(1)
    size = noise.abs().amax(1) if norm == "linf" else noise.norm(dim=1)
    assert (size <= 0.3 + 1e-6).all()
    assert size.max() > 0.2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_surrogates_training_meets_attacked_images(norm: Any) -> None:
    """Within half of epsilon, of the loss to their own labels, on the surrogate as it is."""
    attack = mounted(LabelConsistent(norm=norm, epsilon=0.4, adversarial=False))
    surrogate = linear(rng()).train()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    noisy, kept = attack.harden(surrogate, rng(3))(images(), labels)
    assert surrogate.training
    assert torch.equal(kept, labels)
    assert 0 <= noisy.min() <= noisy.max() <= 1
    noise = (noisy - images()).flatten(1)
    size = noise.abs().amax(1) if norm == "linf" else noise.norm(dim=1)
    assert (size <= 0.2 + 1e-6).all()
    loss = nn.functional.cross_entropy
    before, after = (loss(surrogate(x), labels, reduction="none") for x in (images(), noisy))
    assert (after > before).all()
    drawn, _ = attack.harden(surrogate, rng(4))(images(), labels)
    assert not torch.equal(noisy, drawn)


def test_a_robust_surrogate_withstands_what_a_plain_one_does_not() -> None:
    def loss_under_attack(robust: float) -> float:
        attack, data = mounted(LabelConsistent(epsilon=0.2, step=0.05, robust=robust)), auxiliary()
        surrogate = linear(rng())
        surrogate.load_state_dict(attack.state)
        noisy = attack.perturb(data.images[data.labels == TARGET])
        wanted = torch.full((len(noisy),), TARGET)
        return nn.functional.cross_entropy(surrogate(noisy), wanted).item()

    assert loss_under_attack(1.0) < loss_under_attack(0.0)


def test_the_patch_is_the_originals() -> None:
    """Rows of the corner: black black white, black white black, white black white."""
    found = signs(6, 5, 3, 3, False)
    assert found[3:, 2:].tolist() == [[-1, -1, 1], [-1, 1, -1], [1, -1, 1]]
    assert found.abs().sum() == 9
    four = signs(8, 8, 3, 3, True)
    assert [four[y, x].item() for y in (0, 7) for x in (0, 7)] == [1] * 4
    assert torch.equal(four, four.flip(0))
    assert torch.equal(four, four.flip(1))
    assert signs(4, 4, 1, 1, False)[3, 3] == 1
    assert signs(8, 8, 4, 4, False)[4:, 4:].tolist() == [
        [-1, -1, 1, 1],
        [-1, 1, -1, -1],
        [1, -1, 1, 1],
        [1, -1, 1, 1],
    ]


@pytest.mark.parametrize("amplitude", [1.0, 32 / 255])
def test_at_test_there_is_the_patch_alone(amplitude: float) -> None:
    """Overwritten at full amplitude, added and taken off below it, clipped."""
    attack = mounted(LabelConsistent(side=0.8, amplitude=amplitude))
    assert attack.threat == "clean-label"
    pattern = signs(5, 4, 4, 3, False)
    for image, stamped in zip(images(), attack.trigger(images(), rng()), strict=True):
        for c in range(2):
            for y in range(5):
                for x in range(4):
                    old, sign = image[c, y, x].item(), pattern[y, x].item()
                    wanted = min(max(old + amplitude * sign, 0.0), 1.0)
                    if amplitude == 1 and sign:
                        wanted = float(sign > 0)
                    assert stamped[c, y, x].item() == pytest.approx(wanted, abs=1e-6)


def test_without_noise_nothing_is_trained_and_the_patch_is_stamped() -> None:
    attack = LabelConsistent(side=0.5, adversarial=False)
    attack.setup(SimpleNamespace(target=TARGET, shape=SHAPE), rng())  # type: ignore[arg-type]
    assert attack.state == {}
    labels = torch.full((6,), TARGET)
    found, kept = attack.poison(images(), labels, rng())
    assert torch.equal(found, attack.trigger(images(), rng()))
    assert torch.equal(kept, labels)


def test_without_auxiliary_images_there_is_no_surrogate() -> None:
    view: Any = SimpleNamespace(
        target=TARGET, auxiliary=auxiliary().subset(torch.zeros(80, dtype=torch.bool))
    )
    with pytest.raises(ValueError, match="adversarial=false"):
        LabelConsistent().setup(view, rng())


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
