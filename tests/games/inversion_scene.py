"""A scene of the inversion game: digits, four white pixels, and a model that is made by hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Generator, nn

from benchmark.api import Images, Inverter, PoisoningAttack, Starts
from benchmark.classifier import Classifier
from benchmark.data.named import Digits
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.experiment import Experiment
from benchmark.games.inversion.data import InversionData, draw
from benchmark.games.inversion.evidence import arrays
from benchmark.games.inversion.play import Outcome, play
from benchmark.games.inversion.score import score
from benchmark.games.inversion.settings import Inversion
from benchmark.images import to_bytes
from benchmark.protocol import Protocol
from benchmark.registry import Registry
from benchmark.triggers import Additive, Trigger

TARGET, CLASSES, SHAPE = 3, 10, (1, 16, 16)
STARTS, CURVE_STARTS, SELECTION, EVALUATION = 3, 2, 30, 50
RADII = (1.0, 2.0, 4.0, 8.0)


def game(**changes: Any) -> Inversion:
    found: dict[str, Any] = {
        "models": 1,
        "start_images": STARTS,
        "curve_starts": CURVE_STARTS,
        "radii": RADII,
        "runs": 1,
        "selection": SELECTION,
        "evaluation": EVALUATION,
        "sigmas": [],
        "attacks": [],
        "inverters": ["own"],
        "configurations": {},
    }
    return Inversion.model_validate(found | changes)


@cache
def experiment() -> Experiment:
    recipe = {"epochs": 1, "batch_size": 50, "learning_rate": 0.1, "precision": "float32"}
    robustness = {"budget": 0.5, "shares": [0.1], "interval": 1, "seeds": 1,
                  "default_m": {"poison-label": 5, "clean-label": 5, "code": 5},
                  "attacks": [], "defenses": []}  # fmt: skip
    protocol = Protocol.model_validate(
        {
            "name": "inverted",
            "summary": "for the inversion game",
            "splits": {"dataset": "digits", "train": 100, "trusted": 60, "auxiliary": 10,
                       "validation": 40, "test": 70},
            "architecture": "resnet-small:width=16",
            "augmentation": {},
            "recipe": "short",
            "recipes": {"short": recipe},
            "robustness": robustness,
            "inversion": game(),
        }
    )  # fmt: skip
    return Experiment(protocol, Digits().decode(()), Registry())


@dataclass
class Corner(PoisoningAttack):
    """Four white pixels."""

    name = "corner"

    def trigger(self, images: Images, rng: Generator) -> Images:
        changed = images.clone()
        changed[:, :, :2, :2] = 1
        return changed


def linear(backdoor: float) -> Classifier:
    """Random linear classes, and a target that answers to the mean of the four pixels."""
    head = nn.Linear(256, CLASSES)
    rng = Generator().manual_seed(5)
    with torch.no_grad():
        head.weight.copy_(torch.randn(CLASSES, 256, generator=rng))
        head.weight[TARGET].view(16, 16)[:2, :2] += backdoor / 4
        head.bias.zero_()
        head.bias[TARGET] = -backdoor / 6
    model = Classifier(OrderedDict(only=nn.Identity()), nn.Flatten(), head, 1)
    model.normalise_by(torch.zeros(1), torch.ones(1))
    return model.eval()


def suspect() -> Classifier:
    return linear(60)


@cache
def view(seed: int = 0) -> InversionData:
    test, attack = experiment().splits.test, Corner()
    triggered = to_bytes(attack.trigger(test.images, experiment().rng()))
    evaluation_set = EvaluationSet(experiment().splits.validation, test, triggered, TARGET)
    return draw(experiment(), evaluation_set, attack, game(), seed)


class Own(Inverter):
    """Base of this test's inverters, which are told things through their class."""

    name = "own"

    def __init__(self, **params: float) -> None:
        self.params = params


class Truth(Own):
    """Returns the true trigger, as the sum that whitens four pixels, weaker by `share`."""

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        change = torch.zeros_like(starts.images)
        change[:, :, :2, :2] = self.params.get("share", 1.0)
        change[starts.targets != TARGET] = 0
        yield Additive(change)


class Nothing(Own):
    """Changes nothing, in as many steps as it is told."""

    steps: ClassVar[int] = 1

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        for step in range(self.steps):
            yield Additive(torch.full_like(starts.images, 0.0 if step == 0 else step / 100))


class Random(Own):
    """Random sums, which whiten the four pixels more from start to start."""

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        change = torch.randn(starts.images.shape, generator=rng) * 0.4
        change[:, :, :2, :2] = torch.linspace(0.2, 0.5, len(change))[:, None, None, None]
        yield Additive(change)


def run(kind: Callable[..., Inverter], *, seed: int = 0, **changes: Any) -> Outcome:
    """Play the game on the first scene."""
    return play(
        experiment(), view(), suspect(), linear(0), lambda params: kind(**params), game(**changes),
        seed_parts=("corner", 4, "own", seed),
    )  # fmt: skip


def told(outcome: Outcome, part: str) -> list[Any]:
    """What the record says of every start image."""
    runs = [(attempt.params, attempt.restart) for attempt in outcome.attempts]
    found = score(arrays(outcome), runs, list(outcome.classes))
    return [getattr(start, part) for start in found["starts"]]
