"""The compensatory model's terms from ABS and ExRay, image by image and class by class."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from backdoor_attacks import compensatory, lsp
from backdoor_attacks.badnets import BadNets, CleanLabelBadNets
from backdoor_attacks.compensatory import (
    Inversion,
    abs_terms,
    compensatory_rate,
    exray_terms,
    inversions,
    stimulated,
)
from backdoor_attacks.lsp import LSP
from backdoor_defenses.abs import ABS
from backdoor_defenses.exray import ExRay
from benchmark.conformance import tiny
from benchmark.inversion import FrozenClassifier

STEPS = 12


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensatory, "ABS", lambda: ABS(steps=STEPS))
    monkeypatch.setattr(compensatory, "ExRay", lambda: ExRay(steps=STEPS, images=5))


def rng() -> Generator:
    return Generator().manual_seed(4)


def test_abs_terms_are_excess_and_cross_entropy() -> None:
    data, target = tiny.experiment().trusted(tiny.SHARE, 0), 0
    frozen = FrozenClassifier(tiny.suspect())
    trigger = stimulated(ABS(steps=STEPS), frozen, data, target, rng())
    mask = trigger.pictures["mask"]
    assert len(mask) == 1
    lost = []
    for image in data.images:
        logits = frozen(trigger.apply(image[None])[0])[0].double()
        lost.append((logits.exp().sum().log() - logits[target]).item())
    size, error = abs_terms(tiny.suspect(), data, target, rng())
    assert size == pytest.approx(max(mask.sum().item() - 16, 0), abs=1e-3)  # 1/16 of 16 x 16
    assert error == pytest.approx(sum(lost) / len(lost), rel=0.02)


def test_exray_terms_are_means_over_victims() -> None:
    data, target = tiny.experiment().trusted(tiny.SHARE, 0), 0
    frozen, detector, draw = FrozenClassifier(tiny.suspect()), ExRay(steps=STEPS, images=5), rng()
    trigger = stimulated(ABS(steps=STEPS), frozen, data, target, draw)
    images, present = detector.sample(frozen, data, draw)
    victims = [label for label in present.nonzero().flatten().tolist() if label != target]
    assert victims
    old = torch.stack([frozen.features(images[v]) for v in victims])
    new = torch.stack([frozen.features(trigger.apply(images[v])[0]) for v in victims])
    wanted = torch.tensor([[target, v] for v in victims])
    masks = detector.differential_masks(frozen.head, old, new, wanted)
    lost = []
    for mask, before, after in zip(masks, old, new, strict=True):
        for a, b in zip(before, after, strict=True):
            logits = frozen.head(mask * b + (1 - mask) * a).double()
            lost.append((logits.exp().sum().log() - logits[target]).item())
    size, error = exray_terms(tiny.suspect(), data, target, rng())
    assert size == pytest.approx(masks.sum(1).mean().item(), rel=0.02)
    assert error == pytest.approx(sum(lost) / len(lost), rel=0.05, abs=0.02)


def test_a_choice_names_its_detectors() -> None:
    assert [len(inversions(which, 0.01)) for which in ("auto", "auto-abs", "auto-exray")] == [1] * 3
    costs = [one.cost for one in inversions("auto-all", 0.02)]
    assert costs == pytest.approx([0.02, 50 / 10, 1 / 100])


@pytest.mark.parametrize(
    ("terms", "wanted"),
    [([0.3, 0.5], 0.5), ([0.5, 0.3], 0.5), ([9.0, 0.4], 0.4), ([9.0, 8.0], None)],
)
def test_the_smallest_rate_of_all_that_have_one_is_taken(
    terms: list[float], wanted: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By eqs. 7-10 with nothing but a classification term, which is the same on both models."""

    def fixed(error: float) -> Any:
        return lambda model, data, target, rng: (0.0, error)

    monkeypatch.setattr(
        lsp, "inversions", lambda which, cost: [Inversion(1.0, fixed(error)) for error in terms]
    )
    experiment, attack = tiny.experiment(), LSP(rate="auto-all")
    if wanted is None:
        with pytest.raises(ValueError, match="no attack rate above 1"):
            attack.setup(experiment.attacker_view(0), rng())
        return
    attack.setup(experiment.attacker_view(0), rng())
    share = math.exp(-wanted)
    expected = 1 + math.log((len(experiment.class_names) - 1) * share / (1 - share))
    assert attack.chosen_rate == pytest.approx(expected, rel=1e-6)
    assert compensatory_rate((0, wanted), (0, wanted), 1.0, 10) == pytest.approx(expected)


def test_a_surrogate_is_poisoned_from_the_source_class_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    class FromOneClass(BadNets):
        source = 2

        def poison(self, images: Tensor, labels: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
            seen.append(labels.clone())
            return super().poison(images, labels, rng)

    term = Inversion(1.0, lambda model, data, target, rng: (0.0, 0.5))
    monkeypatch.setattr(lsp, "inversions", lambda which, cost: [term])
    experiment, attack = tiny.experiment(), LSP(base=FromOneClass(), rate="auto")
    view = experiment.attacker_view(0)
    attack.setup(view, rng())
    (labels,) = seen
    source = (view.target + 2) % view.classes
    assert (labels == source).all()
    # The surrogate still learns what that class looks like.
    assert len(labels) == (view.auxiliary.labels == source).sum() // 2 > 0


def test_a_surrogate_has_an_image_that_is_poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Watched(BadNets):
        def poison(self, images: Tensor, labels: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
            seen.append(len(images))
            return super().poison(images, labels, rng)

    term = Inversion(1.0, lambda model, data, target, rng: (0.0, 0.5))
    monkeypatch.setattr(lsp, "inversions", lambda which, cost: [term])
    view = tiny.experiment().attacker_view(0)
    others = (view.auxiliary.labels != view.target).nonzero().flatten()
    few = replace(view, auxiliary=view.auxiliary.subset(others[:4]))
    LSP(base=Watched(), rate="auto").setup(few, rng())
    assert seen == [1]
    with pytest.raises(ValueError, match="there are none that c-badnets may change; choose a"):
        LSP(base=CleanLabelBadNets(), rate="auto").setup(few, rng())
