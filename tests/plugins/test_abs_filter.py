"""ABS's filters against loops over windows, its loss by hand, and a planted backdoor."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from seeds import rng
from test_abs import SIDE, by_rows
from torch import Tensor, nn

from backdoor_defenses.abs_filter import Filter, FilterABS
from backdoor_defenses.similarity import structural_similarity
from backdoor_defenses.stimulation import activation_weights
from benchmark.classifier import Classifier
from benchmark.images import TrustedData
from benchmark.inversion import FrozenClassifier

CLASSES, TARGET = 4, 2


@pytest.mark.parametrize(("channels", "window"), [(3, 1), (3, 4), (1, 5), (2, 12)])
def test_a_filter_is_a_linear_map_of_pixel_and_window(channels: int, window: int) -> None:
    """12 numbers to 3 in colour; windows repeat the outermost pixels."""
    images = torch.rand(2, channels, 7, 6, generator=rng())
    trigger = Filter(0.4 * torch.randn(3, channels, 4 * channels, generator=rng(1)), window)
    found = trigger.apply(images)
    before = (window - 1) // 2
    for j, b, y, x in product(range(3), range(2), range(7), range(6)):
        around = [
            images[b, :, min(max(y + dy - before, 0), 6), min(max(x + dx - before, 0), 5)]
            for dy, dx in product(range(window), range(window))
        ]
        stacked = torch.stack(around)
        described = torch.cat(
            [images[b, :, y, x], stacked.amax(0), stacked.amin(0), stacked.mean(0)]
        )
        wanted = (trigger.weights[j] @ described).clamp(0, 1)
        torch.testing.assert_close(found[j, b, :, y, x], wanted, atol=1e-5, rtol=0)
    own = torch.stack([images, 1 - images, images / 2])
    each = torch.stack([trigger.apply(part)[j] for j, part in enumerate(own)])
    torch.testing.assert_close(trigger.apply(own), each)


def test_the_identity_changes_nothing_and_has_no_norm() -> None:
    images = torch.rand(2, 3, 5, 5, generator=rng())
    still = Filter(Filter.identity(3, images.device)[None], 3)
    torch.testing.assert_close(still.apply(images)[0], images)
    assert still.norms.tolist() == [0]
    moved = Filter(still.weights + 0.5, 3)
    assert moved.norms.tolist() == [0.5 * 36]


def bright() -> Classifier:
    """Class c is the brightness of row c; where an image is bright as a whole, TARGET fires."""
    conv = nn.Conv2d(1, 2, SIDE, padding="same", padding_mode="circular")
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, (SIDE - 1) // 2, (SIDE - 1) // 2] = 1
        conv.weight[1] = 1 / SIDE**2
        conv.bias.copy_(torch.tensor([0.0, -0.5]))  # type: ignore[union-attr]
    return by_rows(conv, CLASSES, TARGET, 9.0)


def rows(count: int = 60) -> TrustedData:
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(40, 90, (count, 1, SIDE, SIDE), generator=rng())
    pixels[torch.arange(count), 0, labels] += 120
    return TrustedData(pixels.byte(), labels)


def test_the_loss_is_minimised_as_written() -> None:
    """- activation + others - logit + weight * (1 - SSIM) below the limit, mean of the batch."""
    model, data = bright(), rows(12)
    defense = FilterABS(steps=3, batch_size=4, window=3, similarity=1.0, similarity_weight=7.0)
    weights = activation_weights(torch.tensor([1]), [2], 0.01)
    found = defense.reverse(
        FrozenClassifier(model, "float32"), data, torch.tensor([TARGET]), weights, rng(5)
    )
    draw = rng(5)
    start = torch.eye(1, 4) + 0.05 * torch.randn(1, 1, 4, generator=draw)
    variable = start.requires_grad_()
    optimizer = torch.optim.Adam([variable], 0.02, (0.5, 0.9))
    batches = data.batches(4, draw)
    for _ in range(3):
        images, _ = next(batches)
        total: Tensor = torch.tensor(0.0)
        for image in images:
            triggered = Filter(variable, 3).apply(image[None])[0]
            maps = model.stage_maps(triggered)["only"][0]
            total = total - maps[1].sum() + 0.01 * maps[0].sum()
            total = total - defense.logit_weight * model(triggered)[0, TARGET]
            total = total + 7 * (1 - structural_similarity(image[None], triggered)[0])
        optimizer.zero_grad()
        (total / 4).backward()
        optimizer.step()
    torch.testing.assert_close(found.variables[0], variable.detach(), atol=1e-3, rtol=1e-3)


def test_a_backdoor_for_bright_images_is_found() -> None:
    model, data = bright(), rows()
    assert (model(data.images).argmax(1) == data.labels).all()
    found = FilterABS(steps=100, similarity=0.3, logit_weight=1.0).detect(model, data, rng())
    assert found.flagged is True
    assert found.class_scores.argmax() == TARGET
    assert isinstance(found.trigger, Filter)
    triggered = found.trigger.apply(data.images)[TARGET]
    assert (model(triggered).argmax(1) == TARGET).float().mean() > 0.9
    absent = found.class_scores == 0
    assert absent.any()
    assert (found.trigger.norms[absent] == 0).all()
    again = FilterABS(steps=100, similarity=0.3, logit_weight=1.0).detect(model, data, rng())
    assert torch.equal(found.trigger.weights, again.trigger.weights)  # type: ignore[union-attr]
