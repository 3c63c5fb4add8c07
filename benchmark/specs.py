"""Plugins as text: parsing settings, and writing a plugin down so that it can be built again."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from benchmark.api import Attack, Defense, Plugin
from benchmark.errors import UserError
from benchmark.games.settings import LARGEST_SINGLE, Setting
from benchmark.texts import told, unfit

if TYPE_CHECKING:
    from typing_extensions import TypeIs

#: What groups a value that has commas in it.
_CLOSED_BY = {"(": ")", "[": "]", "'": "'", '"': '"'}

#: What a parameter may be, for whoever chose something else.
ALLOWED = (
    "bool, int, float, str, a Literal of texts, a tuple or list of these, one of these or None, "
    "and another plugin"
)

#: Length of a plugin's name: it becomes part of file names.
NAME_LIMIT = 50


class RegistryError(UserError, ValueError):
    """A plugin that is unknown, ambiguous, or given parameters it does not have."""


def split_at(mark: str, text: str) -> list[str]:
    """Split where a mark stands in no brackets and no quotes.

    Raises:
        RegistryError: brackets or quotes that are not closed.
    """
    parts, closing = [""], list[str]()
    for character in text:
        if character == mark and not closing:
            parts.append("")
            continue
        parts[-1] += character
        quoted = closing[-1:] in (["'"], ['"'])
        if closing and character == closing[-1]:
            closing.pop()
        elif not quoted and character in _CLOSED_BY:
            closing.append(_CLOSED_BY[character])
        elif not quoted and character in ")]":
            closing.append("an opening bracket")
            break
    if closing:
        raise RegistryError(f"{text!r}: {closing[-1]} is missing")
    return parts


def parse(spec: str) -> tuple[str, dict[str, str]]:
    """Split ``name:key=value,…`` into the name and its settings, still as text."""
    name, _, rest = spec.partition(":")
    if "," in name or "=" in name:
        plugin, _, settings = spec.partition(",")
        known = f", as in {plugin}:{settings}" if settings and "=" not in plugin else ""
        raise RegistryError(f"{spec!r}: settings follow the name and a colon{known}")
    values: dict[str, str] = {}
    for part in filter(None, split_at(",", rest)):
        key, equals, value = part.partition("=")
        if not equals:
            raise RegistryError(f"{spec!r}: expected key=value, got {part!r}")
        if key in values:
            raise RegistryError(f"{spec!r}: {key} is given twice")
        values[key] = value
    return name, values


def parameters(plugin: type[Plugin]) -> dict[str, tuple[Any, Any]]:
    """Name, type and default of every hyper-parameter.

    Raises:
        RegistryError: a default cannot be made.
    """
    hints = typing.get_type_hints(plugin, include_extras=True)
    found = {}
    for field in dataclasses.fields(plugin):  # type: ignore[arg-type]
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            try:
                default = field.default_factory()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise RegistryError(
                    f"{plugin.name}: {field.name} has no default: {told(error)}"
                ) from None
        found[field.name] = (hints[field.name], default)
    return found


def identity(plugin: Plugin) -> dict[str, Any]:
    """Name, version and all parameters, as they are hashed into a result."""
    values = {}
    for field in parameters(type(plugin)):
        value = getattr(plugin, field)
        # As JSON reads it back.
        plain = list(value) if isinstance(value, tuple) else value
        values[field] = identity(value) if isinstance(value, Plugin) else plain
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
                yield f"{prefix}{field}={written(value)}"

    changed = ",".join(settings(plugin, ""))
    return f"{plugin.name}:{changed}" if changed else plugin.name


def written(value: object) -> str:
    """A parameter's value as it is written on the command line."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"[{','.join(written(part) or '()' for part in value)}]"
    text = str(value)
    grouped = isinstance(value, str) and (set(text) & set(",+()[]'\"") or text != text.strip(" "))
    # What has brackets that do not match stays as it is, and is refused when it is read.
    return f"({text})" if grouped and _is_closed(text) else text


def read(hint: Any, text: str) -> Any:
    """The value of a parameter of this type, from its text.

    Raises:
        ValueError: the text is no such value; of pydantic's kind, or with a sentence of ours.
    """
    value = TypeAdapter(hint).validate_python(_unpacked(hint, text))
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, float) and not math.isfinite(part):
            raise RegistryError("it must be finite")
        if isinstance(part, float) and abs(part) > LARGEST_SINGLE:
            raise RegistryError(
                f"it must lie between -{LARGEST_SINGLE} and {LARGEST_SINGLE}, which networks can "
                "compute with"
            )
        if isinstance(part, str) and (bad := unfit(part)):
            raise RegistryError(f"{bad[0]!r} in a text")
        if isinstance(part, str):
            split_at(",", part)  # or else it could not be written down
    return value


def _unpacked(hint: Any, text: str) -> object:
    kinds = flat(hint)
    if types.NoneType in kinds and _unquoted(text) == "none":
        return None
    if (list in kinds or tuple in kinds) and (text[:1], text[-1:]) == ("[", "]"):
        parts = [part.strip(" ") for part in split_at(",", text[1:-1])]
        return [_unquoted(part) for part in parts if part]
    return _unquoted(text)


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] in "('\"" and text[-1] == _CLOSED_BY[text[0]]:
        # Not "(a) and (b)", where the first bracket ends before the last one.
        return text[1:-1] if _is_closed(text[1:-1]) else text
    return text


def _is_closed(text: str) -> bool:
    """Whether every bracket and quote has its other one."""
    try:
        split_at(",", text)
    except RegistryError:
        return False
    return True


def flat(hint: Any) -> list[Any]:
    """A type without its annotations, those of a union one by one, a list or tuple as it is."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return flat(parts[0])
    if origin in (typing.Union, types.UnionType):
        return [one for part in parts for one in flat(part)]
    return [origin if origin in (list, tuple) else hint]


def is_plugin(hint: Any) -> TypeIs[type[Plugin]]:
    """Whether values of a type are other plugins."""
    return isinstance(hint, type) and issubclass(hint, Plugin)


def is_allowed(hint: Any, inner: bool = False) -> bool:
    """Whether text can say all values of a type; see `ALLOWED`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return not is_plugin(parts[0]) and is_allowed(parts[0], inner)
    if origin in (typing.Union, types.UnionType):
        return all(not is_plugin(part) and is_allowed(part, inner) for part in parts)
    if origin in (list, tuple) and not inner:
        return all(part is ... or is_allowed(part, inner=True) for part in parts)
    if origin is typing.Literal:
        return all(isinstance(part, str) for part in parts)
    if is_plugin(hint):
        return not inner
    return hint in (bool, int, float, str, types.NoneType)


def threat_or_stage(plugin: type[Plugin]) -> str:
    """An attack's threat model or a defense's stage; empty for other kinds.

    Where a threat model depends on parameters, it is that of their defaults.
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
    return f"{default:.6g}" if isinstance(default, float) else written(default)


def describe_type(hint: Any) -> str:
    """What values a parameter takes, in words."""
    metadata = getattr(hint, "__metadata__", ())
    notes = [text for note in metadata if (text := getattr(note, "description", None))]
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    if typing.get_origin(base) in (typing.Union, types.UnionType):
        return " or ".join(describe_type(part) for part in typing.get_args(base))
    if typing.get_origin(base) is typing.Literal:
        return " or ".join(map(str, typing.get_args(base)))
    if typing.get_origin(base) in (list, tuple):
        parts = [describe_type(part) for part in typing.get_args(base) if part is not ...]
        return ", ".join([f"[{'; '.join(parts)}, …]", *notes])
    if base is types.NoneType:
        return "none"
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
