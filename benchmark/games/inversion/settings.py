"""The inversion game in a protocol file."""

from __future__ import annotations

import math
from collections.abc import Container
from itertools import product
from typing import Annotated

from pydantic import Field, model_validator

from benchmark.games.settings import AttackEntry, Natural, Part


class Inversion(Part):
    """Settings of the inversion game (Sun and Kolter, Tab. 2 and 5).

    Attributes:
        models: poisoned models of each attack.
        start_images: clean images that every inverter begins from, one by one.
        curve_starts: how many of them, the first ones, all classes are tried from.
        radii: values of `epsilon`, L2 norms in [0, 1] pixels and the same for every attack, that
            all classes are tried with, where an inverter has that parameter (Fig. 8).
        runs: attempts that every inverter has at least in the column with restarts.
        selection, evaluation: images that configurations are chosen and reported on.
        sigmas: noise levels that a smoothed classifier is checked at.
        inverters: with the settings that all classes are tried with, but for the radius.
        configurations: for an inverter, the values of parameters that the best is taken of.
    """

    models: Natural
    start_images: Natural
    curve_starts: Natural
    radii: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=4)]
    runs: Natural
    selection: Natural
    evaluation: Natural
    sigmas: tuple[Annotated[float, Field(ge=0)], ...]
    attacks: tuple[AttackEntry, ...]
    inverters: tuple[str, ...]
    configurations: dict[str, dict[str, Annotated[tuple[float, ...], Field(min_length=1)]]]

    @model_validator(mode="after")
    def _configures_what_is_played(self) -> Inversion:
        played = {spec.split(":")[0] for spec in self.inverters}
        if unknown := sorted(self.configurations.keys() - played):
            raise ValueError(f"configurations of {unknown[0]}, which is not among the inverters")
        return self

    @model_validator(mode="after")
    def _sweeps_upwards(self) -> Inversion:
        if list(self.radii) != sorted(set(self.radii)):
            raise ValueError(f"radii must rise, got {', '.join(map(str, self.radii))}")
        if self.curve_starts > self.start_images:
            raise ValueError(
                f"curve_starts is {self.curve_starts}, there are {self.start_images} start_images"
            )
        return self

    def sweep(self, params: Container[str]) -> tuple[float | None, ...]:
        """Radii that an inverter with these parameters tries all classes at; None for its own."""
        return self.radii if "epsilon" in params else (None,)

    def attempts(self, inverter: str) -> list[tuple[dict[str, float], int]]:
        """Every configuration of an inverter, again with restarts until there are `runs`.

        Returns:
            Parameters and number of the restart, which is 0 at first, in the order of playing.
        """
        grid = self.configurations.get(inverter, {})
        points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        restarts = range(math.ceil(self.runs / len(points)))
        return [(point, restart) for restart in restarts for point in points]
