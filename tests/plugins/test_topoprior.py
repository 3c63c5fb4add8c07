"""TopoPrior: its topology against a union of pixels, its steps against a literal loop."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from seeds import rng
from torch import Tensor, nn

from backdoor_defenses.topoprior import TopoPrior, moved, one_piece, size_and_spread, topology_loss
from benchmark import Starts
from benchmark.classifier import Classifier
from benchmark.triggers import Patch


def critical(mask: Tensor) -> tuple[tuple[int, int], list[tuple[tuple[int, int], tuple[int, int]]]]:
    """The highest pixel, and (birth, death) of all other components with eight neighbours.

    Pixels are added from the highest to the lowest; where two components meet, the one with
    the lower peak dies.
    """
    height, width = mask.shape
    value = {(y, x): mask[y, x].item() for y in range(height) for x in range(width)}
    peak: dict[tuple[int, int], tuple[int, int]] = {}
    pairs = []
    for y, x in sorted(value, key=lambda pixel: -value[pixel]):
        around = [(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        peaks = {peak[pixel] for pixel in around if pixel in peak}
        eldest = max(peaks, key=lambda pixel: value[pixel], default=(y, x))
        pairs += [(younger, (y, x)) for younger in peaks - {eldest}]
        peak = {pixel: eldest if old in peaks else old for pixel, old in peak.items()}
        peak[y, x] = eldest
    return max(value, key=lambda pixel: value[pixel]), pairs


def literal_topology(mask: Tensor) -> Tensor:
    """METHODS 3.9 for one tile, with the signs of a mask: (1, 0) for the first, none else."""
    if mask.max() < 0.5:
        return mask.sum() * 0
    first, pairs = critical(mask.detach())
    loss = (mask[first] - 1) ** 2 + mask.min() ** 2
    return loss + sum((mask[birth] - mask[death].detach()) ** 2 for birth, death in pairs)


@pytest.mark.parametrize("shape", [(7, 7), (4, 9), (20, 8), (1, 6)])
def test_the_topology_of_a_tile_is_that_of_its_growing_sets(shape: tuple[int, int]) -> None:
    for seed in range(3):
        mask = torch.rand(*shape, generator=rng(seed), dtype=torch.float64)
        first, pairs = critical(mask)
        expected = mask.clone()
        for birth, death in pairs:
            expected[birth] = mask[death]
        expected[first], expected.view(-1)[mask.argmin()] = 1, 0
        assert pairs
        assert torch.equal(one_piece(mask), expected)


def two_blobs(column: int) -> Tensor:
    """Peaks 0.9 at (1, 1) and 0.6 at (4, `column`), each in a ring of 0.3, on a lower slope."""
    mask = 0.01 + torch.arange(49, dtype=torch.float64).view(7, 7) / 1000
    mask[0:3, 0:3], mask[3:6, column - 1 : column + 2] = 0.3, 0.3
    mask[1, 1], mask[4, column] = 0.9, 0.6
    return mask.requires_grad_(True)


def test_of_two_blobs_the_smaller_sinks_and_the_larger_rises() -> None:
    mask = two_blobs(5)
    (gradient,) = torch.autograd.grad(topology_loss(mask[None]).sum(), mask)
    # The rings do not touch: (0..2, 0..2) and (3..5, 4..6) are joined by the best of the rest.
    bridge = max(mask[2, 3].item(), mask[3, 3].item())
    assert gradient[1, 1].item() == pytest.approx(2 * (0.9 - 1))
    assert gradient[4, 5].item() == pytest.approx(2 * (0.6 - bridge))
    # Besides, only the lowest pixel, where the last component ends.
    assert gradient.count_nonzero() == 3
    assert gradient[0, 3].item() == pytest.approx(2 * mask[0, 3].item())


def test_blobs_that_touch_at_a_corner_are_joined_there() -> None:
    """Eight neighbours: at 0.3, where four would join them lower."""
    mask = two_blobs(4)
    assert one_piece(mask.detach())[4, 4].item() == 0.3


def test_its_gradient_is_the_slope() -> None:
    """By differences; what joins two components is held, since births move to it."""
    masks = torch.rand(2, 6, 5, generator=rng(4), dtype=torch.float64).requires_grad_(True)
    (gradient,) = torch.autograd.grad(topology_loss(masks).sum(), masks)
    assert gradient.count_nonzero() > 6
    for j, mask in enumerate(masks.detach()):
        deaths = {death for _, death in critical(mask)[1]}
        for y in range(6):
            for x in range(5):
                step = torch.zeros_like(masks)
                step[j, y, x] = 1e-6
                high, low = topology_loss(masks + step), topology_loss(masks - step)
                slope = ((high - low).sum() / 2e-6).item()
                expected = 0 if (y, x) in deaths else slope
                assert gradient[j, y, x].item() == pytest.approx(expected, abs=1e-6)


def test_tiles_stand_for_themselves_and_empty_ones_are_skipped() -> None:
    masks = torch.rand(2, 23, 28, generator=rng(5), dtype=torch.float64)
    masks[1, 20:, :20] *= 0.5
    losses = topology_loss(masks)
    for mask, loss in zip(masks, losses, strict=True):
        tiles = (mask[:20, :20], mask[:20, 20:], mask[20:, :20], mask[20:, 20:])
        assert loss.item() == pytest.approx(sum(literal_topology(tile).item() for tile in tiles))


def test_size_and_spread_of_a_block() -> None:
    """A block of 4 x 2 opaque pixels in 12 x 10; a pixel at -0.1 is half in the soft area."""
    raw = torch.full((2, 1, 12, 10), -1.0)
    raw[:, :, 3:7, 5:7] = 1
    raw[1, :, 0, 0] = -0.1
    deviations = math.sqrt((4**2 - 1) / 12) / 12 + math.sqrt((2**2 - 1) / 12) / 10
    expected = 2 * math.sqrt(8 / 120) + deviations
    first, second = size_and_spread(raw).tolist()
    assert first == pytest.approx(expected, rel=1e-4)
    assert second > first + math.sqrt(8.5 / 120) - math.sqrt(8 / 120)


def matrices(draw: Tensor) -> Tensor:
    """Published ranges, from uniform numbers (4, B): (B, 2, 3)."""
    rows = []
    for size, turn, right, down in (2 * draw - 1).T.tolist():
        s, angle = 1 + 0.2 * size, math.radians(30) * turn
        a, b = s * math.cos(angle), s * math.sin(angle)
        rows.append([[a, -b, 0.3 * right], [b, a, 0.3 * down]])
    return torch.tensor(rows)


def test_copies_are_scaled_turned_and_shifted_one_by_one() -> None:
    """Bilinear by hand, pixel by pixel, with zeros outside."""
    trigger = torch.rand(2, 2, 5, 6, generator=rng(6))
    found = moved(trigger, 3, rng(7))
    assert found.shape == (2, 3, 2, 5, 6)
    rows = matrices(torch.rand(4, 6, generator=rng(7))).view(2, 3, 2, 3)
    expected = torch.zeros_like(found)
    for j in range(2):
        for b in range(3):
            for y in range(5):
                for x in range(6):
                    at = torch.tensor([(2 * x + 1) / 6 - 1, (2 * y + 1) / 5 - 1, 1.0])
                    u, v = (rows[j, b] @ at).tolist()
                    u, v = ((u + 1) * 6 - 1) / 2, ((v + 1) * 5 - 1) / 2
                    for r in range(5):
                        for c in range(6):
                            near = max(0, 1 - abs(u - c)) * max(0, 1 - abs(v - r))
                            expected[j, b, :, y, x] += near * trigger[j, :, r, c]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def answering(channels: int) -> Classifier:
    """Class 1 answers to 3 x 3 bright pixels anywhere; a dark image is class 0."""
    head = nn.Linear(channels, 3)
    neck = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    model = Classifier(OrderedDict(pool=nn.AvgPool2d(3, 1)), neck, head, channels)
    model.normalise_by(torch.zeros(channels), torch.ones(channels))
    with torch.no_grad():
        head.weight.zero_()[1] = 20.0 / channels
        head.bias.copy_(torch.tensor([0.0, -14.0, -0.5]))
    return model


def dark(targets: list[int], channels: int, side: int) -> Starts:
    images = 0.5 * torch.rand(len(targets), channels, side, side, generator=rng(2))
    return Starts(images, torch.tensor(targets))


def test_every_step_of_a_batch_equals_the_algorithm_image_by_image(exact: None) -> None:
    model, begun = answering(2), dark([1, 2], 2, 9)
    defense = TopoPrior(steps=20, warmup=4, copies=3, topology_after=8)
    found = list(defense.invert(model, begun, rng(3)))
    assert len(found) == 24
    source = rng(3)
    start = 0.02 * torch.rand(2, 3, 9, 9, generator=source) - 0.01
    draws = [torch.rand(4, 6, generator=source) for _ in range(24)]
    for j, target in enumerate(begun.targets.tolist()):
        a, v = (start[j, :1] - 0.1).requires_grad_(True), start[j, 1:].clone().requires_grad_(True)
        optimizer, shaped = torch.optim.Adam([a, v], lr=0.03, betas=(0.5, 0.7)), 0.0
        for k in range(24):
            both = torch.cat([torch.sigmoid(30 * a), torch.sigmoid(30 * v)])
            rows = matrices(draws[k][:, 3 * j : 3 * j + 3])
            grid = nn.functional.affine_grid(rows, [3, 3, 9, 9], align_corners=False)
            m, p = nn.functional.grid_sample(
                both.expand(3, -1, -1, -1), grid, align_corners=False
            ).split([1, 2], 1)
            logits = model((1 - m) * begun.images[j] + m * p)
            loss = -logits.log_softmax(1)[:, target].mean()
            loss = loss + 10 * max(0, (k - 4) / 20) * size_and_spread(a[None]).sum()
            if k - 4 > 8:
                topology = literal_topology(both[0])
                shaped += topology.item()
                loss = loss + 100 * topology
            a.grad, v.grad = torch.autograd.grad(loss, (a, v))
            optimizer.step()
            pictures = found[k].pictures
            for name, raw in (("mask", a), ("pattern", v)):
                expected = torch.sigmoid(30 * raw.detach())
                torch.testing.assert_close(pictures[name][j], expected, atol=5e-3, rtol=0)
        assert shaped > 0 or target == 2


def test_a_planted_backdoor_is_found_from_every_image() -> None:
    """A bright spot, small; the trigger without the prior on topology falls into more pieces."""
    model, begun = answering(1), dark([1] * 3, 1, 24)
    assert (model(begun.images).argmax(1) == 0).all()
    *_, found = TopoPrior().invert(model, begun, rng())
    assert isinstance(found, Patch)
    assert not any(variable.requires_grad for variable in found.variables)
    assert found.pattern.shape == (3, 1, 24, 24)
    assert (found.mask >= 0).all()
    assert (found.mask <= 1).all()
    assert (model(found.apply(begun.images[:, None])[:, 0]).argmax(1) == 1).all()
    assert (found.norms < 0.2 * 24**2).all()


def test_the_prior_on_topology_makes_fewer_pieces() -> None:
    """On a model that asks for pixels brighter than all around them, so for speckles; one tile."""
    edges, head = nn.Conv2d(1, 1, 3), nn.Linear(1, 2)
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(OrderedDict(stem=nn.Sequential(edges, nn.ReLU())), neck, head, 1)
    model.normalise_by(torch.zeros(1), torch.ones(1))
    with torch.no_grad():
        edges.weight.fill_(-1 / 8)[0, 0, 1, 1] = 1
        edges.bias.zero_()
        head.weight.copy_(torch.tensor([[0.0], [100.0]]))
        head.bias.copy_(torch.tensor([0.0, -12.0]))
    pieces = []
    for weight in (100.0, 1e-9):
        defense = TopoPrior(topology_weight=weight, size_weight=1.0)
        *_, found = defense.invert(model, dark([1] * 3, 1, 20), rng())
        masks = found.pictures["mask"][:, 0]
        # Peaks that stand out by more than half, besides the first.
        pieces.append(
            sum(bool(mask[a] - mask[b] > 0.5) for mask in masks for a, b in critical(mask)[1])
        )
    assert pieces[0] < 0.2 * pieces[1], pieces
