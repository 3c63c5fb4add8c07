"""Batched trigger inversion against the original model, one trigger at a time and loops."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng
from stand_ins import STAND_INS
from torch import Tensor, nn

from benchmark import inversion
from benchmark.api import Architecture
from benchmark.classifier import Classifier
from benchmark.images import ImageSet, TrustedData
from benchmark.inversion import (
    FrozenClassifier,
    average,
    cross_entropy_to,
    hit_rate,
    logits_of,
    minimise,
    success,
    true_answers,
)
from benchmark.models import SmallResNet
from benchmark.registry import Registry
from benchmark.triggers import Additive, Patch, Trigger, unsquash

WITHOUT_BATCH_NORM = {"alexnet", "vit", "clip"}
ARCHITECTURES = [
    entry.plugin.name
    for entry in Registry().entries
    if entry.kind is Architecture and entry.origin.startswith("poisongames ")
]
SHAPE, CLASSES = (3, 16, 16), 7


def shaken(model: Classifier) -> Classifier:
    """The model with batch norms and a first layer that are anything but the identity."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    channels = model.mean.shape[1]
    model.normalise_by(torch.rand(channels), 0.1 + torch.rand(channels))
    return model.eval()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def suspect(architecture: str, registry: Registry) -> Classifier:
    torch.manual_seed(0)
    spec = STAND_INS.get(architecture, architecture)
    return shaken(registry.create(Architecture, spec).build(SHAPE, CLASSES))


@pytest.fixture(scope="module")
def frozen(suspect: Classifier) -> FrozenClassifier:
    return FrozenClassifier(suspect, "float32")


def images(count: int = 3, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=rng(2))


def check_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative to the largest value; there must be something to compare."""
    scale = expected.abs().max()
    # Gradients that come through fifty layers of random weights are small.
    assert scale > 1e-8
    assert found.shape == expected.shape
    assert (found.float() - expected).abs().max() <= tolerance * scale


# The frozen copy.


def test_all_first_party_architectures_are_tried() -> None:
    assert {"resnet-small", "resnet18-cifar", "resnet18", "wide-resnet50-2", "vgg16"} <= set(
        ARCHITECTURES
    )


def test_a_frozen_copy_answers_like_the_original(
    suspect: Classifier, frozen: FrozenClassifier
) -> None:
    """Logits, features and every stage's map."""
    with torch.no_grad():
        check_close(frozen(images()), suspect(images()), 1e-4)
        check_close(frozen.features(images()), suspect.features(images()), 1e-4)
        found, expected = frozen.stage_maps(images()), suspect.stage_maps(images())
    assert list(found) == list(expected)
    for name in expected:
        check_close(found[name], expected[name], 1e-4)


def test_a_frozen_copy_has_the_originals_gradients_of_images(
    suspect: Classifier, frozen: FrozenClassifier
) -> None:
    gradients = []
    for model in (frozen, suspect):
        x = images(2).requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(x).log_softmax(1)[:, 3].sum(), x)
        gradients.append(gradient)
    # A unit that is zero but for rounding may fall on either side of its ReLU.
    check_close(*gradients, 0.03)


def test_a_frozen_copy_has_nothing_left_to_train(
    architecture: str, suspect: Classifier, frozen: FrozenClassifier
) -> None:
    """No weight takes a gradient, no batch norm behind a convolution remains, no drop-out."""
    assert not [name for name, p in frozen.named_parameters() if p.requires_grad]
    for block in frozen.modules():
        if isinstance(block, nn.Sequential):
            # Behind a maximum it has to stay: a negative scale would make it a minimum.
            for before, layer in pairwise(block):
                if isinstance(layer, nn.BatchNorm2d):
                    assert isinstance(before, nn.MaxPool2d)
    assert not [module for module in frozen.modules() if module.training]
    norms = [module for module in suspect.modules() if isinstance(module, nn.BatchNorm2d)]
    assert bool(norms) == (architecture not in WITHOUT_BATCH_NORM)


