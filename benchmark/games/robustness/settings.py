"""The robustness game and its search in a protocol file."""

from __future__ import annotations

import math
from typing import Annotated, get_args

from pydantic import Field, model_validator

from benchmark.games.settings import AttackEntry, Fraction, Natural, Part, Setting, Whole
from benchmark.hooks import Threat

#: A defender's search tries at least this many settings (Pick your Poison, Sec. V).
LEAST_POINTS = 20


class Robustness(Part):
    """Settings of the robustness game (Pick your Poison, Alg. 1 and Sec. V).

    Attributes:
        budget: clean accuracy that a defense may cost.
        shares: trusted images, as shares of the training set; all that helps a defender counts.
        held_out: share of the trusted images that judges the deployable reading.
        interval: steps between two measurements of a repair.
        seeds: repetitions; repetition s attacks class s, and begins again after the last one.
    """

    budget: Fraction
    held_out: Fraction = 0.2
    shares: Annotated[tuple[Fraction, ...], Field(min_length=1)]
    interval: Natural
    seeds: Natural
    default_m: dict[Threat, Whole]
    attacks: tuple[AttackEntry, ...]
    defenses: tuple[str, ...]

    @model_validator(mode="after")
    def _m_for_every_threat(self) -> Robustness:
        if missing := set(get_args(Threat)) - self.default_m.keys():
            raise ValueError(f"default_m lacks {', '.join(sorted(missing))}")
        return self


class Tuning(Part):
    """How defenders choose a repair's settings: on a model that they poison themselves.

    Pick your Poison, Sec. V; its numbers are not published. The model is one of repetition
    `suspect`, which no game plays.

    Attributes:
        suspect: a repetition beyond those of all games.
        held_out: share of the trusted images that judges accuracy and the own trigger's ASR.
        poisoned: share of the other ones that gets the own trigger and target.
        draws: self-poisoned models that every point of the grid is tried on.
        steps, batch_size, learning_rate: of the self-poisoning, by SGD, at most; it stops once
            the own trigger's ASR reaches `enough`.
        enough: that ASR.
        grids: for each repair, the values of each of its parameters.
    """

    suspect: Natural
    held_out: Fraction = 0.2
    poisoned: Fraction = 0.1
    draws: Natural
    steps: Natural
    batch_size: Natural
    learning_rate: Annotated[float, Field(gt=0)]
    enough: Fraction = 0.95
    grids: dict[str, dict[str, Annotated[tuple[Setting, ...], Field(min_length=1)]]]

    @model_validator(mode="after")
    def _large_enough(self) -> Tuning:
        for name, grid in self.grids.items():
            points = math.prod(len(values) for values in grid.values())
            if points < LEAST_POINTS:
                raise ValueError(
                    f"the grid of {name} has {points} points, at least {LEAST_POINTS} are required"
                )
        return self
