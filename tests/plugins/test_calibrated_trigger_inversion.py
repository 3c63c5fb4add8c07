"""Calibrated Trigger Inversion: what its score means, literally and on a planted backdoor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_defenses import calibrated_trigger_inversion
from backdoor_defenses.calibrated_trigger_inversion import CalibratedTriggerInversion
from backdoor_defenses.pivotal_tuning import PivotalTuning
from benchmark.api import Detection, Repair
from benchmark.classifier import Classifier
from benchmark.images import TrustedData
from benchmark.triggers import Patch

SIDE, CLASSES, PLANTED = 6, 5, 3
Kind = Literal["additive", "mask"]
KINDS: tuple[Kind, Kind] = ("additive", "mask")


def planted() -> Classifier:
    """Class c is the brightness of row c; row 5's first pixel, else dark, is a backdoor."""
    head = nn.Linear(SIDE**2, CLASSES)
    with torch.no_grad():
        head.weight.zero_(), head.bias.zero_()
        for label in range(CLASSES):
            head.weight[label, SIDE * label : SIDE * (label + 1)] = 2.0
        head.weight[PLANTED, SIDE * CLASSES] = 60.0
    stages = OrderedDict[str, nn.Module](all=nn.Identity())
    model = Classifier(stages, nn.Flatten(), head, 1)
    model.normalise_by(torch.zeros(1), torch.ones(1))
    return model.eval()


def rows(count: int = 40) -> TrustedData:
    """Dark noise, with the row of the class bright; no two images are alike."""
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(20, 60, (count, 1, SIDE, SIDE), generator=rng(), dtype=torch.uint8)
    pixels[torch.arange(count), 0, labels] += 150
    pixels[:, :, CLASSES] = 0
    pixels[:, 0, CLASSES, 1:] = torch.randint(9, (count, 5), generator=rng(), dtype=torch.uint8)
    return TrustedData(pixels, labels)


@dataclass
class Nothing(Repair):
    """Leaves the model as it is."""

    name = "nothing"

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        yield from ()


@dataclass
class Cure(Repair):
    """Takes the planted weight away, in two steps."""

    name = "cure"

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        for _ in range(2):
            with torch.no_grad():
                model.head.weight[PLANTED, SIDE * CLASSES] -= 30.0
            yield


@dataclass
class Ruin(Repair):
    """Leans towards one class, by a bias, and draws from its generator first."""

    name = "ruin"

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        torch.rand(3, generator=rng)
        with torch.no_grad():
            model.head.bias[1] += 5.0
        yield


def scan(seed: int = 0, data: TrustedData | None = None, **settings: Any) -> Detection:
    defense = CalibratedTriggerInversion(**{"steps": 40, "learning_rate": 0.05} | settings)
    return defense.detect(planted(), rows() if data is None else data, rng(seed))


