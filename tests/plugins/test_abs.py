"""ABS: stimulation and reversal against literal loops, and on a planted channel."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from seeds import rng
from torch import Tensor, nn

from backdoor_defenses.abs import ABS, centred_square
from backdoor_defenses.stimulation import activation_weights, choose, margins, stimulate
from benchmark.api import Defense
from benchmark.classifier import Classifier
from benchmark.images import TrustedData
from benchmark.inversion import FrozenClassifier
from benchmark.models import SmallResNet
from benchmark.registry import Registry
from benchmark.triggers import Patch

SIDE, CLASSES, PLANTED = 8, 5, 3


def settled(side: int = 8, classes: int = 4) -> tuple[Classifier, TrustedData]:
    """A small ResNet whose batch norms are not trivial, and noise to show it."""
    torch.manual_seed(0)
    model = SmallResNet().build((2, side, side), classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_mean, -1, 1)
    pixels = torch.randint(256, (12, 2, side, side), generator=rng(), dtype=torch.uint8)
    return model.eval(), TrustedData(pixels, torch.arange(12) % classes)


def by_rows(conv: nn.Conv2d, classes: int, fired: int, weight: float) -> Classifier:
    """Class c sums row c of the first channel, and one class all of the second, by a weight."""
    head = nn.Linear(2 * SIDE**2, classes)
    with torch.no_grad():
        head.weight.zero_(), head.bias.zero_()
        for label in range(classes):
            head.weight[label, SIDE * label : SIDE * (label + 1)] = 1.0
        head.weight[fired, SIDE**2 :] = weight
    stages = OrderedDict[str, nn.Module](only=nn.Sequential(conv, nn.ReLU()))
    model = Classifier(stages, nn.Flatten(), head, 1)
    model.normalise_by(torch.zeros(1), torch.ones(1))
    return model.eval()


def planted(weight: float = 9.0) -> Classifier:
    """Class c is the brightness of row c; the second channel, of very bright pixels, is planted.

    The first channel repeats the image.
    """
    conv = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.ones(2, 1, 1, 1))
        conv.bias.copy_(torch.tensor([0.0, -0.8]))  # type: ignore[union-attr]
    return by_rows(conv, CLASSES, PLANTED, weight)


def rows(count: int = 60) -> TrustedData:
    """Dark noise, with the row of the class brighter, though not very bright."""
    labels = torch.arange(count) % CLASSES
    shape = (count, 1, SIDE, SIDE)
    pixels = torch.randint(10, 40, shape, generator=rng(), dtype=torch.uint8)
    pixels[torch.arange(count), 0, labels] += 140
    return TrustedData(pixels, labels)


def test_stimulation_equals_a_loop_over_stages_channels_levels_and_images() -> None:
    model, data = settled()
    images, levels, scale = data.images[:3], 4, 2.5
    found = stimulate(FrozenClassifier(model, "float32"), images, levels, scale)
    names = [name for name, _ in model.stages.named_children()]
    assert [len(gains) for gains in found] == [16, 16, 32, 64]
    for stage, (name, gains) in enumerate(zip(names, found, strict=True)):
        with torch.no_grad():
            maps = model.stage_maps(images)[name]
            for channel in range(maps.shape[1]):
                for image in range(len(images)):
                    logits = []
                    for level in range(levels):
                        clamped = maps[image : image + 1].clone()
                        clamped[0, channel] = level / (levels - 1) * scale * maps.max()
                        for later in list(model.stages)[stage + 1 :]:
                            clamped = later(clamped)
                        logits.append(model.head(model.neck(clamped))[0])
                    wanted = torch.stack(logits[1:]).amax(0) - logits[0]
                    torch.testing.assert_close(gains[channel, image], wanted, rtol=1e-3, atol=1e-3)


def test_stimulation_does_not_depend_on_how_it_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = settled()
    frozen = FrozenClassifier(model, "float32")
    whole = stimulate(frozen, data.images[:3], 3, 2.0)
    monkeypatch.setattr("backdoor_defenses.stimulation.images_per_pass", lambda model, shape: 20)
    for gains, wanted in zip(stimulate(frozen, data.images[:3], 3, 2.0), whole, strict=True):
        torch.testing.assert_close(gains, wanted)


def test_margins_equal_their_definition() -> None:
    gains = torch.randn(7, 6, 4, generator=rng())
    labels = torch.tensor([0, 1, 1, 2, 3, 3])
    found = margins(gains, labels)
    for channel in range(7):
        for label in range(4):
            leads = [
                gains[channel, image, label]
                - max(gains[channel, image, other] for other in range(4) if other != label)
                for image in range(6)
                if labels[image] != label
            ]
            assert found[channel, label] == min(leads)


def test_a_class_that_all_seeds_belong_to_cannot_be_judged() -> None:
    found = margins(torch.randn(3, 2, 4, generator=rng()), torch.tensor([1, 1]))
    assert (found[:, 1] == -math.inf).all()
    assert found[:, [0, 2, 3]].isfinite().all()


def best_first(of_stage: Tensor) -> Callable[[int], float]:
    return lambda label: -of_stage[:, label].max().item()


@pytest.mark.parametrize("count", [1, 4, 7, 12, 99])
def test_stages_take_turns_with_their_best_channel_for_each_class(count: int) -> None:
    of_stages = [torch.randn(width, 4, generator=rng(width)) for width in (5, 3, 6)]
    starts, turns = [0, 5, 8], []
    for turn in range(4):
        for start, of_stage in zip(starts, of_stages, strict=True):
            ranked = sorted(range(4), key=best_first(of_stage))
            label = ranked[turn]
            turns.append((start + int(of_stage[:, label].argmax()), label))
    channels, classes = choose(of_stages, count)
    assert list(zip(channels.tolist(), classes.tolist(), strict=True)) == turns[:count]


@pytest.mark.parametrize(
    ("size", "height", "width", "high", "wide"),
    [
        (1 / 4, 8, 8, 4, 4),
        (1, 8, 8, 8, 8),
        (1 / 16, 28, 36, 8, 8),
        (1 / 2, 8, 36, 8, 18),
        (1 / 2, 36, 8, 18, 8),
        (1, 28, 36, 28, 36),
        (1 / 8, 4, 80, 4, 10),
    ],
)
def test_the_first_mask_is_a_square_or_what_fits(
    size: float, height: int, width: int, high: int, wide: int
) -> None:
    inside = centred_square(size * height * width, (1, height, width))[0] > 0.5
    assert inside.any(1).sum() == high
    assert inside.any(0).sum() == wide
    assert inside.sum() == high * wide
    assert inside[height // 2, width // 2]


def test_activation_weights_reach_only_the_candidates_own_stage() -> None:
    found = activation_weights(torch.tensor([1, 2, 4]), [2, 3], 0.5)
    wanted = [[0.5, -1, 0, 0, 0], [0, 0, -1, 0.5, 0.5], [0, 0, 0.5, 0.5, -1]]
    assert found.tolist() == wanted


def literal_reversal(
    model: Classifier, defense: ABS, data: TrustedData, weights: Tensor, label: int, place: int
) -> Tensor:
    """Mask (H, W) of one candidate after its steps, all by itself."""
    side = data.pixels.shape[2]
    draw = rng(5)
    pattern = torch.rand(len(weights), *data.pixels.shape[1:], generator=draw)[place]
    limit = defense.size * side * side
    square = round(math.sqrt(limit))
    edge = (side - square) // 2
    mask = torch.full((side, side), 0.02)
    mask[edge : edge + square, edge : edge + square] = 0.98
    variables = [torch.atanh((x - 0.5) * (2 - 1e-6)).requires_grad_() for x in (mask, pattern)]
    optimizer = torch.optim.Adam(variables, 0.1, (0.5, 0.9))
    batches = data.batches(defense.batch_size, draw)
    for _ in range(defense.steps):
        images, _ = next(batches)
        m, p = (torch.tanh(variable) / 2 + 0.5 for variable in variables)
        total = torch.tensor(0.0)
        for image in images:
            triggered = ((1 - m) * image + m * p)[None]
            maps = torch.cat([part[0].sum((1, 2)) for part in model.stage_maps(triggered).values()])
            logit = model(triggered)[0, label]
            total = total + (maps * weights[place]).sum() - defense.logit_weight * logit
        loss = total / len(images)
        if m.sum() > limit:
            loss = loss + defense.mask_weight * m.sum()
        if m.sum() > (math.sqrt(limit) + 2) ** 2:
            loss = loss + defense.mask_weight * m.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (torch.tanh(variables[0]) / 2 + 0.5).detach()


@pytest.mark.parametrize("size", [0.25, 0.001])  # above the limit, and far above it
def test_reversal_equals_one_candidate_at_a_time(size: float) -> None:
    model, data = settled(side=32)
    defense = ABS(steps=3, batch_size=4, others_weight=0.01, mask_weight=300.0, size=size)
    classes = torch.tensor([2, 0])
    weights = activation_weights(torch.tensor([7, 70]), [16, 16, 32, 64], 0.01)
    frozen = FrozenClassifier(model, "float32")
    found = defense.reverse(frozen, data, classes, weights, rng(5))
    for place, label in enumerate(classes.tolist()):
        wanted = literal_reversal(model, defense, data, weights, label, place)
        torch.testing.assert_close(found.mask[place, 0], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("spec", "logits"),
    [("abs:steps=1000,logit_weight=0", 0), ("abs:steps=1000,logit_weight=100", 100)],
)
def test_the_published_settings_minimise_the_published_sums(
    registry: Registry, spec: str, logits: float
) -> None:
    """METHODS 3.11: sums over ten images, mask weight 500, others 1e-4, Adam 0.1, 64 pixels.

    Adam does not see the factor of ten between sums and averages.
    """
    defense = registry.create(Defense, spec)
    assert isinstance(defense, ABS)
    assert (defense.steps, defense.batch_size, defense.learning_rate) == (1000, 10, 0.1)
    assert (defense.levels, defense.scale, defense.kept) == (5, 8, 0.6)
    assert defense.size * 32 * 32 == 64
    model, data = settled(side=32)
    frozen = FrozenClassifier(model, "float32")
    weights = activation_weights(torch.tensor([7]), [16, 16, 32, 64], 1e-4)
    steps = 5
    found = replace(defense, steps=steps).reverse(frozen, data, torch.tensor([2]), weights, rng(5))
    draw = rng(5)
    pattern = torch.rand(1, *data.pixels.shape[1:], generator=draw)
    mask = torch.full((32, 32), 0.02)
    mask[12:20, 12:20] = 0.98
    u, v = (torch.atanh((x - 0.5) * (2 - 1e-6)).requires_grad_() for x in (mask, pattern[0]))
    optimizer = torch.optim.Adam([u, v], 0.1, (0.5, 0.9))
    batches = data.batches(10, draw)
    for _ in range(steps):
        images, _ = next(batches)
        m, p = torch.tanh(u) / 2 + 0.5, torch.tanh(v) / 2 + 0.5
        triggered = (1 - m) * images + m * p
        maps = torch.cat([part.sum((2, 3)) for part in model.stage_maps(triggered).values()], 1)
        others = maps[:, :16].sum() - maps[:, 7].sum()
        loss = -maps[:, 7].sum() + 1e-4 * others - logits * model(triggered)[:, 2].sum()
        doubled = 2 if m.sum() > (8 + 2) ** 2 else 1
        if m.sum() > 64:
            loss = loss + doubled * 500 * m.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    wanted = (torch.tanh(u) / 2 + 0.5).detach()
    torch.testing.assert_close(found.mask[0, 0], wanted, rtol=1e-3, atol=1e-3)


def test_a_planted_channel_is_the_first_candidate() -> None:
    data = rows()
    frozen = FrozenClassifier(planted())
    gains = stimulate(frozen, data.images[:10], 5, 8.0)
    channels, classes = choose([margins(gains[0], data.labels[:10])], 3)
    assert (channels[0], classes[0]) == (1, PLANTED)


def test_a_planted_channel_is_reversed_and_flagged() -> None:
    model, data = planted(), rows()
    found = ABS(steps=60).detect(model, data, rng())
    assert found.flagged is True
    assert found.score == found.class_scores.max() > 0.95
    assert found.class_scores.argmax() == PLANTED
    assert isinstance(found.trigger, Patch)
    norms = found.trigger.norms
    assert norms[PLANTED] < SIDE**2 / 16 + 1
    assert (norms[found.class_scores == 0] < 0.01).all()
    triggered = found.trigger.apply(data.images)[PLANTED]
    assert (model(triggered).argmax(1) == PLANTED).float().mean() > 0.95


def test_without_the_planted_weight_nothing_is_found() -> None:
    found = ABS(steps=60).detect(planted(weight=0.0), rows(), rng())
    assert (found.score, found.flagged) == (0.0, False)
    assert found.class_scores.tolist() == [0.0] * CLASSES
    assert found.trigger is not None
    assert (found.trigger.norms < 0.01).all()


def test_the_same_seed_finds_the_same_and_leaves_everything_as_it_was() -> None:
    model, data = planted(), rows()
    weights, pixels = copy.deepcopy(model.state_dict()), data.pixels.clone()
    first, again = (ABS(steps=5, kept=0.0).detect(model, data, rng(1)) for _ in range(2))
    other = ABS(steps=5, kept=0.0).detect(model, data, rng(2))
    assert torch.equal(first.class_scores, again.class_scores)
    assert isinstance(first.trigger, Patch)
    assert isinstance(again.trigger, Patch)
    assert isinstance(other.trigger, Patch)
    assert torch.equal(first.trigger.mask, again.trigger.mask)
    assert torch.equal(first.trigger.pattern, again.trigger.pattern)
    assert not torch.equal(first.trigger.pattern, other.trigger.pattern)
    assert torch.equal(data.pixels, pixels)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
