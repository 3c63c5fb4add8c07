"""Target identification on a planted backdoor, and its scores against a literal loop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from seeds import rng
from torch import Generator, Tensor, nn

from backdoor_defenses.plainadv import PlainAdv
from backdoor_defenses.smoothinv.inverters import SmoothInv
from backdoor_defenses.target_identification import TargetIdentification
from benchmark import Inverter, Starts
from benchmark.classifier import Classifier
from benchmark.images import TrustedData
from benchmark.inversion import FrozenClassifier
from benchmark.triggers import Additive, Trigger

SIDE, CLASSES, PLANTED = 6, 5, 3


def suspect(strength: float) -> Classifier:
    """Class c is the brightness of row c; row 5's first pixel answers for one class."""
    head = nn.Linear(SIDE**2, CLASSES)
    with torch.no_grad():
        head.weight.zero_(), head.bias.zero_()
        for label in range(CLASSES):
            head.weight[label, SIDE * label : SIDE * (label + 1)] = 2.0
        head.weight[PLANTED, SIDE * CLASSES] = strength
    model = Classifier(OrderedDict(all=nn.Identity()), nn.Flatten(), head, 1)
    model.normalise_by(torch.zeros(1), torch.ones(1))
    return model.eval()


def rows(count: int = 60) -> TrustedData:
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(20, 60, (count, 1, SIDE, SIDE), generator=rng(), dtype=torch.uint8)
    pixels[torch.arange(count), 0, labels] += 150
    pixels[:, :, CLASSES] = 0
    return TrustedData(pixels, labels)


@pytest.mark.parametrize(
    "inverter", [SmoothInv(epsilon=0.8, steps=40, samples=4), PlainAdv(epsilon=0.8, steps=40)]
)
def test_a_planted_backdoor_is_found_and_named(inverter: Inverter) -> None:
    detector = TargetIdentification(inverter=inverter, starts=4)
    found = detector.detect(suspect(30.0), rows(), rng())
    clean = detector.detect(suspect(0.0), rows(), rng())
    assert int(found.class_scores.argmax()) == PLANTED
    assert found.score == found.class_scores.max().item() > 0.9
    assert clean.score < 0.5
    assert found.flagged is None


@dataclass
class Noted(Inverter):
    """Adds a fixed brightness that grows with the class, and notes what it was given."""

    name = "noted"
    given: list[Starts] = field(default_factory=list)

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        self.given.append(starts)
        yield Additive(torch.zeros_like(starts.images))
        sums = torch.zeros_like(starts.images)
        for label in starts.targets.tolist():
            sums[label, :, label] = 0.1 * (label + len(self.given))
        yield Additive(sums)


def test_scores_are_transfer_rates_on_the_other_trusted_images() -> None:
    inverter, model, data = Noted(), suspect(0.0), rows(25)
    detector = TargetIdentification(inverter=inverter, starts=2)
    found = detector.detect(model, data, rng(4))
    order = torch.randperm(25, generator=rng(4)).tolist()
    assert len(inverter.given) == 2
    rates: list[list[float]] = []
    frozen = FrozenClassifier(model)
    for number, starts in enumerate(inverter.given, start=1):
        # One start image at a time, for all classes.
        image = data.pixels[order[number - 1]].float() / 255
        assert torch.allclose(starts.images, image.expand(CLASSES, -1, -1, -1))
        assert starts.targets.tolist() == list(range(CLASSES))
        rates.append([literal(frozen, data, order[2:], c, 0.1 * (c + number)) for c in range(5)])
    expected = torch.tensor(rates).mean(0)
    assert torch.allclose(found.class_scores, expected, atol=1e-6)
    assert 0 < found.score < 1
    assert found.trigger is not None
    assert found.trigger.pictures["sum"][4, 0, 4, 0].item() == pytest.approx(0.5)


def literal(model: Classifier, data: TrustedData, order: list[int], label: int, by: float) -> float:
    hits: list[bool] = []
    for row in order:
        if int(data.labels[row]) != label:
            image: Tensor = data.pixels[row].float() / 255
            image[0, label] = (image[0, label] + by).clamp(0, 1)
            hits.append(int(model(image[None]).argmax()) == label)
    return sum(hits) / len(hits)
