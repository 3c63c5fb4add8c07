"""The little world that every plugin is checked in: a tiny protocol, and a model with a backdoor.

It is made of the games' own parts. All of it is made once per process and shared by all checks;
nothing of it is handed to a plugin other than as a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Generator

from benchmark import data
from benchmark import protocol as protocols
from benchmark.api import Attack, Dataset, Images, PoisoningAttack
from benchmark.classifier import Classifier
from benchmark.games import victims
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.experiment import Experiment
from benchmark.games.victims import TrainingSet
from benchmark.registry import Registry

#: Share of the training images that a defender is given.
SHARE = 0.15


@dataclass
class Corner(PoisoningAttack):
    """Whiten a corner and relabel; the backdoor that defenses are checked on."""

    name = "corner"

    def trigger(self, images: Images, rng: Generator) -> Images:
        stamped = images.clone()
        stamped[:, :, :3, :3] = 1
        return stamped


@cache
def experiment() -> Experiment:
    """The tiny protocol on the CPU."""
    protocol = protocols.load(str(Path(__file__).with_name("tiny.toml")))
    registry = Registry()
    return Experiment(
        protocol, data.load(registry.create(Dataset, protocol.splits.dataset)), registry
    )


def m_of(attack: Attack) -> int:
    """How many images an attack may change here."""
    return experiment().protocol.robustness.default_m[attack.threat]


@cache
def _attack() -> Corner:
    attack = Corner()
    attack.setup(experiment().attacker_view(0), experiment().rng("corner"))
    return attack


@cache
def training() -> TrainingSet:
    """Training images, some of them poisoned."""
    target = experiment().target(0)
    return victims.collect(
        experiment(), _attack(), m_of(_attack()), 1, target, experiment().rng("collect")
    )


@cache
def suspect() -> Classifier:
    """A victim of these images."""
    return victims.train(experiment(), _attack(), training(), experiment().rng("train"))


@cache
def clean() -> Classifier:
    """A model of the same images before they were poisoned."""
    training = victims.collect(experiment(), None, 0, 1, experiment().target(0), experiment().rng())
    return victims.train(experiment(), None, training, experiment().rng("train"))


@cache
def evaluation_set() -> EvaluationSet:
    """Clean and triggered images; the target is the attack's."""
    triggered = victims.trigger_test_images(experiment(), _attack(), experiment().rng("test"))
    splits = experiment().splits
    return EvaluationSet(splits.validation, splits.test, triggered, experiment().target(0))
