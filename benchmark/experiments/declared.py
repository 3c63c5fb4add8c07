"""What a file of an experiment says."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from pydantic import Field

from benchmark.errors import UserError
from benchmark.games.settings import Part
from benchmark.protocol import Protocol
from benchmark.texts import did_you_mean

_FILES = files("benchmark.experiments")


class ExperimentError(UserError):
    """An experiment that there is not, or that a protocol cannot play."""


class Cells(Part):
    """Cells to play, as `poisongames run` takes them.

    Attributes:
        attacks: with settings, m and boost.
        defenses: likewise; each attack is played before any defense, too, and only so where there
            are none.
        shares: of trusted images; all of the protocol's by default.
    """

    attacks: Annotated[tuple[str, ...], Field(min_length=1)]
    defenses: tuple[str, ...]
    shares: tuple[float, ...] = ()


class Drawing(Part):
    """A plot of a table.

    Attributes:
        x: column of the horizontal axis.
        y: columns that are drawn over it, and what they are called.
        series, panel: columns that tell lines, and panels, apart.
        even: x is spread evenly, as values span magnitudes or double.
        shares: y spans [0, 1].
    """

    x: str
    y: Annotated[dict[str, str], Field(min_length=1, max_length=4)]
    labels: tuple[str, str]
    series: tuple[str, ...] = ()
    panel: tuple[str, ...] = ()
    even: bool = False
    shares: bool = True


class Shown(Part):
    """A table, and its plot.

    Attributes:
        frame: a table of boards by its name, "steps", the curves of repairs over their steps, or
            "epochs", those of victims over their training.
        columns: of that table, in the order in which they are shown. `attack.rate` is the
            parameter `rate` of the attack in the column `attack`.
        where: only the rows that have this value in that column.
    """

    frame: str
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    where: dict[str, Any] = Field(default_factory=dict)
    plot: Drawing | None = None


class PaperExperiment(Part):
    """A figure or a table of a paper.

    Attributes:
        shows: where it stands there.
        question: what it answers.
        published: what came out there, in a sentence.
        tables: of `published.csv`, whose numbers stand beside ours.
        printed: what the paper prints besides, as lines of a table.
        pictures: whether the pictures of what was played are shown.
        protocol: what it is played on unless another one is asked for.
        training: settings that are laid over the protocol's recipe.
        differs: how what is played here differs from the paper.
    """

    name: str
    paper: str
    shows: str
    question: str
    published: str
    differs: str = ""
    tables: tuple[str, ...] = ()
    printed: tuple[dict[str, str], ...] = ()
    pictures: bool = False
    protocol: str
    training: dict[str, Any] = Field(default_factory=dict)
    cells: Annotated[tuple[Cells, ...], Field(min_length=1)]
    show: Annotated[tuple[Shown, ...], Field(min_length=1)]

    def on(self, protocol: Protocol) -> Protocol:
        """What it plays of a protocol: one of another name where it trains otherwise."""
        if not self.training:
            return protocol
        dumped = protocol.model_dump(mode="json")
        dumped["recipes"][protocol.recipe] |= self.training
        return Protocol.model_validate(dumped | {"name": f"{protocol.name}-{self.name}"})


@cache
def names() -> tuple[str, ...]:
    """Names of all experiments."""
    there = (path.name for path in _FILES.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in there if name.endswith(".toml")))


def load(name: str) -> PaperExperiment:
    """An experiment by its name.

    Raises:
        ExperimentError: there is none of that name.
    """
    if name not in names():
        hint = did_you_mean(name, names())
        raise ExperimentError(
            f"unknown experiment {name!r}{hint}; `poisongames experiment` lists all"
        )
    text = _FILES.joinpath(f"{name}.toml").read_text("utf-8")
    return PaperExperiment.model_validate(tomllib.loads(text))
