"""Evaluation protocols: immutable TOML files whose hash goes into every result."""

from __future__ import annotations

import hashlib
import json
import tomllib
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from benchmark.errors import UserError
from benchmark.games.detectability.settings import Detectability
from benchmark.games.inversion.settings import Inversion
from benchmark.games.robustness.settings import Robustness, Tuning
from benchmark.games.settings import Natural, Part, Whole, absent_by_default
from benchmark.texts import did_you_mean, first_error

_FOLDER = files("benchmark") / "protocols"


class ProtocolError(UserError, ValueError):
    """A protocol that cannot be found, read or trusted."""


class Splits(Part):
    """Sizes of the disjoint splits. `test` and `validation` share the source's test images
    where it has any; the others come from its training images."""

    dataset: str
    train: Natural
    trusted: Natural
    auxiliary: Natural
    validation: Natural
    test: Natural

    def share_of_train(self, share: float) -> int:
        """How many images a share of the training set is."""
        return round(share * self.train)


class Augmentation(Part):
    pad: Whole = 0
    flip: bool = False


class Recipe(Part):
    """How a victim is trained: SGD with momentum.

    Attributes:
        init: weights that it starts from: a file .safetensors with tensors by the names of a
            `Classifier` or of torchvision, `mean` and `std` of normalisation among them, or weights
            that torchvision publishes, such as ResNet18_Weights.IMAGENET1K_V1. All are drawn where
            it is not given.
        trains: stages by name, "neck" or "head", all by default; other parts stay as they start,
            their batch norms in evaluation mode.
        followed: the answers after each epoch are noted, too; its weights stay in memory until the
            training has ended.
    """

    epochs: Natural
    batch_size: Natural
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    init: str | None = None
    trains: tuple[str, ...] = ()
    followed: bool = False

    _as_before = absent_by_default("init", "trains", "followed")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Recipe:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Protocol(Part):
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
            images = self.splits.share_of_train(share)
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

    @property
    def budget(self) -> float:
        """Clean accuracy that a defense may cost, as a share."""
        return self.robustness.budget

    @property
    def shares(self) -> tuple[float, ...]:
        """All trusted shares of repairs as they are played, first the one that detectors get."""
        detectors = [] if self.detectability is None else [self.detectability.share]
        return tuple(dict.fromkeys([*detectors, *self.robustness.shares]))

    @cached_property
    def sha256(self) -> str:
        dumped, fields = self.model_dump(mode="json"), list(Protocol.model_fields)
        # What came after `tuning` counts where it is played only, so that older hashes stay.
        first = fields[: fields.index("tuning") + 1]
        return digest({k: value for k, value in dumped.items() if value is not None or k in first})

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
        if path.is_dir():
            raise ProtocolError(f"{path} is a folder; name a .toml file in it")
        if not path.is_file():
            hint = did_you_mean(path.name, (one.name for one in path.parent.glob("*.toml")))
            raise ProtocolError(f"{path}: no such protocol file{hint}")
        protocol = _parse(_text(path), str(path))
        _refuse_withdrawn(protocol.name)
        expected = released().get(protocol.name, protocol.sha256)
    else:
        names = released()
        _refuse_withdrawn(name_or_path)
        if name_or_path not in names:
            raise ProtocolError(
                f"unknown protocol {name_or_path!r}{did_you_mean(name_or_path, names)}; there are "
                f"{', '.join(sorted(names))}, or give the path of a .toml file"
            )
        protocol = _parse((_FOLDER / f"{name_or_path}.toml").read_text(), name_or_path)
        expected = names[name_or_path]
    if protocol.sha256 != expected:
        raise ProtocolError(
            f"protocol {protocol.name!r} was released with hash {expected[:12]} and now has "
            f"{protocol.sha256[:12]}; a changed protocol needs a new name"
        )
    return protocol


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(
            f"{path}: byte {error.start} is none of UTF-8; save the file as UTF-8"
        ) from None
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read: {error.strerror}") from None


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


@cache
def _parse(text: str, where: str) -> Protocol:
    try:
        return Protocol.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"{where}: not valid TOML: {error}") from None
    except ValidationError as error:
        field, reason = first_error(error, whole="protocol")
        raise ProtocolError(f"{where}: {field}: {reason}") from None