def test_the_planted_model_is_right_obeys_its_trigger_and_can_be_cured() -> None:
    """The tests below are about a backdoor only if there is one."""
    images, labels = rows().images, rows().labels
    stamped = images.clone()
    stamped[:, :, CLASSES, 0] = 1
    model = planted()
    assert torch.equal(model(images).argmax(1), labels)
    assert (model(stamped).argmax(1) == PLANTED).all()
    for _ in Cure().repair(model, rows(), rng()):
        pass
    assert torch.equal(model(images).argmax(1), labels)
    assert torch.equal(model(stamped).argmax(1), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_repair_that_changes_nothing_leaves_a_score_of_zero(kind: Kind) -> None:
    """Exactly, for every class, although every trigger works; the printed score stays high."""
    found = scan(repair=Nothing(), trigger=kind, repaired_weight=0.0, steps=120)
    assert found.class_scores.tolist() == [0.0] * CLASSES
    assert found.score == 0.0
    assert found.also["printed"] > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_whose_backdoor_a_repair_takes_away_scores_highest(kind: Kind) -> None:
    """Near one, since the trigger works before the repair and not after it (C20)."""
    norm = 0.05 if kind == "mask" else 0.0
    found = scan(repair=Cure(), trigger=kind, norm_weight=norm, steps=150)
    assert int(found.class_scores.argmax()) == PLANTED
    assert found.score == pytest.approx(found.class_scores.max().item())
    assert found.score > 0.9
    others = [s for c, s in enumerate(found.class_scores.tolist()) if c != PLANTED]
    assert max(others) < 0.5
    assert scan(repair=Nothing(), trigger=kind, steps=150).score < found.score


def answers(model: Classifier, image: Tensor, trigger: Any, label: int) -> int:
    with torch.no_grad():
        return int(model(trigger.apply(image[None])[label]).argmax())


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[TrustedData]:
    """What `success` and `true_answers` are asked about, in turn."""
    asked: list[TrustedData] = []
    for name in ("success", "true_answers"):
        real = getattr(calibrated_trigger_inversion, name)

        def spy(model: Any, trigger: Any, classes: Any, data: Any, real: Any = real) -> Tensor:
            asked.append(data)
            result: Tensor = real(model, trigger, classes, data)
            return result

        monkeypatch.setattr(calibrated_trigger_inversion, name, spy)
    return asked


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("repair", [Cure(), Ruin()], ids=lambda repair: repair.name)
@pytest.mark.parametrize("kind", KINDS)
def test_score_and_printed_score_are_what_they_say(
    repair: Repair, kind: Kind, judged: list[TrustedData]
) -> None:
    """Success before minus success after, and minus accuracy after, image by image."""
    # Hardly started, so that shares lie between zero and one.
    data = rows()
    data.pixels.add_(torch.randint(40, data.pixels.shape, generator=rng(4), dtype=torch.uint8))
    found = scan(1, data, repair=repair, trigger=kind, steps=12)
    before, after = planted(), planted()
    for _ in repair.repair(after, rows(), rng()):
        pass
    scores, printed, shares = [], [], set()
    for label in range(CLASSES):
        reached = still = true = others = 0
        for image, own in zip(judged[0].images, judged[0].labels.tolist(), strict=True):
            if own == label:
                continue
            others += 1
            reached += answers(before, image, found.trigger, label) == label
            answer = answers(after, image, found.trigger, label)
            still += answer == label
            true += answer == own
        scores.append((reached - still) / others)
        printed.append((reached - true) / others)
        shares |= {reached / others, still / others, true / others}
    assert len(shares) > 3
    assert found.class_scores.tolist() == pytest.approx(scores, abs=1e-6)
    assert found.score == pytest.approx(max(scores), abs=1e-6)
    assert found.also == {"printed": pytest.approx(max(printed), abs=1e-6)}
    assert scores != pytest.approx(printed)


def pictures(data: TrustedData) -> list[bytes]:
    return [image.numpy().tobytes() for image in data.pixels]


@dataclass
class Curious(Nothing):
    """Notes which images it is lent."""

    name = "curious"

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        lent.append(trusted)
        yield from ()


lent: list[TrustedData] = []


@pytest.mark.parametrize("held_out", [0.25, 0.5, 0.8])
def test_triggers_are_judged_on_images_they_were_not_learnt_from(
    monkeypatch: pytest.MonkeyPatch, judged: list[TrustedData], held_out: float
) -> None:
    learnt: list[TrustedData] = []
    real = TrustedData.batches

    def batches(self: TrustedData, size: int, own: Generator) -> Any:
        learnt.append(self)
        return real(self, size, own)

    monkeypatch.setattr(TrustedData, "batches", batches)
    data = rows()
    assert len(set(pictures(data))) == 40
    seen = []
    for seed in (0, 1):
        for noted in (learnt, judged, lent):
            noted.clear()
        scan(seed, data, repair=Curious(), held_out=held_out, steps=2)
        assert len(learnt) == len(lent) == 1
        # Neither does the repair see what is judged on.
        assert pictures(lent[0]) == pictures(learnt[0])
        assert len(judged) == 3
        assert all(part is judged[0] for part in judged)
        inside, outside = pictures(learnt[0]), pictures(judged[0])
        assert len(outside) == 40 * held_out
        assert sorted(inside + outside) == sorted(pictures(data))
        labels = dict(zip(pictures(data), data.labels.tolist(), strict=True))
        for part in (learnt[0], judged[0]):
            assert [labels[picture] for picture in pictures(part)] == part.labels.tolist()
        seen.append(set(outside))
    # Another generator draws another half.
    assert seen[0] != seen[1]


def test_learning_keeps_the_augmentation_that_the_protocol_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[tuple[int, bool]] = []
    real = TrustedData.batches

    def batches(self: TrustedData, size: int, own: Generator) -> Any:
        used.append((self.pad, self.flip))
        return real(self, size, own)

    monkeypatch.setattr(TrustedData, "batches", batches)
    data = TrustedData(rows().pixels, rows().labels, pad=1, flip=True)
    scan(data=data, repair=Nothing(), steps=1)
    assert used == [(1, True)]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("kind", "weight", "norm"), [("additive", 0.5, 0.0), ("mask", 1.0, 0.02)])
