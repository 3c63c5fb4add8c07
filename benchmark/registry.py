"""Finds plugins, keeps a broken one from stopping the others, and builds them from text."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pluggy
from pydantic import ValidationError

from benchmark.api import (
    DEFENSES,
    Architecture,
    Attack,
    CodePoisoningAttack,
    Dataset,
    Defense,
    Plugin,
    PoisoningAttack,
)
from benchmark.hooks import COMMANDS, HookSpecs, origin, points
from benchmark.hooks import GROUP as GROUP
from benchmark.registration import check, check_threat
from benchmark.specs import (
    RegistryError,
    identity,
    is_plugin,
    label,
    parameters,
    parse,
    read,
    written,
)
from benchmark.texts import did_you_mean, first_error, told
from benchmark.unchanged import unchanged

P = TypeVar("P", bound=Plugin)

#: What each hook may register: the bases a plugin must derive from.
KINDS: dict[str, tuple[type[Plugin], tuple[type[Plugin], ...]]] = {
    "register_attacks": (Attack, (PoisoningAttack, CodePoisoningAttack)),
    "register_defenses": (Defense, DEFENSES),
    "register_datasets": (Dataset, (Dataset,)),
    "register_architectures": (Architecture, (Architecture,)),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered plugin and where it came from."""

    plugin: type[Plugin]
    kind: type[Plugin]
    origin: str

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.plugin) or "").split("\n", 1)[0]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A plugin that could not be imported or registered, and why."""

    name: str
    origin: str
    error: str


class Registry:
    """All plugins of this environment and of the files in `paths`.

    Attributes:
        entries: what registered: attacks, defenses, data sets, architectures, each by name.
        failures: what did not; nothing else suffers from it.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        # A file that is given twice, or by two names, counts once.
        once: dict[str, Path] = {}
        for path in paths:
            once.setdefault(os.path.realpath(path), path)
        self.paths = tuple(once.values())
        self.failures: list[Failure] = []
        self._found: dict[tuple[type[Plugin], str], list[Entry]] = {}
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(HookSpecs)
        for point in points(GROUP):
            self._add(point.name, origin(point), point.load)
        for path in self.paths:
            self._add(path.stem, str(path), partial(_load_file, path))

    @property
    def entries(self) -> list[Entry]:
        found = [entry for entries in self._found.values() for entry in entries]
        kinds = [kind for kind, _ in KINDS.values()]
        return sorted(found, key=lambda entry: (kinds.index(entry.kind), entry.plugin.name))

    def _add(self, name: str, origin: str, load: Callable[[], ModuleType]) -> None:
        try:
            with unchanged():
                module = load()
            if self._manager.is_registered(module):
                raise RegistryError(f"{module.__name__} is registered already by another name")
            self._manager.register(module, name=f"{origin}:{name}")
            callers = self._manager.get_hookcallers(module) or []
            unknown = [caller.name for caller in callers if caller.name not in KINDS]
            if "register_commands" in unknown:
                raise RegistryError(f"register_commands belongs into a module of {COMMANDS}")
            if unknown or not callers:
                what = f"unknown hook {unknown[0]}" if unknown else "no hook implementation"
                raise RegistryError(f"{what}; there are {', '.join(KINDS)}")
            for caller in callers:
                kind, bases = KINDS[caller.name]

                def register(
                    plugin: type[Any],
                    kind: type[Plugin] = kind,
                    bases: tuple[type[Plugin], ...] = bases,
                ) -> None:
                    check(plugin, bases)
                    entries = self._found.setdefault((kind, plugin.name), [])
                    # Of distributions neither is the first one; a file comes after all of them.
                    if entries and Path(origin) in self.paths:
                        raise RegistryError(
                            f"the name {plugin.name!r} is taken by a plugin of "
                            f"{entries[0].origin}; choose another name"
                        )
                    entries.append(Entry(plugin, kind, origin))

                # Not the hook itself: one implementation at a time keeps errors apart.
                for implementation in caller.get_hookimpls():
                    if implementation.plugin is module:
                        with unchanged():
                            implementation.function(register)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what a file raises for itself may be of any kind
            self.failures.append(Failure(name, origin, told(error)))

    def find(self, kind: type[P], name: str) -> type[P]:
        """Look a plugin up by name.

        Raises:
            RegistryError: no such plugin, or two distributions claim the name.
        """
        known = [plugin for of, plugin in self._found if of is kind]
        if name not in known:
            for failure in self.failures:
                if failure.name == name:
                    raise RegistryError(
                        f"{name!r} from {failure.origin} could not be loaded: {failure.error}"
                    )
            raise RegistryError(_unknown(kind.__name__.lower(), name, known))
        entries = self._found[kind, name]
        if len(entries) > 1:
            origins = " and ".join(entry.origin for entry in entries)
            raise RegistryError(
                f"two plugins are named {name!r}, from {origins}; uninstall or rename one"
            )
        return typing.cast(type[P], entries[0].plugin)

    def version_of(self, what: str, name: str) -> int | None:
        """Version of the attack or defense of a name, None where none is installed."""
        kind: type[Plugin] = {"attack": Attack, "defense": Defense}[what]
        entries = self._found.get((kind, name), [])
        return entries[0].plugin.version if len(entries) == 1 else None

    def create(self, kind: type[P], spec: str) -> P:
        """Build a plugin from ``name`` or ``name:field=value,field=value``.

        A field that holds another plugin takes its name; the inner one's fields are set
        with a dot, as in ``outer:base=inner,base.side=0.1``.

        Raises:
            RegistryError: unknown name or field, or a value that is not allowed.
        """
        name, values = parse(spec)
        return self._build(kind, name, values, name)

    def build_again(self, kind: type[Plugin], plugin: Plugin) -> None:
        """Refuse a plugin that its label, which is all that a worker is told, makes another one.

        Raises:
            RegistryError: it names the parameter and both values.
        """
        text = label(plugin)
        try:
            again = self.create(kind, text)
        except RegistryError as error:
            why = str(error)
        else:
            one, other = identity(plugin)["params"], identity(again)["params"]
            different = [field for field in one if one[field] != other[field]]
            if not different:
                return
            first, then = (_shown(getattr(made, different[0])) for made in (plugin, again))
            why = f"{different[0]} is {first}, then {then}"
        raise RegistryError(
            f"{text} does not build the same plugin again ({why}); leave the parameters as they "
            "are given, and put what is computed from them into other attributes"
        )

    def _build(self, kind: type[P], name: str, values: dict[str, str], where: str) -> P:
        plugin = self.find(kind, name)
        inner: dict[str, dict[str, str]] = {}
        own: dict[str, str] = {}
        for key, text in values.items():
            head, dot, rest = key.partition(".")
            if dot:
                inner.setdefault(head, {})[rest] = text
            else:
                own[head] = text
        arguments: dict[str, Any] = {}
        fields = parameters(plugin)
        for field in [*own, *(head for head in inner if head not in own)]:
            if field not in fields:
                raise RegistryError(f"{where} {_unknown('parameter', field, list(fields))}")
            hint, default = fields[field]
            if is_plugin(hint):
                of = next(kind for kind, _ in KINDS.values() if issubclass(hint, kind))
                built: Plugin = self._build(
                    of, own.get(field, default.name), inner.get(field, {}), f"{where}.{field}"
                )
                if not isinstance(built, hint):
                    raise RegistryError(
                        f"{where}: {field} must be a {hint.__name__}, {built.name} is none"
                    )
                arguments[field] = built
            elif field in inner:
                raise RegistryError(f"{where}: {field} is no plugin, it has no parameters")
            else:
                arguments[field] = _value(where, field, hint, own[field])
        try:
            made = plugin(**arguments)
            if isinstance(made, Attack):
                check_threat(made, where)
            return made
        except (KeyboardInterrupt, RegistryError):
            raise
        except (TypeError, ValueError) as error:
            raise RegistryError(f"{where}: {error}") from None
        except BaseException as error:  # in the plugin's own code
            raise RegistryError(f"{where}: {told(error)}") from None


def _value(where: str, field: str, hint: Any, text: str) -> Any:
    try:
        return read(hint, text)
    except ValueError as error:
        reason = first_error(error)[1] if isinstance(error, ValidationError) else str(error)
        raise RegistryError(f"{where}: {field}={text} is not allowed: {reason}") from None


def _shown(value: Any) -> str:
    return label(value) if isinstance(value, Plugin) else written(value)


def _unknown(what: str, name: str, known: list[str]) -> str:
    hint = did_you_mean(name, known)
    return f"unknown {what} {name!r}{hint} (there are: {', '.join(sorted(known)) or 'none'})"


def _load_file(path: Path) -> ModuleType:
    if path.is_dir():
        raise RegistryError(f"{path} is a folder; name a file in it, as in {path / 'mine.py'}")
    if not path.is_file():
        raise RegistryError(f"no such file: {path}")
    # Two files may have the same name in different folders.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"poisongames_file_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RegistryError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module
