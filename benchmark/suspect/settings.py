"""What examines a model; `defaults.toml` names what does unless told otherwise."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, TypeVar

from benchmark.api import Defense, Repair
from benchmark.registry import Registry
from benchmark.specs import RegistryError, parameters, parse, with_settings

D = TypeVar("D", bound=Defense)


def _told() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("defaults.toml").read_text("utf-8"))


def defaults(shape: Sequence[int]) -> tuple[str, ...]:
    """The detectors, by name and settings, for images of shape (C, H, W)."""
    told = _told()
    large = shape[1] * shape[2] > told["large"]["beyond"] ** 2
    return tuple((told["large"] if large else told)["detectors"])


def create_repair(registry: Registry, spec: str) -> Repair:
    """A repair, in as many steps as a few hundred images are worth unless the spec says more.

    Raises:
        RegistryError: no such repair.
    """
    name, asked = parse(spec)
    known = parameters(registry.find(Defense, name))
    fewer = {k: str(v) for k, v in _told()["repair"].items() if k in known and k not in asked}
    return create(registry, Repair, with_settings(spec, fewer))


def create(registry: Registry, kind: type[D], spec: str) -> D:
    """Build a defense of one stage from its name and settings.

    Raises:
        RegistryError: no such plugin, or one of another stage.
    """
    made = registry.create(Defense, spec)
    if isinstance(made, kind):
        return made
    names = [entry.plugin.name for entry in registry.entries if issubclass(entry.plugin, kind)]
    raise RegistryError(
        f"{made.name} is no {kind.__name__.lower()}; there are {', '.join(names) or 'none'}"
    )
