"""`benchmark.scan` and `benchmark.repair` from Python: what is no image, label or model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from somebodys import TARGET, stamped
from torch import nn

from benchmark import repair, scan
from benchmark.errors import UserError
from benchmark.suspect.adapter import ModelError
from benchmark.suspect.estimate import check_gradient
from benchmark.suspect.images import album_of, as_bytes
from benchmark.suspect.suspect import prepare

GIVEN: dict[str, Callable[[Any], dict[str, Any]]] = {
    "labels are torch.float32 of shape (200,), expected 200": lambda g: {"labels": g.labels / 2},
    "labels are torch.int64 of shape (199,), expected 200": lambda g: {"labels": g.labels[1:]},
    "labels are torch.int64 of shape (200, 1), expected": lambda g: {"labels": g.labels[:, None]},
    "labels are no tensor or array of numbers": lambda g: {"labels": ["digit1"] * 200},
    "images are no tensor or array of numbers": lambda g: {"images": [*g.pixels]},
    "images are torch.int64, expected uint8": lambda g: {"images": g.pixels.long()},
    "images are a tensor of layout torch.sparse_coo": lambda g: {"images": g.pixels.to_sparse()},
    "the model is <class": lambda g: {"model": nn.Linear},
    "--mean is nan; say one number": lambda g: {"mean": float("nan")},
    "--std is inf; say one number": lambda g: {"std": [float("inf")]},
}


@pytest.mark.parametrize("sentence", GIVEN)
def test_what_does_not_fit_is_said(sentence: str, poisoned: Any) -> None:
    given = {"model": poisoned.net, "images": poisoned.pixels, "labels": poisoned.labels}
    with pytest.raises(UserError) as told:
        scan(**given | GIVEN[sentence](poisoned), detectors=["neural-cleanse:steps=2"])
    assert sentence in str(told.value)


def test_too_few_images_are_not_the_models_fault(poisoned: Any) -> None:
    """One image of each of two classes says nothing of a model that is right on both."""
    with torch.no_grad():
        right = (poisoned.net(poisoned.pixels / 255).argmax(1) == poisoned.labels).nonzero()[:, 0]
    other = next(row for row in right if poisoned.labels[row] != poisoned.labels[right[0]])
    rows = torch.stack([right[0], other])
    album = album_of(poisoned.pixels[rows], poisoned.labels[rows], None)
    with pytest.raises(ModelError, match=r"right on 2 of 2 images .* too few to tell") as told:
        prepare(poisoned.net, album, mean=0)
    assert "no better than guessing" not in str(told.value)
    prepare(poisoned.net, album, mean=0, anyway=True)


def test_arrays_of_any_order_are_images(poisoned: Any) -> None:
    pixels = poisoned.pixels.repeat(1, 3, 1, 1).numpy()
    assert as_bytes(pixels[:, ::-1]).numpy().tolist() == pixels[:, ::-1].tolist()
    labels = poisoned.labels.numpy().astype(np.uint8)
    assert album_of(pixels, labels, None).images.labels.tolist() == labels.tolist()


class Before(nn.Module):
    """A network whose images somebody changes first."""

    def __init__(self, net: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(self.change(images))


def few(images: torch.Tensor) -> torch.Tensor:
    if len(images) > 64:
        raise RuntimeError("at most 64 at once")
    return images


def test_a_model_that_takes_few_images_at_once_is_named(poisoned: Any) -> None:
    """Also while the usual normalisations are tried."""
    for mean in (None, 0.0):
        with pytest.raises(ModelError, match=r"fails on 200 images \(RuntimeError: at most 64"):
            scan(Before(poisoned.net, few), poisoned.pixels, poisoned.labels, mean=mean)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (torch.Tensor.detach, r" \(RuntimeError: .*\)"),
        (lambda images: (images * 255).round() / 255, ""),
    ],
)
def test_a_model_without_a_gradient_is_refused(poisoned: Any, change: Any, why: str) -> None:
    sentence = f"no gradient of the model reaches its images{why}, and triggers"
    with pytest.raises(ModelError, match=sentence):
        scan(Before(poisoned.net, change), poisoned.pixels, poisoned.labels, mean=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.detach() + 1e-30 * images,
        # Black and white pixels have none.
        lambda images: nn.functional.hardtanh(2 * images - 1) / 2 + 0.5,
    ],
)
def test_a_small_gradient_or_one_of_some_images_is_enough(poisoned: Any, change: Any) -> None:
    album = album_of(poisoned.pixels // 128 * 255, poisoned.labels, None)
    with torch.no_grad():
        suspect = prepare(Before(poisoned.net, change), album, mean=0, anyway=True)
        check_gradient(suspect.model, suspect.trusted)


TRIGGERED: dict[str, Callable[[Any], Any]] = {
    "target, is 10; expected a number from 0 to 9": lambda g: (g.pixels, g.labels, 10),
    "target, is -1; expected a number": lambda g: (g.pixels, g.labels, -1),
    "target, is '0'; expected a number": lambda g: (g.pixels, g.labels, "0"),
    "triggered images have 4x8 pixels and the clean ones 8x8": lambda g: (
        g.pixels[:, :, :4],
        g.labels,
        TARGET,
    ),
    "these have 3 channels": lambda g: (g.pixels.repeat(1, 3, 1, 1), g.labels, TARGET),
    "are of the target class 3; ASR is counted": lambda g: (g.pixels, 0 * g.labels + 3, 3),
    "labels are torch.int64 of shape (3,), expected 200": lambda g: (
        g.pixels,
        g.labels[:3],
        TARGET,
    ),
    "triggered is no tuple": lambda g: g.pixels,
}


@pytest.mark.parametrize("sentence", TRIGGERED)
def test_triggered_images_must_be_such(sentence: str, poisoned: Any) -> None:
    with pytest.raises(UserError) as told:
        repair(
            poisoned.net,
            poisoned.pixels,
            poisoned.labels,
            method="weight-decay:steps=1",
            mean=0,
            triggered=TRIGGERED[sentence](poisoned),
        )
    assert sentence in str(told.value)


def test_triggered_images_of_one_class_are_enough(poisoned: Any) -> None:
    """As of an attack from one source class."""
    rows = poisoned.labels == (TARGET + 1) % 10
    known = (stamped(poisoned.pixels[rows]), poisoned.labels[rows], TARGET)
    method = "weight-decay:steps=1"
    images = poisoned.pixels, poisoned.labels
    fixed = repair(poisoned.net, *images, method=method, mean=0, triggered=known)
    assert fixed.success[0].total == int(rows.sum())
    assert fixed.success[0].value > 0.5


def test_a_caller_without_gradients_is_served(poisoned: Any) -> None:
    with torch.no_grad():
        found = scan(
            poisoned.net,
            poisoned.pixels,
            poisoned.labels,
            detectors=["neural-cleanse:steps=2,batch_size=4"],
            mean=0,
        )
        repair(
            poisoned.net,
            poisoned.pixels,
            poisoned.labels,
            method="weight-decay:steps=1",
            mean=0,
        )
    assert found.findings[0].error == ""


def test_a_repair_that_raises_is_one_sentence(poisoned: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
        images = torch.rand(200, 1, 8, 8)
    with torch.no_grad():
        bare[-1].bias -= bare(images).mean(0)
        labels = bare(images).argmax(1)
    with pytest.raises(UserError, match=r"anp.* failed \(.*\); try another --method"):
        repair(bare, images, labels, method="anp", mean=0)


class Keeps(nn.Module):
    """It keeps a tensor beside its weights, as some quantisers do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.own: Any = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def get_extra_state(self) -> Any:
        return self.own

    def set_extra_state(self, state: Any) -> None:
        self.own = state


@pytest.mark.parametrize("state", [torch.tensor([3.0]), {"scale": 3.0}])
def test_state_that_is_no_weight_stays(poisoned: Any, state: Any) -> None:
    kept = Keeps(poisoned.net)
    kept.own = state
    images = poisoned.pixels, poisoned.labels
    fixed = repair(kept, *images, method="weight-decay:steps=1", mean=0)
    assert isinstance(fixed.model, Keeps)
    assert fixed.model.own == state