def test_freezing_leaves_the_original_as_it_is(suspect: Classifier) -> None:
    """Also its modes: here it is being trained, and one weight is held fast."""
    model = copy.deepcopy(suspect).train()
    model.head.eval()
    model.head.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    names = [name for name, _ in model.named_modules()]
    frozen = FrozenClassifier(model, "float32")
    with torch.no_grad():
        check_close(frozen(images()), suspect(images()), 1e-4)
        for parameter in frozen.parameters():
            parameter.zero_()
    assert [name for name, _ in model.named_modules()] == names
    assert [module for module in model.modules() if not module.training] == [model.head]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bfloat16_stays_near_and_answers_in_float32(
    suspect: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    frozen = FrozenClassifier(suspect)
    with torch.no_grad():
        found, expected = frozen(images()), suspect(images())
    assert found.dtype == torch.float32
    assert {p.dtype for p in frozen.stages.parameters()} == {torch.bfloat16}
    check_close(found, expected, 0.05)


class Stage(nn.Module):
    """A convolution with batch norm; what follows is the subclass's business."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def both(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(hidden))
        return out


class Branches(Stage):
    """Takes a branch that depends on the data."""

    def forward(self, hidden: Tensor) -> Tensor:
        return self.both(hidden) if hidden.mean() > 0 else -self.both(hidden)


class Counts(Stage):
    """Loops over the images of the batch."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([self.both(hidden[i : i + 1]) for i in range(hidden.shape[0])])


class Measures(Stage):
    """Turns a size into a number."""

    def forward(self, hidden: Tensor) -> Tensor:
        return self.both(hidden) / float(hidden.shape[-1])


class Shares(Stage):
    """Uses one convolution twice, with a batch norm for each use."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(3)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.other(self.conv(self.both(hidden).relu()))
        return out


class Counted(Stage):
    """Normalises by the batch's own statistics, even in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.both(hidden)


def with_stage(stage: nn.Module) -> Classifier:
    torch.manual_seed(0)
    for module in stage.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    stages = OrderedDict[str, nn.Module](odd=stage)
    return Classifier(stages, nn.Flatten(), nn.Linear(3 * 36, 4), 3).eval()


@pytest.mark.parametrize("kind", [Branches, Counts, Measures, Shares, Counted])
def test_an_unusual_stage_is_either_folded_rightly_or_kept(kind: type[Stage]) -> None:
    """Control flow by data or sizes, and layers for which folding would be wrong."""
    model = with_stage(kind())
    x = images(5, (3, 6, 6))
    frozen = FrozenClassifier(model, "float32")
    with torch.no_grad():
        for batch in (x, x[:2], x * 0.01):
            check_close(frozen(batch), model(batch), 1e-4)


def test_a_branch_by_data_is_still_taken_in_the_frozen_copy() -> None:
    """The copy did not remember the branch of an earlier batch."""
    model = with_stage(Branches())
    frozen = FrozenClassifier(model, "float32")
    dark, bright = torch.full((1, 3, 6, 6), 0.1), torch.full((1, 3, 6, 6), 0.9)
    with torch.no_grad():
        for batch in (dark, bright, dark):
            check_close(frozen(batch), model(batch), 1e-4)
            straight = model.stages.odd.both((batch - model.mean) / model.std)
            sign = 1 if batch is bright else -1
            check_close(frozen.stage_maps(batch)["odd"], sign * straight, 1e-4)


# Triggers.

unit = st.floats(0, 1, width=32)
anything = st.floats(-1e6, 1e6, width=32)


@settings(deadline=None)
@given(unit)
def test_unsquash_undoes_the_squashing(value: float) -> None:
    raw = unsquash(torch.tensor(value))
    assert raw.isfinite()
    assert math.tanh(raw.item()) / 2 + 0.5 == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_patch_is_blended_pixel_by_pixel(channels: int) -> None:
    """x' = (1 - m) x + m p, the mask shared by the channels."""
    trigger = Patch.random(4, (channels, 3, 5), rng())
    x = torch.rand(2, channels, 3, 5, generator=rng(1))
    found = trigger.apply(x)
    mask, pattern = trigger.mask.tolist(), trigger.pattern.tolist()
    assert found.shape == (4, 2, channels, 3, 5)
    for j in range(4):
        for b in range(2):
            for c in range(channels):
                for row in range(3):
                    for column in range(5):
                        m, p = mask[j][0][row][column], pattern[j][c][row][column]
                        old = x[b, c, row, column].item()
                        new = (1 - m) * old + m * p
                        assert found[j, b, c, row, column].item() == pytest.approx(new, abs=1e-6)


def test_a_sum_is_added_and_clipped_pixel_by_pixel() -> None:
    trigger = Additive(2 * torch.rand(3, 2, 3, 4, generator=rng()) - 1)
    x = torch.rand(2, 2, 3, 4, generator=rng(1))
    found = trigger.apply(x)
    clipped = 0
    for j in range(3):
        for b in range(2):
            for index in range(2 * 3 * 4):
                raw = x[b].flatten()[index].item() + trigger.sum[j].flatten()[index].item()
                new = min(max(raw, 0.0), 1.0)
                clipped += new != raw
                assert found[j, b].flatten()[index].item() == pytest.approx(new, abs=1e-6)
    assert clipped > 5


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(anything, anything, unit), min_size=1, max_size=8))
def test_whatever_the_variables_triggered_images_are_images(
    values: list[tuple[float, float, float]],
) -> None:
    """In [0, 1] without any tolerance, mask and pattern too."""
    one, other, pixels = (
        torch.tensor(column).view(1, 1, 1, -1) for column in zip(*values, strict=True)
    )
    patch = Patch(torch.zeros_like(one), torch.zeros_like(one))
    patch.variables = [one, other]
    for found in (
        patch.mask,
        patch.pattern,
        patch.apply(pixels),
        Additive(one).apply(pixels),
        Additive(one / 1e6).apply(pixels),
    ):
        assert ((found >= 0) & (found <= 1)).all()


