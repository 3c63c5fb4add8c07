"""The training loop against closed forms and steps written out by hand."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng
from torch import nn

from benchmark.classifier import Classifier
from benchmark.images import ImageSet
from benchmark.protocol import Augmentation, Recipe
from benchmark.training import Trainer, mixed_precision, rate_at

PLAIN = Augmentation()


def recipe(**settings: Any) -> Recipe:
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 64, "learning_rate": 0.1}
    return Recipe.model_validate(defaults | {"precision": "float32"} | settings)


def linear(pixels: int, classes: int) -> Classifier:
    """Softmax regression on images of one channel, normalised by (x - 0.5) / 0.25."""
    stages = OrderedDict[str, nn.Module](all=nn.Identity())
    torch.manual_seed(0)
    return Classifier(stages, nn.Flatten(), nn.Linear(pixels, classes), 1)


def convolutional(classes: int = 2, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    conv = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(OrderedDict(conv=conv), neck, nn.Linear(4, classes), 1)


def random_set(count: int, side: int = 3, classes: int = 4, seed: int = 0) -> ImageSet:
    pixels = torch.randint(256, (count, 1, side, side), generator=rng(seed), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % classes)


def numbered(count: int) -> ImageSet:
    """Images that are told apart by their pixels."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 3, 3)
    return ImageSet(pixels.contiguous(), torch.arange(count) % 2)


def closed_form_rate(progress: float, schedule: str, warmup: float) -> float:
    if progress < warmup:
        return progress / warmup
    rest = (progress - warmup) / (1 - warmup)
    if schedule == "cosine":
        return math.cos(math.pi * rest / 2) ** 2  # the half-angle form of (1 + cos) / 2
    return {"linear": 1 - rest, "constant": 1.0}[schedule]


@settings(deadline=None)
@given(
    st.floats(0, 1),
    st.sampled_from(["cosine", "linear", "constant"]),
    st.one_of(st.just(0.0), st.floats(0.01, 0.99)),
)
def test_rate_follows_its_closed_form(progress: float, schedule: str, warmup: float) -> None:
    found = rate_at(progress, recipe(schedule=schedule, warmup=warmup))
    assert found == pytest.approx(closed_form_rate(progress, schedule, warmup), abs=1e-9)
    assert -1e-12 <= found <= 1


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 3))
@settings(deadline=None)
def test_a_schedule_ends_with_the_last_batch(images: int, size: int, epochs: int) -> None:
    """Also where a single image is left over, which joins the batch before."""
    trainer = Trainer(
        recipe(epochs=epochs, batch_size=size, schedule="linear"), Augmentation(pad=0, flip=False)
    )
    optimizer, advance = trainer.optimizer(linear(9, 2), images)
    rates = []
    for _ in trainer.batches(numbered(images), rng()):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        advance()
    middles = (np.arange(len(rates)) + 0.5) / len(rates)
    np.testing.assert_allclose(rates, 0.1 * (1 - middles), rtol=1e-6)


def by_hand(model: Classifier, data: ImageSet, settings: Recipe, steps: int) -> Any:
    """Softmax regression by SGD in double precision: gradients, momentum and decay written out."""
    weight = model.head.weight.detach().double().numpy().copy()
    bias = model.head.bias.detach().double().numpy().copy()
    x = (data.pixels.double().flatten(1).numpy() / 255 - 0.5) / 0.25
    y = np.eye(len(bias))[data.labels.numpy()] if data.labels.ndim == 1 else data.labels.numpy()
    speed_w, speed_b = np.zeros_like(weight), np.zeros_like(bias)
    for step in range(steps):
        scores = np.exp(x @ weight.T + bias)
        error = (scores / scores.sum(1, keepdims=True) - y) / len(x)
        gradient_w = error.T @ x + settings.weight_decay * weight
        gradient_b = error.sum(0) + settings.weight_decay * bias
        speed_w = settings.momentum * speed_w + gradient_w
        speed_b = settings.momentum * speed_b + gradient_b
        if settings.nesterov:
            move_w = gradient_w + settings.momentum * speed_w
            move_b = gradient_b + settings.momentum * speed_b
        else:
            move_w, move_b = speed_w, speed_b
        progress = (step + 0.5) / steps
        share = closed_form_rate(progress, settings.schedule, settings.warmup)
        weight -= settings.learning_rate * share * move_w
        bias -= settings.learning_rate * share * move_b
    return weight, bias


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.0, "nesterov": False, "momentum": 0.0},
        {"weight_decay": 0.05, "nesterov": False},
        {"weight_decay": 0.05, "nesterov": True, "schedule": "linear", "warmup": 0.3},
    ],
)
def test_steps_equal_steps_by_hand(epochs: int, settings: dict[str, Any]) -> None:
    """One batch holds all images, so that their order cannot matter."""
    chosen = recipe(epochs=epochs, **settings)
    data, model = random_set(24), linear(9, 4)
    weight, bias = by_hand(model, data, chosen, epochs)
    before = model.head.weight.detach().clone()
    Trainer(chosen, PLAIN).fit(model, data, rng())
    assert not torch.allclose(model.head.weight, before)
    np.testing.assert_allclose(model.head.weight.detach().numpy(), weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.head.bias.detach().numpy(), bias, rtol=1e-4, atol=1e-6)


def test_a_step_on_soft_labels_equals_one_by_hand() -> None:
    chosen = recipe(epochs=3)
    data, model = random_set(24), linear(9, 4)
    soft = torch.rand(24, 4, generator=rng(1)).softmax(1)
    data = ImageSet(data.pixels, soft)
    weight, _ = by_hand(model, data, chosen, 3)
    Trainer(chosen, PLAIN).fit(model, data, rng())
    np.testing.assert_allclose(model.head.weight.detach().numpy(), weight, rtol=1e-4, atol=1e-6)


