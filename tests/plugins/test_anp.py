"""ANP against its formula with batch norm written out, and on a planted channel."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_defenses.anp import ANP, batch_norms
from benchmark.classifier import Classifier
from benchmark.images import TrustedData

CLASSES, WIDTH, SIDE = 3, 4, 6


def trusted(count: int = 24) -> TrustedData:
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 60, (count, 1, SIDE, SIDE), generator=rng(1))
    pixels[torch.arange(count), 0, 2 * labels] += 150
    return TrustedData(pixels.byte(), labels)


def network() -> Classifier:
    """Two convolutions with batch norms whose scales and shifts are not trivial."""
    torch.manual_seed(3)
    stages = OrderedDict[str, nn.Module](
        one=nn.Sequential(nn.Conv2d(1, WIDTH, 3, 1, 1), nn.BatchNorm2d(WIDTH), nn.ReLU()),
        two=nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.BatchNorm2d(WIDTH), nn.ReLU()),
    )
    for stage in stages.values():
        nn.init.uniform_(stage[1].weight, 0.5, 1.5)  # type: ignore[index]
        nn.init.uniform_(stage[1].bias, -1, 1)  # type: ignore[index]
    return Classifier(stages, nn.Flatten(), nn.Linear(WIDTH * SIDE**2, CLASSES), 1).eval()


def literal_loss(
    model: Classifier, images: Tensor, labels: Tensor, scales: list[Tensor], shifts: list[Tensor]
) -> Tensor:
    """Cross-entropy with every batch norm written out, by the statistics of the batch."""
    hidden = (images - model.mean) / model.std
    for stage, scale, shift in zip(model.stages, scales, shifts, strict=True):
        hidden = stage[0](hidden)  # type: ignore[index]
        channels = []
        for channel in range(WIDTH):
            values = hidden[:, channel]
            mean = values.sum() / values.numel()
            variance = ((values - mean) ** 2).sum() / values.numel()
            normal = (values - mean) / torch.sqrt(variance + 1e-5)
            channels.append(torch.relu(normal * scale[channel] + shift[channel]))
        hidden = torch.stack(channels, 1)
    logits = model.head(hidden.flatten(1))
    log_shares = logits - logits.exp().sum(1, keepdim=True).log()
    return -torch.stack([row[label] for row, label in zip(log_shares, labels, strict=True)]).mean()


def literal_masks(model: Classifier, defense: ANP, data: TrustedData, draw: Generator) -> Tensor:
    """min over m of 0.2 L(m) + 0.8 max L((m + d) scale, (1 + e) shift), entry by entry."""
    norms = [stage[1] for stage in model.stages]  # type: ignore[index]
    scale = [norm.weight.detach() for norm in norms]
    shift = [norm.bias.detach() for norm in norms]
    masks = [torch.ones(WIDTH) for _ in norms]
    speed = [torch.zeros(WIDTH) for _ in norms]
    batches, limit = data.batches(defense.batch_size, draw), defense.epsilon
    for _ in range(defense.steps):
        images, labels = next(batches)
        drawn = [(2 * torch.rand(WIDTH, generator=draw) - 1) * limit for _ in range(4)]
        pushes = [push.requires_grad_() for push in drawn]

        now = masks = [mask.detach().requires_grad_() for mask in masks]

        def loss(
            pushed: list[Tensor],
            images: Tensor = images,
            labels: Tensor = labels,
            now: list[Tensor] = now,
        ) -> Tensor:
            scales = [s * (m + d) for s, m, d in zip(scale, now, pushed[:2], strict=True)]
            shifts = [b * (1 + e) for b, e in zip(shift, pushed[2:], strict=True)]
            return literal_loss(model, images, labels, scales, shifts)

        slopes = torch.autograd.grad(loss(pushes), pushes)
        worst = [
            torch.tensor(
                [
                    min(max(p + limit * (1 if g > 0 else -1 if g < 0 else 0), -limit), limit)
                    for p, g in zip(push.tolist(), slope.tolist(), strict=True)
                ]
            )
            for push, slope in zip(pushes, slopes, strict=True)
        ]
        still = [torch.zeros(WIDTH)] * 4
        total = 0.2 * loss(still) + 0.8 * loss(worst)
        gradients = torch.autograd.grad(total, masks)
        speed = [0.9 * v + g for v, g in zip(speed, gradients, strict=True)]
        masks = [
            torch.tensor([min(max(x, 0.0), 1.0) for x in (m.detach() - 0.2 * v).tolist()])
            for m, v in zip(masks, speed, strict=True)
        ]
    return torch.stack(masks)


@pytest.mark.usefixtures("exact")
def test_the_masks_are_those_of_the_formula() -> None:
    model, data = network(), trusted()
    defense = ANP(steps=6, batch_size=8)
    expected = literal_masks(copy.deepcopy(model), defense, data, rng(5))
    assert (expected < 0.95).any()
    assert len(expected.unique()) > 2
    masks = [torch.ones(WIDTH) for _ in range(2)]
    draw, step = rng(5), defense.step(copy.deepcopy(model), masks)
    batches = data.batches(8, draw)
    for _ in range(6):
        step(*next(batches), *defense.start(masks, draw))
    torch.testing.assert_close(torch.stack(masks).detach(), expected, atol=2e-4, rtol=0)


@pytest.mark.usefixtures("exact")
def test_the_model_is_pruned_with_the_last_step_and_not_before() -> None:
    model, data = network(), trusted()
    before = copy.deepcopy(model.state_dict())
    defense = ANP(steps=6, batch_size=8, threshold=0.9)
    weak = literal_masks(copy.deepcopy(model), defense, data, rng(5)) < 0.9
    assert 0 < weak.sum() < weak.numel()
    for step, _ in enumerate(defense.repair(model, data, rng(5)), start=1):
        if step < 6:
            assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert step == 6
    for (name, norm), gone in zip(batch_norms(model).items(), weak, strict=True):
        kept = torch.where(gone, 0, before[f"{name}.weight"])
        assert torch.equal(norm.weight.detach(), kept)
    scales = {f"{name}.weight" for name in batch_norms(model)}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if k not in scales)


def test_equal_seeds_prune_alike() -> None:
    found = []
    for seed in (1, 1, 2):
        masks = [torch.ones(WIDTH) for _ in range(2)]
        draw, step = rng(seed), ANP().step(network(), masks)
        step(*next(trusted().batches(8, draw)), *ANP().start(masks, draw))
        found.append(torch.stack(masks))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_without_batch_norm_it_says_so() -> None:
    stages = OrderedDict[str, nn.Module](all=nn.Identity())
    model = Classifier(stages, nn.Flatten(), nn.Linear(SIDE**2, CLASSES), 1)
    with pytest.raises(ValueError, match="has none"):
        next(ANP().repair(model, trusted(), rng()))