def test_the_objective_is_minimised_class_by_class(
    judged: list[TrustedData], kind: Kind, weight: float, norm: float
) -> None:
    """Alg. 4 with a loop over classes and torch's own Adam; images of the class are left out.

    One batch holds all images that are learnt from, so that their order does not matter.
    """
    data, rate, steps = rows(), 0.02, 10
    # Away from black and white, where rounding decides on which side of the clip a pixel is.
    data.pixels.clamp_(min=60)
    found = scan(
        2,
        data,
        repair=Cure(),
        trigger=kind,
        repaired_weight=weight,
        norm_weight=norm,
        learning_rate=rate,
        steps=steps,
        batch_size=1000,
    )
    outside = set(pictures(judged[0]))
    inside = torch.tensor([picture not in outside for picture in pictures(data)])
    images, labels = data.images[inside], data.labels[inside]
    before, after = planted(), planted()
    for _ in Cure().repair(after, data, rng()):
        pass
    own = rng(2)
    torch.randperm(40, generator=own)
    channels = 1 if kind == "additive" else 2
    draw = torch.rand(CLASSES, channels, SIDE, SIDE, generator=own)
    assert found.trigger is not None
    for label in range(CLASSES):
        others = labels != label
        x, y = images[others], labels[others]
        if kind == "additive":
            parts = [(0.01 * draw[label]).requires_grad_(True)]
        else:
            raw = torch.atanh((draw[label] - 0.5) * (2 - 1e-6))
            parts = [raw[part].clone().requires_grad_(True) for part in (0, 1)]
        optimizer = torch.optim.Adam(parts, lr=rate, betas=(0.5, 0.9))
        for _ in range(steps):
            if kind == "additive":
                triggered, size = (x + parts[0]).clamp(0, 1), parts[0].abs().sum()
            else:
                mask, pattern = (torch.tanh(part) / 2 + 0.5 for part in parts)
                triggered, size = (1 - mask) * x + mask * pattern, mask.sum()
            reached = -before(triggered).log_softmax(1)[:, label].mean()
            undone = -after(triggered).log_softmax(1)[torch.arange(len(y)), y].mean()
            loss = reached + weight * undone + norm * size
            for part, slope in zip(parts, torch.autograd.grad(loss, parts), strict=True):
                part.grad = slope
            optimizer.step()
        if kind == "mask":
            parts = [torch.tanh(part) / 2 + 0.5 for part in parts]
        for part, picture in zip(parts, found.trigger.pictures.values(), strict=True):
            torch.testing.assert_close(
                picture[label].view(SIDE, SIDE), part.detach().view(SIDE, SIDE), atol=2e-3, rtol=0
            )


def test_detection_follows_its_generator_and_harms_nothing() -> None:
    model, data = planted(), rows()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    defense = CalibratedTriggerInversion(repair=Cure(), steps=6, learning_rate=0.05, trigger="mask")
    results = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        results.append(defense.detect(model, data, rng(seed)))
    first, again, other = (result.trigger for result in results)
    assert isinstance(first, Patch)
    assert isinstance(again, Patch)
    assert isinstance(other, Patch)
    assert torch.equal(first.mask, again.mask)
    assert torch.equal(first.pattern, again.pattern)
    assert not torch.equal(first.mask, other.mask)
    assert torch.equal(results[0].class_scores, results[1].class_scores)
    assert torch.equal(data.pixels, rows().pixels)
    assert torch.equal(data.labels, rows().labels)
    after = model.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights)


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="two parts need two images at least, got 1"):
        scan(data=rows(1), repair=Nothing())


def test_the_papers_own_repair_and_weight_are_the_defaults() -> None:
    assert isinstance(CalibratedTriggerInversion().repair, PivotalTuning)
    assert CalibratedTriggerInversion().repaired_weight == 1.0
    short = PivotalTuning(steps=3, batch_size=16, learning_rate=1e-3)
    found = scan(repair=short, steps=3)
    assert found.class_scores.shape == (CLASSES,)
    assert found.class_scores.isfinite().all()
    assert found.class_scores.abs().max() <= 1
