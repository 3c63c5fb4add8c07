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
from benchmark.games.arena import Arena
from benchmark.games.exam import Exam
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
def arena() -> Arena:
    """The tiny protocol on the CPU."""
    protocol = protocols.load(str(Path(__file__).with_name("tiny.toml")))
    registry = Registry()
    return Arena(protocol, data.load(registry.create(Dataset, protocol.splits.dataset)), registry)


def m_of(attack: Attack) -> int:
    """How many images an attack may change here."""
    return arena().protocol.robustness.default_m[attack.threat]


@cache
def _attack() -> Corner:
    attack = Corner()
    attack.setup(arena().attacker_view(0), arena().rng("corner"))
    return attack


@cache
def training() -> TrainingSet:
    """Training images, some of them poisoned."""
    target = arena().target(0)
    return victims.collect(arena(), _attack(), m_of(_attack()), 1, target, arena().rng("collect"))


@cache
def suspect() -> Classifier:
    """A victim of these images."""
    return victims.train(arena(), _attack(), training(), arena().rng("train"))


@cache
def exam() -> Exam:
    """Clean and triggered images; the target is the attack's."""
    triggered = victims.trigger_test_images(arena(), _attack(), arena().rng("test"))
    splits = arena().splits
    return Exam(splits.validation, splits.test, triggered, arena().target(0))
