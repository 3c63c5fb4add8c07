"""PixelInv against a literal loop, and on a planted backdoor."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from seeds import rng
from torch import Tensor, nn

from backdoor_defenses.pixelinv import PixelInv, changed_pixels
from benchmark import Starts
from benchmark.classifier import Classifier
from benchmark.triggers import Additive

SIDE, CLASSES, PLANTED = 8, 4, 2


def planted(channels: int = 1) -> Classifier:
    """Linear; PLANTED wants half of the first row brighter, and half of the second darker."""
    head = nn.Linear(channels * SIDE**2, CLASSES)
    model = Classifier(OrderedDict(stem=nn.Identity()), nn.Flatten(), head, channels)
    model.normalise_by(torch.zeros(channels), torch.ones(channels))
    with torch.no_grad():
        head.weight.copy_(0.3 * torch.randn(head.weight.shape, generator=rng(1)))
        head.bias.copy_(torch.tensor([0.2, -0.1, -10.0 * channels, 0.1]))
        weights = head.weight[PLANTED].view(channels, SIDE, SIDE)
        weights[:, 0, 0:4], weights[:, 1, 0:4] = 5.0, -5.0
    return model


def starts(targets: list[int], channels: int = 1) -> Starts:
    images = torch.rand(len(targets), channels, SIDE, SIDE, generator=rng(2))
    # Neither black nor white there: what is clipped from the start has no gradient.
    images[:, :, 0:2, 0:4] = 0.4 + 0.2 * images[:, :, 0:2, 0:4]
    return Starts(images, torch.tensor(targets))


def test_the_smooth_count_by_hand() -> None:
    """Per pixel the largest channel counts; a variable of 0 counts one half."""
    bright = torch.tensor([[[[0.0, 1.0]], [[2.0, -3.0]]]])
    expected = sum(math.tanh(value / 10) / 2 + 0.5 for value in (2.0, 1.0, 0.0, 0.0))
    assert changed_pixels([bright, torch.zeros_like(bright)]).item() == pytest.approx(expected)
    assert changed_pixels([torch.zeros_like(bright), bright]).item() == pytest.approx(expected)


def literal(
    model: Classifier, image: Tensor, target: int, draw: Tensor, defense: PixelInv
) -> tuple[list[Tensor], list[bool], set[float], int]:
    """METHODS 3.10 for one image: results after every step, works, costs, restarts."""
    p, q = (part.clone().requires_grad_(True) for part in draw)
    optimizer = torch.optim.Adam([p, q], lr=defense.learning_rate, betas=(0.5, 0.9))
    best, best_size, best_count = None, math.inf, math.inf
    cost, up, down, restarts = defense.initial_cost, 0, 0, 0
    results, works, costs = [], [], set()
    for _ in range(defense.steps):
        bright, dark = p.clamp(0, 1), q.clamp(0, 1)
        logits = model((image + bright - dark).clamp(0, 1)[None])[0]
        works.append(int(logits.argmax()) == target)
        size = sum((torch.tanh(x / 10) / 2 + 0.5).max(0).values.sum() for x in (p, q))
        loss = -logits.log_softmax(0)[target] + cost * size
        p.grad, q.grad = torch.autograd.grad(loss, (p, q))
        optimizer.step()
        kept = [part.detach().clone() for part in (bright, dark)]
        for part in kept:
            part[part < 1 / 255] = 0
        count = sum(
            any((kept[0] - kept[1])[:, y, x].tolist()) for y in range(SIDE) for x in range(SIDE)
        )
        if works[-1] and size.item() < best_size and count < best_count:
            best, best_size, best_count = kept[0] - kept[1], size.item(), count
            restarts += 1
            with torch.no_grad():
                p.copy_(kept[0])
                q.copy_(kept[1])
        up, down = (up + 1, 0) if works[-1] else (0, down + 1)
        if up == defense.patience:
            cost, up = cost * 1.5, 0
        if down == defense.patience:
            cost, down = cost / 1.5**1.5, 0
        costs.add(cost)
        current = (p.clamp(0, 1) - q.clamp(0, 1)).detach()
        results.append(current if best is None else best)
    return results, works, costs, restarts


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("channels", "steps"), [(1, 70), (3, 45)])
def test_every_step_of_a_batch_equals_the_algorithm_image_by_image(
    channels: int, steps: int
) -> None:
    """With an image that never works, and costs that rise and fall."""
    model, begun = planted(channels), starts([PLANTED, 0, 1, 3], channels)
    with torch.no_grad():
        model.head.bias[1] = -1000.0
    defense = PixelInv(steps=steps, patience=3, initial_cost=0.02)
    found = list(defense.invert(model, begun, rng(3)))
    assert len(found) == steps
    draw = torch.rand(2, 4, channels, SIDE, SIDE, generator=rng(3))
    for j, target in enumerate(begun.targets.tolist()):
        results, works, costs, restarts = literal(
            model, begun.images[j], target, draw[:, j], defense
        )
        assert any(works) == (target != 1)
        assert target == 1 or restarts > 3
        assert len(costs) > 3
        for one, result in zip(found, results, strict=True):
            torch.testing.assert_close(one.pictures["sum"][j], result, atol=1e-2, rtol=0)


def test_a_planted_backdoor_is_found_from_every_image() -> None:
    """Brighter above and darker below, and little else; the yielded results hold still."""
    model, begun = planted(), starts([PLANTED] * 4)
    assert (model(begun.images).argmax(1) != PLANTED).all()
    copies, results = [], list(PixelInv(steps=600).invert(model, begun, rng()))
    for one in PixelInv(steps=600).invert(model, begun, rng()):
        assert not one.variables[0].requires_grad
        copies.append(one.pictures["sum"].clone())
    assert torch.equal(torch.stack(copies), torch.stack([one.pictures["sum"] for one in results]))
    found = results[-1]
    assert isinstance(found, Additive)
    assert (model(found.apply(begun.images[:, None])[:, 0]).argmax(1) == PLANTED).all()
    total = found.sum[:, 0]
    assert (total.abs() <= 1).all()
    assert (total[:, 0, 0:4].sum(1) > 0).all()
    assert (total[:, 1, 0:4].sum(1) < 0).all()
    # Elsewhere most pixels stay exactly as they are.
    assert ((total == 0).flatten(1).sum(1) > SIDE**2 / 2).all()


def test_only_the_generator_decides() -> None:
    results = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        *_, one = PixelInv(steps=9).invert(planted(), starts([PLANTED, 0]), rng(seed))
        results.append(one.pictures["sum"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
