"""Plugins as text: parsing settings, and writing a plugin down so that it can be built again."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.api import Attack, Defense, Plugin
from benchmark.errors import UserError
from benchmark.games.settings import Setting

#: Characters that a plugin's name may have: it becomes part of file names.
NAME_LIMIT = 50


class RegistryError(UserError, ValueError):
    """A plugin that is unknown, ambiguous, or given parameters it does not have."""


def parse(spec: str) -> tuple[str, dict[str, str]]:
    """Split ``name:key=value,…`` into the name and its settings, still as text."""
    name, _, rest = spec.partition(":")
    values: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise RegistryError(f"{spec!r}: expected key=value, got {part!r}")
        if key in values:
            raise RegistryError(f"{spec!r}: {key} is given twice")
        values[key] = value
    return name, values


def parameters(plugin: type[Plugin]) -> dict[str, tuple[Any, Any]]:
    """Name, type and default of every hyper-parameter."""
    hints = typing.get_type_hints(plugin, include_extras=True)
    found = {}
    for field in dataclasses.fields(plugin):  # type: ignore[arg-type]
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[field.name] = (hints[field.name], default)
    return found


def identity(plugin: Plugin) -> dict[str, Any]:
    """Name, version and all parameters, as they are hashed into a result."""
    values = {}
    for field in parameters(type(plugin)):
        value = getattr(plugin, field)
        values[field] = identity(value) if isinstance(value, Plugin) else value
    return {"name": plugin.name, "version": plugin.version, "params": values}


def label(plugin: Plugin) -> str:
    """The shortest text from which `Registry.create` builds the same plugin again."""

    def settings(plugin: Plugin, prefix: str) -> Iterable[str]:
        for field, (_, default) in parameters(type(plugin)).items():
            value = getattr(plugin, field)
            if isinstance(value, Plugin):
                if not isinstance(default, Plugin) or value.name != default.name:
                    yield f"{prefix}{field}={value.name}"
                yield from settings(value, f"{prefix}{field}.")
            elif value != default:
                yield f"{prefix}{field}={value}"

    changed = ",".join(settings(plugin, ""))
    return f"{plugin.name}:{changed}" if changed else plugin.name


def nature(plugin: type[Plugin]) -> str:
    """An attack's threat model or a defense's stage; empty for other kinds.

    A threat model that depends on parameters is told for their defaults.
    """
    if issubclass(plugin, Defense):
        return plugin.stage
    if issubclass(plugin, Attack):
        return plugin().threat
    return ""


def shown_default(default: Any) -> str:
    """A default value as one would write it on the command line."""
    if default is dataclasses.MISSING:
        return "(required)"
    if isinstance(default, Plugin):
        return label(default)
    return f"{default:.6g}" if isinstance(default, float) else str(default)


def describe_type(hint: Any) -> str:
    """What values a parameter takes, in words."""
    notes = [note.description for note in getattr(hint, "__metadata__", ()) if note.description]
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    if typing.get_origin(base) in (typing.Union, types.UnionType):
        return " or ".join(describe_type(part) for part in typing.get_args(base))
    if typing.get_origin(base) is typing.Literal:
        return " or ".join(map(str, typing.get_args(base)))
    return ", ".join([getattr(base, "__name__", str(base)), *notes])


def with_settings(spec: str, values: Mapping[str, Setting]) -> str:
    """Lay numbers and names over the settings of a spec."""
    name, settings = parse(spec)
    written = {
        key: value if isinstance(value, str) else f"{value:.12g}" for key, value in values.items()
    }
    return joined(name, settings | written)


def merged(base: str, spec: str) -> str:
    """Lay the settings of `spec` over those of `base`."""
    name, settings = parse(base)
    new = parse(spec)[1]
    # Another inner plugin does not inherit the settings of the one it replaces.
    kept = {key: value for key, value in settings.items() if key.split(".")[0] not in new}
    return joined(name, kept | new)


def joined(name: str, settings: dict[str, str]) -> str:
    joined = ",".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}:{joined}" if joined else name