@settings(deadline=None)
@given(st.lists(st.tuples(unit, unit, unit), min_size=1, max_size=8))
def test_a_patch_of_given_mask_and_pattern_lies_between_image_and_pattern(
    values: list[tuple[float, float, float]],
) -> None:
    mask, pattern, pixels = (
        torch.tensor(column).view(1, 1, 1, -1) for column in zip(*values, strict=True)
    )
    patch = Patch(mask, pattern)
    torch.testing.assert_close(patch.mask, mask, atol=2e-6, rtol=0)
    torch.testing.assert_close(patch.pattern, pattern, atol=2e-6, rtol=0)
    found = patch.apply(pixels)[0]
    assert (found >= torch.minimum(pixels, pattern) - 3e-6).all()
    assert (found <= torch.maximum(pixels, pattern) + 3e-6).all()


def test_norms_add_up_what_a_trigger_changes() -> None:
    """A mask counts once however many channels there are; a sum counts with its sign off."""
    patch = Patch.random(3, (3, 4, 5), rng())
    plus = Additive(torch.randn(3, 3, 4, 5, generator=rng()))
    for j in range(3):
        mask = math.fsum(patch.mask[j].flatten().tolist())
        assert patch.norms[j].item() == pytest.approx(mask, rel=1e-5)
        total = math.fsum(abs(value) for value in plus.sum[j].flatten().tolist())
        assert plus.norms[j].item() == pytest.approx(total, rel=1e-5)


def test_pictures_are_what_was_optimised() -> None:
    patch, plus = Patch.random(2, (3, 4, 5), rng()), Additive.random(2, (3, 4, 5), rng())
    assert {name: tuple(p.shape) for name, p in patch.pictures.items()} == {
        "mask": (2, 1, 4, 5),
        "pattern": (2, 3, 4, 5),
    }
    assert {name: tuple(p.shape) for name, p in plus.pictures.items()} == {"sum": (2, 3, 4, 5)}
    black = torch.zeros(1, 3, 4, 5)
    blended = patch.pictures["mask"] * patch.pictures["pattern"]
    torch.testing.assert_close(patch.apply(black)[:, 0], blended)
    torch.testing.assert_close(plus.apply(black)[:, 0], plus.pictures["sum"].clamp(0, 1))