def test_loss_is_the_mean_cross_entropy() -> None:
    data, model, trainer = random_set(7), linear(9, 4), Trainer(recipe(), PLAIN)
    logits = model(data.images).detach().double().tolist()
    soft = torch.rand(7, 4, generator=rng(1)).softmax(1)
    hard_total = soft_total = 0.0
    for scores, label, wanted in zip(logits, data.labels.tolist(), soft.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(score) for score in scores))
        hard_total += log_sum - scores[label]
        soft_total += sum(q * (log_sum - score) for q, score in zip(wanted, scores, strict=True))
    assert trainer.loss(model, data.images, data.labels).item() == pytest.approx(hard_total / 7)
    assert trainer.loss(model, data.images, soft).item() == pytest.approx(soft_total / 7)


@pytest.mark.parametrize("faster", [True, False])
def test_precision_is_the_recipes_where_the_processor_gains_by_it(
    faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: faster)
    seen = []

    class Spy(nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            seen.append(out := super().forward(hidden))
            return out

    for precision in ("float32", "bfloat16"):
        model = linear(9, 4)
        model.head = Spy(9, 4)
        data = random_set(4)
        Trainer(recipe(precision=precision), PLAIN).loss(model, data.images, data.labels)
    low = torch.bfloat16 if faster else torch.float32
    assert [out.dtype for out in seen] == [torch.float32, low]
    assert not mixed_precision(torch.device("cpu"), "float32")._enabled


def occurrences(trainer: Trainer, data: ImageSet, repeats: torch.Tensor | None) -> list[Counter]:
    """How often each image is trained on in each epoch, by its pixel level."""
    epochs: list[Counter] = [Counter()]
    progress: list[tuple[int, int]] = []

    def note(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(progress) == len(epochs):
            epochs.append(Counter())
        epochs[-1].update((images[:, 0, 0, 0] * 255).round().int().tolist())
        return images, labels

    trainer.progress = lambda done, total: progress.append((done, total))
    trainer.fit(linear(9, 2), data, rng(), repeats=repeats, on_batch=note)
    total = trainer.recipe.epochs
    assert progress == [(done, total) for done in range(1, total + 1)]
    return epochs


def test_each_image_occurs_once_per_epoch() -> None:
    trainer = Trainer(recipe(epochs=3, batch_size=4), PLAIN)
    assert occurrences(trainer, numbered(10), None) == [Counter(range(10))] * 3


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=12).filter(lambda r: sum(r) > 1))
def test_boosted_images_occur_as_often_as_asked(repeats: list[int]) -> None:
    trainer = Trainer(recipe(epochs=2, batch_size=4), PLAIN)
    expected = Counter({row: times for row, times in enumerate(repeats) if times})
    found = occurrences(trainer, numbered(len(repeats)), torch.tensor(repeats))
    assert found == [expected] * 2


def test_the_schedule_counts_boosted_images() -> None:
    """Four images, one of them five times, are four batches of two; the rate ends near zero."""
    trainer = Trainer(recipe(epochs=1, batch_size=2, schedule="linear"), PLAIN)
    rates = []
    make = trainer.optimizer

    def spy(model: nn.Module, images: int) -> Any:
        optimizer, advance = make(model, images)

        def noted() -> None:
            rates.append(optimizer.param_groups[0]["lr"])
            advance()

        return optimizer, noted

    trainer.optimizer = spy  # type: ignore[method-assign]
    trainer.fit(linear(9, 2), numbered(4), rng(), repeats=torch.tensor([1, 1, 1, 5]))
    assert rates == pytest.approx([0.1 * share for share in (7 / 8, 5 / 8, 3 / 8, 1 / 8)])


def test_epochs_differ_in_their_order() -> None:
    trainer = Trainer(recipe(epochs=2, batch_size=30), PLAIN)
    first, second = (batch[:, 0, 0, 0] for batch, _ in trainer.batches(numbered(30), rng()))
    assert not torch.equal(first, second)


def test_batches_carry_the_recipes_augmentation() -> None:
    trainer = Trainer(recipe(epochs=1), Augmentation(pad=1))
    white = ImageSet(torch.full((40, 1, 3, 3), 255, dtype=torch.uint8), torch.zeros(40).long())
    ((images, _),) = trainer.batches(white, rng())
    assert set(images.unique().tolist()) == {0.0, 1.0}


def test_the_seed_decides_all_weights() -> None:
    data, trainer = random_set(40, classes=2), Trainer(recipe(batch_size=8), Augmentation(pad=1))
    trained = []
    # Built beforehand, since building resets torch's global seed, which must not matter.
    models = [convolutional() for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        trainer.fit(model, data, rng(seed))
        trained.append(
            torch.cat([tensor.flatten().float() for tensor in model.state_dict().values()])
        )
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fit_learns_what_can_be_told_apart(precision: str) -> None:
    """Bright against dark left halves; fresh images of the kind are then told apart, too."""

    def halves(seed: int) -> ImageSet:
        data = random_set(128, side=8, classes=2, seed=seed)
        left = data.pixels[:, :, :, :4] // 2
        data.pixels[:, :, :, :4] = left + 127 * data.labels[:, None, None, None].byte()
        return data

    model = convolutional()
    trainer = Trainer(recipe(epochs=8, batch_size=16, precision=precision), PLAIN)
    trainer.fit(model, halves(0), rng())
    assert not any(module.training for module in model.modules())
    fresh = halves(1)
    assert (model(fresh.images).argmax(1) == fresh.labels).float().mean() > 0.97
