"""The detectability game in a protocol file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from benchmark.games.settings import AttackEntry, Fraction, Natural, Part, Whole


class Population(Part):
    """Poisoned models of one attack, for each number m of poisoned images."""

    attack: str
    m: Annotated[tuple[Whole, ...], Field(min_length=1)]
    boost: Natural = 1

    def entries(self) -> list[AttackEntry]:
        """One attack for each number of poisoned images."""
        return [AttackEntry(attack=self.attack, m=m, boost=self.boost) for m in self.m]


class Detectability(Part):
    """Settings of the detectability game (Pick your Poison, Alg. 2).

    A population has `models` clean and as many poisoned models; every detector examines each
    `repeats` times, with other trusted images and randomness.
    """

    models: Natural
    repeats: Natural
    share: Fraction
    attacks: tuple[Population, ...]
    detectors: tuple[str, ...]
