"""ExRay: its masks and overlaps literally, and its verdict where the answer is known."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_defenses.abs import ABS
from backdoor_defenses.channel_masks import accuracies, exchange, overlaps
from backdoor_defenses.exray import ExRay
from backdoor_defenses.neural_cleanse import NeuralCleanse
from benchmark.api import Defense, Detection, Detector
from benchmark.classifier import Classifier
from benchmark.images import TrustedData
from benchmark.registry import Registry
from benchmark.triggers import Additive, Patch, Trigger

SIDE, CLASSES, TARGET = 3, 4, 2
#: A dark pixel that no image uses, and that the model puts into the target class.
PLANTED = 8


def planted() -> Classifier:
    """Class c is pixel c; the planted pixel says TARGET as well. Features are the pixels."""
    head = nn.Linear(SIDE**2, CLASSES)
    with torch.no_grad():
        head.weight.zero_(), head.bias.zero_()
        head.weight[:, :CLASSES] = 10 * torch.eye(CLASSES)
        head.weight[TARGET, PLANTED] = 40.0
    stages = OrderedDict[str, nn.Module](all=nn.Identity())
    model = Classifier(stages, nn.Flatten(), head, 1)
    model.normalise_by(torch.zeros(1), torch.ones(1))
    return model.eval()


def spots(labels: Tensor) -> TrustedData:
    """Noise, with the pixel of the class brighter and the planted one black."""
    shape = (len(labels), 1, SIDE, SIDE)
    pixels = torch.randint(10, 60, shape, generator=rng(), dtype=torch.uint8)
    pixels.flatten(1)[torch.arange(len(labels)), labels] += 120
    pixels.flatten(1)[:, PLANTED] = 0
    return TrustedData(pixels, labels)


def everyone() -> TrustedData:
    return spots(torch.arange(60) % CLASSES)


def lighting(pixel: int) -> Patch:
    """For the target class a patch that turns one pixel white, for others nothing."""
    mask = torch.zeros(CLASSES, 1, SIDE, SIDE)
    mask[TARGET].flatten()[pixel] = 1
    return Patch(mask, torch.ones(CLASSES, 1, SIDE, SIDE))


def likeness() -> Patch:
    """For the target class a patch that paints what its own images look like."""
    mask = torch.zeros(CLASSES, 1, SIDE, SIDE)
    mask[TARGET].flatten()[:CLASSES] = 1
    pattern = torch.full((CLASSES, 1, SIDE, SIDE), 0.13)
    pattern[TARGET].flatten()[TARGET] = 0.6
    return Patch(mask, pattern)


@dataclass
class Given(Detector):
    """Finds what it was given."""

    name = "given"
    trigger: Trigger | None = None

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        return Detection(0.0, torch.zeros(CLASSES), trigger=self.trigger)


def examine(trigger: Trigger | None, data: TrustedData, seed: int = 0) -> Detection:
    return ExRay(detector=Given(trigger)).detect(planted(), data, rng(seed))


def test_overlaps_equal_their_definition() -> None:
    first, second = torch.rand(2, 5, 7, generator=rng())
    for found, one, two in zip(overlaps(first, second), first, second, strict=True):
        a, b = one.tolist(), two.tolist()
        shared = sum(map(min, a, b))
        assert found.tolist() == pytest.approx([shared / sum(a), shared / sum(b)])


def test_an_exchange_mixes_each_pair_both_ways() -> None:
    head = nn.Linear(5, 3)
    masks = torch.rand(2, 5, generator=rng())
    old, new = torch.randn(2, 2, 4, 5, generator=rng(1))
    found = exchange(head, masks, old, new)
    assert found.shape == (2, 2, 4, 3)
    for j in range(2):
        for image in range(4):
            a, b, g = old[j, image], new[j, image], masks[j]
            forth = head(g * b + (1 - g) * a)
            back = head(g * a + (1 - g) * b)
            torch.testing.assert_close(found[j, :, image], torch.stack([forth, back]))


def test_accuracies_count_each_side_against_its_own_class() -> None:
    logits = torch.randn(3, 2, 5, 4, generator=rng())
    wanted = torch.tensor([[0, 1], [2, 3], [1, 0]])
    for j, found in enumerate(accuracies(logits, wanted)):
        for side in range(2):
            hits = [row.argmax() == wanted[j, side] for row in logits[j, side]]
            assert found[side] == sum(hits) / 5


def features(labels: list[int], seed: int, width: int = 12) -> Tensor:
    """(J, 6, width), where a class lights two channels of its own."""
    found = 0.2 * torch.rand(len(labels), 6, width, generator=rng(seed))
    for row, label in enumerate(labels):
        found[row, :, 2 * label : 2 * label + 2] += 1
    return found


def test_masks_are_small_work_both_ways_and_do_not_depend_on_the_batch() -> None:
    victims, targets = [0, 1, 3], [2, 4, 5]
    head = nn.Linear(12, 6, bias=False)
    head.weight.requires_grad_(False).copy_(5 * torch.eye(6).repeat_interleave(2, 1))
    old, new = features(victims, 0), features(targets, 1)
    wanted = torch.tensor([targets, victims]).T
    defense = ExRay()
    masks = defense.differential_masks(head, old, new, wanted)
    assert (accuracies(exchange(head, masks, old, new), wanted) == 1).all()
    for row, (victim, target) in enumerate(zip(victims, targets, strict=True)):
        used = torch.zeros(12, dtype=torch.bool)
        for label in (victim, target):
            used[2 * label : 2 * label + 2] = True
        assert masks[row, ~used].max() < 0.1
        assert 1 < masks[row, used].sum() < 4
        alone = defense.differential_masks(
            head, old[row : row + 1], new[row : row + 1], wanted[row : row + 1]
        )
        torch.testing.assert_close(alone[0], masks[row])


def test_a_trigger_of_the_targets_own_feature_is_natural() -> None:
    found = examine(likeness(), everyone())
    assert found.flagged is False
    assert found.score == found.class_scores.max() < 0.2


def test_a_trigger_of_another_feature_is_a_backdoor() -> None:
    found = examine(lighting(PLANTED), everyone())
    assert found.flagged is True
    # The planted channel is black in clean images, so exchanging it changes none of them.
    assert found.class_scores[TARGET] > 0.9
    assert found.score == found.class_scores[TARGET]
    assert found.class_scores.sum() == found.score


def test_additive_triggers_are_filtered_as_well() -> None:
    added = torch.zeros(CLASSES, 1, SIDE, SIDE)
    added[TARGET].flatten()[PLANTED] = 1
    assert examine(Additive(added), everyone()).flagged is True


def test_a_trigger_that_fails_raises_no_alarm() -> None:
    found = examine(lighting(PLANTED - 1), everyone())
    assert (found.score, found.flagged) == (0.0, False)
    assert found.class_scores.tolist() == [0.0] * CLASSES
    assert found.trigger is not None


def test_the_authors_inverter_and_their_alarm_are_the_defaults(registry: Registry) -> None:
    """METHODS 3.12; another detector may stand in."""
    assert (ExRay().detector, ExRay().alarm) == (ABS(), 0.99)
    other = registry.create(Defense, "exray:detector=neural-cleanse,detector.steps=7,alarm=0.9")
    assert other == ExRay(detector=NeuralCleanse(steps=7), alarm=0.9)


@pytest.mark.parametrize(("alarm", "flagged"), [(0.95, True), (0.99, False)])
def test_only_a_trigger_that_turns_enough_images_is_alarmed(alarm: float, flagged: bool) -> None:
    """The trigger turns 97.8 % of the other images: one of 45 hides from it."""
    data, model = everyone(), planted()
    with torch.no_grad():
        model.head.weight[TARGET, PLANTED] = 9.0
    # At most 0.71 for all other images' own pixels.
    data.pixels[0].flatten()[[0, TARGET]] = torch.tensor([255, 0], dtype=torch.uint8)
    patch = lighting(PLANTED)
    others = data.labels != TARGET
    turned = model(patch.apply(data.images)[TARGET][others]).argmax(1) == TARGET
    assert turned.double().mean() == pytest.approx(44 / 45)
    found = ExRay(detector=Given(patch), alarm=alarm).detect(model, data, rng())
    assert found.flagged is flagged


def test_a_detector_without_triggers_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="given"):
        examine(None, everyone())


@pytest.mark.parametrize("absent", [TARGET, 0])
def test_classes_without_images_are_skipped(absent: int) -> None:
    labels = torch.arange(60) % CLASSES
    found = examine(lighting(PLANTED), spots(labels[labels != absent]))
    assert found.flagged is (absent != TARGET)
    assert (found.score > 0.9) is (absent != TARGET)


def test_one_image_per_class_is_enough() -> None:
    assert examine(lighting(PLANTED), spots(torch.arange(CLASSES))).flagged is True


def test_only_images_that_are_classified_rightly_count() -> None:
    """Images of class 1 that all carry wrong labels leave the others' verdict alone."""
    data = everyone()
    labels = data.labels.masked_fill(data.labels == 1, 3)
    found = examine(lighting(PLANTED), TrustedData(data.pixels, labels))
    assert found.flagged is True
    assert found.score > 0.9


@pytest.mark.parametrize("victims", [1, 2, 99])
def test_pairs_are_of_alarmed_and_other_present_classes(victims: int) -> None:
    alarmed = torch.tensor([False, True, False, True, False])
    present = torch.tensor([True, True, False, True, True])
    targets, others = ExRay(victims=victims).pairs(alarmed, present, rng())
    found = list(zip(targets.tolist(), others.tolist(), strict=True))
    assert len(set(found)) == len(found) == 2 * min(victims, 3)
    assert all(target in (1, 3) and other in {0, 1, 3, 4} - {target} for target, other in found)


def test_the_same_seed_finds_the_same_and_leaves_everything_as_it_was() -> None:
    model, data = planted(), everyone()
    weights, pixels = copy.deepcopy(model.state_dict()), data.pixels.clone()
    defense = ExRay(detector=Given(likeness()), steps=50)
    first, again = (defense.detect(model, data, rng(1)).class_scores for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(data.pixels, pixels)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
