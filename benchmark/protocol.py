"""Evaluation protocols: immutable TOML files whose hash goes into every result."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Container
from functools import cached_property
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmark.errors import UserError

Whole = Annotated[int, Field(ge=0)]
Natural = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]

#: A defender's search tries at least this many settings (Pick your Poison, Sec. V).
LEAST_POINTS = 20

_FOLDER = files("benchmark") / "protocols"


class ProtocolError(UserError, ValueError):
    """A protocol that cannot be found, read or trusted."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Splits(_Part):
    """Sizes of the disjoint splits. `test` and `validation` share the source's test images
    where it has any; the others come from its training images."""

    dataset: str
    train: Natural
    trusted: Natural
    auxiliary: Natural
    validation: Natural
    test: Natural


class Augmentation(_Part):
    pad: Whole = 0
    flip: bool = False


class Recipe(_Part):
    """How a victim is trained: SGD with momentum."""

    epochs: Natural
    batch_size: Natural
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["bfloat16", "float32"] = "bfloat16"

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Recipe:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AttackEntry(_Part):
    """An attack of the grid with its number of poisoned images m and their boosting b.

    Without m the protocol's `default_m` for the attack's threat model holds.
    """

    attack: str
    m: Whole | None = None
    boost: Natural = 1


class Robustness(_Part):
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
    default_m: dict[Literal["poison-label", "clean-label", "code"], Whole]
    attacks: tuple[AttackEntry, ...]
    defenses: tuple[str, ...]

    @model_validator(mode="after")
    def _m_for_every_threat(self) -> Robustness:
        if missing := {"poison-label", "clean-label", "code"} - self.default_m.keys():
            raise ValueError(f"default_m lacks {', '.join(sorted(missing))}")
        return self


class Population(_Part):
    """Poisoned models of one attack, for each number m of poisoned images."""

    attack: str
    m: Annotated[tuple[Whole, ...], Field(min_length=1)]
    boost: Natural = 1


class Detectability(_Part):
    """Settings of the detectability game (Pick your Poison, Alg. 2).

    A population has `models` clean and as many poisoned models; every detector examines each
    `repeats` times, with other trusted images and randomness.
    """

    models: Natural
    repeats: Natural
    share: Fraction
    attacks: tuple[Population, ...]
    detectors: tuple[str, ...]


class Inversion(_Part):
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


#: A value of a grid: a number, or the name of a choice.
Setting = float | str


class Tuning(_Part):
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


class Protocol(_Part):
    """A fixed way to play; two protocols are the same if and only if `sha256` is."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    summary: str
    splits: Splits
    architecture: str
    augmentation: Augmentation
    recipe: str
    recipes: dict[str, Recipe]
    robustness: Robustness
    detectability: Detectability | None = None
    inversion: Inversion | None = None
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        if self.recipe not in self.recipes:
            raise ValueError(
                f"recipe {self.recipe!r} is not among recipes: {', '.join(self.recipes)}"
            )
        shares = self.robustness.shares
        repetitions = [self.robustness.seeds]
        if self.detectability is not None:
            shares = (*shares, self.detectability.share)
            repetitions.append(self.detectability.models)
        if self.inversion is not None:
            repetitions.append(self.inversion.models)
        if self.tuning is not None and self.tuning.suspect < max(repetitions):
            raise ValueError(
                f"tuning.suspect is repetition {self.tuning.suspect}, which is reported; choose "
                f"{max(repetitions)} or more"
            )
        for share in shares:
            images = round(share * self.splits.train)
            # One of them judges, one is worked with.
            if not 2 <= images <= self.splits.trusted:
                raise ValueError(
                    f"a trusted share of {share} is {images} images, splits.trusted allows "
                    f"2 to {self.splits.trusted}"
                )
        if (game := self.inversion) is not None:
            for what, asked, split in (
                ("evaluation", game.evaluation, "test"),
                ("selection", game.selection, "validation"),
                ("start_images", game.start_images, "trusted"),
            ):
                if asked > (there := getattr(self.splits, split)):
                    raise ValueError(f"inversion.{what} is {asked}, splits.{split} has {there}")
        return self

    @cached_property
    def sha256(self) -> str:
        return digest(self.model_dump(mode="json"))

    def seed(self, *purpose: object) -> int:
        """A seed in [0, 2^63) that depends on this protocol's name and the named parts only."""
        return named_seed(self.name, *purpose)


def named_seed(protocol: str, *purpose: object) -> int:
    """A seed in [0, 2^63) from a protocol's name and the named parts."""
    text = json.dumps([protocol, *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON form of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def withdrawn() -> set[str]:
    """Names of protocols that were taken back; they stay refused."""
    return set((_FOLDER / "withdrawn.txt").read_text().split())


def released() -> dict[str, str]:
    """Name and SHA-256 of every released protocol, from the lock file."""
    lines = (_FOLDER / "released.lock").read_text().splitlines()
    return {name: sha for sha, name in (line.split() for line in lines)}


def load(name_or_path: str) -> Protocol:
    """Read a released protocol by name, or one's own by the path of its TOML file.

    Raises:
        ProtocolError: not found, not valid, or a released one that was changed.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise ProtocolError(f"{path}: no such protocol file")
        protocol = _parse(path.read_text(), str(path))
        _refuse_withdrawn(protocol.name)
        expected = released().get(protocol.name, protocol.sha256)
    else:
        names = released()
        _refuse_withdrawn(name_or_path)
        if name_or_path not in names:
            raise ProtocolError(
                f"unknown protocol {name_or_path!r}; there are {', '.join(sorted(names))}, "
                "or give the path of a .toml file"
            )
        protocol = _parse((_FOLDER / f"{name_or_path}.toml").read_text(), name_or_path)
        expected = names[name_or_path]
    if protocol.sha256 != expected:
        raise ProtocolError(
            f"protocol {protocol.name!r} was released with hash {expected[:12]} and now has "
            f"{protocol.sha256[:12]}; a changed protocol needs a new name"
        )
    return protocol


def _refuse_withdrawn(name: str) -> None:
    if name in withdrawn():
        raise ProtocolError(
            f"protocol {name!r} was withdrawn, see CHANGELOG.md; there are "
            f"{', '.join(sorted(released()))}"
        )


def tuned_folder(name_or_path: str) -> Path:
    """Where the searches of a protocol's defenders are kept: beside its file."""
    if name_or_path.endswith(".toml"):
        return Path(name_or_path).with_suffix(".tuned")
    return Path(str(_FOLDER)) / f"{name_or_path}.tuned"


def _parse(text: str, where: str) -> Protocol:
    try:
        return Protocol.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"{where}: not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "protocol"
        raise ProtocolError(f"{where}: {field}: {first['msg']}") from None
