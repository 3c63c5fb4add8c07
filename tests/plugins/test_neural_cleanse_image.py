"""Neural Cleanse on one image against a literal loop, and on a planted backdoor."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from seeds import rng
from torch import Tensor, nn

from backdoor_defenses.neural_cleanse_image import NeuralCleanseOnImage
from benchmark import Starts
from benchmark.classifier import Classifier
from benchmark.triggers import Patch, Trigger

SIDE, CLASSES, PLANTED = 8, 4, 2
CORNER = (slice(0, 2), slice(0, 2))


def planted(weight: float = 8.0, channels: int = 1) -> Classifier:
    """A linear classifier; class PLANTED has `weight` on a bright corner of four pixels."""
    head = nn.Linear(channels * SIDE**2, CLASSES)
    model = Classifier(OrderedDict(stem=nn.Identity()), nn.Flatten(), head, channels)
    model.normalise_by(torch.zeros(channels), torch.ones(channels))
    with torch.no_grad():
        head.weight.copy_(0.3 * torch.randn(head.weight.shape, generator=rng(1)))
        head.bias.copy_(torch.tensor([0.2, -0.1, -2.5 * weight * channels, 0.1]))
        head.weight[PLANTED].view(channels, SIDE, SIDE)[:, 0:2, 0:2] = weight
    return model


def starts(targets: list[int], channels: int = 1) -> Starts:
    """Images that are dark in the corner."""
    images = torch.rand(len(targets), channels, SIDE, SIDE, generator=rng(2))
    images[:, :, 0:2, 0:2] *= 0.2
    return Starts(images, torch.tensor(targets))


def answers(model: Classifier, found: Trigger, begun: Starts) -> Tensor:
    predictions: Tensor = model(found.apply(begun.images[:, None])[:, 0]).argmax(1)
    return predictions


def literal(
    model: Classifier, image: Tensor, target: int, draw: Tensor, defense: NeuralCleanseOnImage
) -> tuple[list[tuple[Tensor, Tensor]], list[bool], set[float]]:
    """METHODS 3.5 for one image: the results after every step, whether it worked, the costs."""
    u, v = (
        torch.atanh((part - 0.5) * (2 - 1e-6)).requires_grad_(True) for part in (draw[:1], draw[1:])
    )
    optimizer = torch.optim.Adam([u, v], lr=defense.learning_rate, betas=(0.5, 0.9))
    best, best_norm, cost, row = None, math.inf, 0.0, 0
    results, works, costs = [], [], set()
    for step in range(defense.steps):
        m, p = torch.tanh(u) / 2 + 0.5, torch.tanh(v) / 2 + 0.5
        logits = model(((1 - m) * image + m * p)[None])[0]
        works.append(int(logits.argmax()) == target)
        norm = m.sum()
        if works[-1] and norm.item() < best_norm:
            best, best_norm = (m.detach(), p.detach()), norm.item()
        loss = -logits.log_softmax(0)[target] + cost * norm
        u.grad, v.grad = torch.autograd.grad(loss, (u, v))
        optimizer.step()
        row = row + 1 if step and works[-1] == works[-2] else 1
        if row % defense.patience == 0:
            k = defense.multiplier
            cost = (cost * k or defense.initial_cost) if works[-1] else cost / k**1.5
            costs.add(cost)
        current = (torch.tanh(u).detach() / 2 + 0.5, torch.tanh(v).detach() / 2 + 0.5)
        results.append(best or current)
    return results, works, costs


@pytest.mark.parametrize(("channels", "steps"), [(1, 90), (3, 60)])
def test_every_step_of_a_batch_equals_the_algorithm_image_by_image(
    channels: int, steps: int
) -> None:
    """With an image that never works, and costs that rise and fall."""
    model, begun = planted(channels=channels), starts([PLANTED, 0, 1, 3, 1], channels)
    with torch.no_grad():
        model.head.bias[1] = -1000.0
    defense = NeuralCleanseOnImage(steps=steps, patience=3, initial_cost=0.05)
    found = list(defense.invert(model, begun, rng(3)))
    assert len(found) == steps
    draw = torch.rand(5, 1 + channels, SIDE, SIDE, generator=rng(3))
    changes = 0
    for j, target in enumerate(begun.targets.tolist()):
        results, works, costs = literal(model, begun.images[j], target, draw[j], defense)
        assert any(works) == (target != 1)
        changes += any(works) and not all(works[works.index(True) :])
        assert target == 1 or len(costs) > 3
        for one, (mask, pattern) in zip(found, results, strict=True):
            torch.testing.assert_close(one.pictures["mask"][j], mask, atol=2e-3, rtol=0)
            torch.testing.assert_close(one.pictures["pattern"][j], pattern, atol=2e-3, rtol=0)
    assert changes  # a mask that failed came after one that worked


def test_a_planted_backdoor_is_found_from_every_image() -> None:
    """Inside the corner, as small as it can be: the last result still works."""
    model, begun = planted(), starts([PLANTED] * 4)
    assert (model(begun.images).argmax(1) != PLANTED).all()
    *_, found = NeuralCleanseOnImage(steps=400).invert(model, begun, rng())
    assert isinstance(found, Patch)
    assert (answers(model, found, begun) == PLANTED).all()
    masks = found.mask[:, 0]
    assert (masks >= 0).all()
    assert (masks <= 1).all()
    assert (found.norms < 4).all()
    assert (masks[:, *CORNER].sum((1, 2)) > 0.8 * found.norms).all()


def test_from_the_first_success_on_results_work_and_only_shrink() -> None:
    """What is yielded holds still and carries no graph."""
    model, begun = planted(), starts([PLANTED, 0, 3])
    found, copies = [], []
    for one in NeuralCleanseOnImage(steps=150, patience=4).invert(model, begun, rng(5)):
        found.append(one)
        copies.append(one.norms.clone())
        assert not any(variable.requires_grad for variable in one.variables)
    norms = torch.stack([one.norms for one in found])
    assert torch.equal(norms, torch.stack(copies))
    works = torch.stack([answers(model, one, begun) == begun.targets for one in found])
    for j in range(3):
        first = int(works[:, j].int().argmax())
        assert works[first:, j].all()
        assert (norms[first:, j].diff() <= 1e-4)[1:].all()
        assert norms[-1, j] < 0.5 * norms[first, j]


def test_only_the_generator_decides() -> None:
    results = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        model = planted()
        *_, one = NeuralCleanseOnImage(steps=9).invert(model, starts([PLANTED, 0]), rng(seed))
        results.append(one.pictures["mask"])
        assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