def test_random_triggers_are_uniform_and_follow_their_generator() -> None:
    for kind, highest in ((Patch, 1.0), (Additive, 0.01)):
        first, again, other = (kind.random(8, (3, 16, 16), rng(s)) for s in (0, 0, 1))
        for name, values in first.pictures.items():
            assert torch.equal(values, again.pictures[name])
            assert not torch.equal(values, other.pictures[name])
            assert 0 <= values.min() < 0.01 * highest
            assert 0.99 * highest < values.max() <= highest * (1 + 1e-6)
            # Uniform: mean 1/2, deviation 1/sqrt(12); here within five standard errors.
            error = highest / math.sqrt(12 * values.numel())
            assert values.mean().item() == pytest.approx(highest / 2, abs=5 * error)
            assert values.std().item() == pytest.approx(highest / math.sqrt(12), rel=0.05)


# Losses and rates per trigger.


@st.composite
def judged(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (J, B, K) with many ties, classes (J,) or (J, B), and which images count."""
    j, b, k = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(2, 4))
    own = rng(draw(st.integers(0, 2**31)))
    logits = torch.randint(-3, 4, (j, b, k), generator=own).float()
    of_images = draw(st.booleans())
    classes = torch.randint(k, (j, b) if of_images else (j,), generator=own)
    counted = torch.rand(j, b, generator=own) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return logits, classes, counted


def wanted(classes: Tensor, j: int, b: int) -> int:
    return int(classes[j] if classes.ndim == 1 else classes[j, b])


@settings(deadline=None, max_examples=150)
@given(judged(), st.booleans())
def test_losses_and_rates_are_means_over_the_images_that_count(
    case: tuple[Tensor, Tensor, Tensor], masked: bool
) -> None:
    """Zero where no image counts; the first class of those that tie is the answer."""
    logits, classes, counted = case
    mask = counted if masked else None
    losses, rates = cross_entropy_to(logits, classes, mask), hit_rate(logits, classes, mask)
    values = torch.randn(logits.shape[:2], generator=rng())
    means = average(values, mask)
    assert losses.shape == rates.shape == means.shape == (len(logits),)
    for j in range(logits.shape[0]):
        loss = hits = total = 0.0
        number = 0
        for b in range(logits.shape[1]):
            if masked and not counted[j, b]:
                continue
            row, label = logits[j, b].tolist(), wanted(classes, j, b)
            loss += math.log(sum(map(math.exp, row))) - row[label]
            hits += row.index(max(row)) == label
            total += values[j, b].item()
            number += 1
        assert losses[j].item() == pytest.approx(loss / max(number, 1), abs=1e-5)
        assert rates[j].item() == pytest.approx(hits / max(number, 1), abs=1e-6)
        assert means[j].item() == pytest.approx(total / max(number, 1), abs=1e-5)


def test_images_that_do_not_count_send_no_gradient() -> None:
    logits = torch.randn(3, 4, 5, generator=rng(), requires_grad=True)
    counted = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    cross_entropy_to(logits, torch.tensor([0, 1, 2]), counted).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(2) > 0, counted)


def small(classes: int = 4) -> Classifier:
    torch.manual_seed(0)
    return shaken(SmallResNet().build((1, 8, 8), classes))


def test_logits_keep_triggers_and_images_apart() -> None:
    model, triggered = small(), torch.rand(3, 5, 1, 8, 8, generator=rng())
    with torch.no_grad():
        found = logits_of(model, triggered)
        assert found.shape == (3, 5, 4)
        for j in range(3):
            for b in range(5):
                expected = model(triggered[j, b][None])[0]
                torch.testing.assert_close(found[j, b], expected, rtol=1e-4, atol=1e-4)


def trusted(count: int = 23, classes: int = 4) -> TrustedData:
    pixels = torch.randint(256, (count, 1, 8, 8), generator=rng(3), dtype=torch.uint8)
    return TrustedData(pixels, torch.arange(count) % classes)


def literal_shares(
    model: Classifier, trigger: Trigger, classes: list[int], data: ImageSet
) -> tuple[list[float], list[float]]:
    """Shares of images of other classes put into the trigger's class, and of true answers."""
    reached, true = [], []
    for j, target in enumerate(classes):
        hits = right = others = 0
        for image, label in zip(data.images, data.labels.tolist(), strict=True):
            if label == target:
                continue
            others += 1
            with torch.no_grad():
                answer = int(model(trigger.apply(image[None])[j]).argmax())
            hits += answer == target
            right += answer == label
        reached.append(hits / max(others, 1))
        true.append(right / max(others, 1))
    return reached, true


@pytest.mark.parametrize("at_once", [1, 7, 30, 1000])
def test_success_and_true_answers_count_images_of_other_classes(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However many images are judged in one pass, down to fewer than there are triggers."""
    monkeypatch.setattr(inversion, "images_per_pass", lambda model, shape: at_once)
    model, data, classes = small(), trusted(), [2, 0, 3]
    # Answers that vary, so that there is something to count.
    with torch.no_grad():
        logits = model(data.images)
        model.head.bias.sub_(logits.mean(0))
    trigger = Patch(torch.full((3, 1, 8, 8), 0.2), torch.rand(3, 1, 8, 8, generator=rng()))
    reached, true = literal_shares(model, trigger, classes, data)
    assert len({0.0, 1.0, *reached, *true}) > 4
    found = success(model, trigger, torch.tensor(classes), data)
    assert found.tolist() == pytest.approx(reached, abs=1e-6)
    found = true_answers(model, trigger, torch.tensor(classes), data)
    assert found.tolist() == pytest.approx(true, abs=1e-6)


def test_without_images_of_other_classes_nothing_succeeds() -> None:
    data = trusted(8, 1)
    trigger = Additive(torch.zeros(2, 1, 8, 8))
    found = success(small(), trigger, torch.tensor([0, 1]), data)
    assert found[0] == 0
    assert true_answers(small(), trigger, torch.tensor([0, 1]), data)[0] == 0


# Optimisation.


@pytest.mark.parametrize("betas", [(0.5, 0.9), (0.6, 0.95)])
def test_minimise_is_adam_by_its_definition(betas: tuple[float, float]) -> None:
    """Kingma and Ba, alg. 1, number by number, on losses of unlike size.

    The first betas are Neural Cleanse's, and what is taken where none are given.
    """
    one, two = betas
    start, goals = torch.randn(3, 1, 1, 4, generator=rng()), torch.tensor([0.3, -2.0, 50.0])
    trigger, done = Additive(start.clone()), []

    def losses() -> Tensor:
        return (trigger.sum.flatten(1) - goals[:, None]).square().sum(1)

    given = {} if betas == (0.5, 0.9) else {"betas": betas}
    minimise(trigger, losses, steps=9, learning_rate=0.1, after=lambda s: done.append(s), **given)
    assert done == list(range(1, 10))
    assert not trigger.sum.requires_grad
    for j in range(3):
        for index in range(4):
            value, mean, square = start[j].flatten()[index].item(), 0.0, 0.0
            for step in range(1, 10):
                slope = 2 * (value - goals[j].item())
                mean = one * mean + (1 - one) * slope
                square = two * square + (1 - two) * slope**2
                hat, root = mean / (1 - one**step), math.sqrt(square / (1 - two**step))
                value -= 0.1 * hat / (root + 1e-8)
            assert trigger.sum[j].flatten()[index].item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("falling", [False, True])
def test_a_falling_rate_reaches_zero_in_equal_steps(falling: bool) -> None:
    """With betas of zero Adam takes steps of its rate, whatever the gradient's size."""
    trigger, path = Additive(torch.zeros(1, 1, 1, 1)), []
    minimise(
        trigger,
        lambda: -7 * trigger.sum.flatten(1).sum(1),
        steps=4,
        learning_rate=1.0,
        betas=(0.0, 0.0),
        falling=falling,
        after=lambda step: path.append(trigger.sum.item()),
    )
    wanted = [1, 1.75, 2.25, 2.5] if falling else [1, 2, 3, 4]
    assert path == pytest.approx(wanted, rel=1e-6)


def test_an_inversion_ends_where_it_is_told_to() -> None:
    trigger, done = Additive(torch.ones(1, 1, 1, 1)), []

    def after(step: int) -> bool:
        done.append(step)
        return step == 3

    minimise(trigger, lambda: trigger.norms, steps=9, learning_rate=0.1, after=after)
    assert done == [1, 2, 3]


@pytest.mark.parametrize("kind", [Patch, Additive])
def test_some_rows_are_triggers_whose_gradients_reach_the_whole(
    kind: type[Patch] | type[Additive],
) -> None:
    whole, rows = kind.random(4, (2, 3, 5), rng()), torch.tensor([2, 0])
    images = torch.rand(3, 2, 3, 5, generator=rng(1))
    for variable in whole.variables:
        variable.requires_grad_(True)
    part = whole.take(rows)
    assert torch.equal(part.apply(images), whole.apply(images)[rows])
    assert torch.equal(part.norms, whole.norms[rows])
    part.apply(images).square().sum().backward()
    for variable in whole.variables:
        assert variable.grad is not None
        touched = variable.grad.flatten(1).abs().sum(1) > 0
        assert touched.tolist() == [True, False, True, False]


def patch_start(count: int) -> Patch:
    return Patch.random(count, (1, 8, 8), rng(5))


def additive_start(count: int) -> Additive:
    return Additive.random(count, (1, 8, 8), rng(5))


@pytest.mark.parametrize(
    ("start", "rate"), [(patch_start, 0.1), (additive_start, 0.01)], ids=["patch", "additive"]
)
def test_a_batch_of_inversions_takes_the_steps_of_separate_ones(
    start: Callable[[int], Trigger], rate: float
) -> None:
    """Same model, images and start, another norm weight for every trigger."""
    frozen = FrozenClassifier(small(5), "float32")
    classes, weights = torch.tensor([3, 0, 4, 1]), torch.tensor([0.0, 0.01, 0.1, 1.0])

    def batches() -> Iterator[Tensor]:
        own = rng(7)
        while True:
            yield 0.3 + 0.4 * torch.rand(6, 1, 8, 8, generator=own)

    def run(trigger: Trigger, rows: list[int]) -> list[Tensor]:
        drawn = batches()

        def losses() -> Tensor:
            logits = logits_of(frozen, trigger.apply(next(drawn)))
            return cross_entropy_to(logits, classes[rows]) + weights[rows] * trigger.norms

        minimise(trigger, losses, steps=15, learning_rate=rate)
        return list(trigger.pictures.values())

    together = run(start(4), [0, 1, 2, 3])
    moved = zip(together, start(4).pictures.values(), strict=True)
    assert all((after - before).abs().max() > 5 * rate * 0.2 for after, before in moved)
    for j in range(4):
        single = start(4)
        single.variables = [variable[j : j + 1].clone() for variable in single.variables]
        for all_of_them, alone in zip(together, run(single, [j]), strict=True):
            torch.testing.assert_close(all_of_them[j], alone[0], atol=1e-3, rtol=0)


def test_another_triggers_loss_does_not_matter() -> None:
    """One trigger's picture stays the same to the last bit when another one's weight changes."""
    found = []
    for weight in (0.0, 100.0):
        trigger = Additive(torch.rand(2, 1, 2, 2, generator=rng()))
        weights = torch.tensor([1.0, weight])
        minimise(
            trigger,
            lambda trigger=trigger, weights=weights: (  # type: ignore[misc]
                weights * (trigger.sum - 0.3).square().flatten(1).sum(1)
            ),
            steps=5,
            learning_rate=0.05,
        )
        found.append(trigger.sum)
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])
