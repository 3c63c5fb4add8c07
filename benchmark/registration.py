"""What a class must be to be registered as a plugin."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from types import NoneType
from typing import get_args

from benchmark.api import Attack, CodePoisoningAttack, Defense, Plugin
from benchmark.games.settings import LARGEST
from benchmark.hooks import Threat
from benchmark.specs import (
    ALLOWED,
    NAME_LIMIT,
    RegistryError,
    describe_type,
    flat,
    is_allowed,
    is_plugin,
    parameters,
)
from benchmark.texts import FIELD, told


def check(plugin: object, bases: tuple[type[Plugin], ...]) -> None:
    """Refuse what could not be played, with one sentence.

    Args:
        bases: of which it must be a subclass.

    Raises:
        RegistryError: it says what is wrong with the class.
    """
    kinds = " or ".join(base.__name__ for base in bases)
    if not (isinstance(plugin, type) and issubclass(plugin, bases)):
        raise RegistryError(f"{plugin!r} is not a subclass of {kinds}")
    where = f"class {plugin.__name__}"
    name = getattr(plugin, "name", "")
    if not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", name) or len(name) > NAME_LIMIT:
        raise RegistryError(
            f"{where}: name must be lower-case words joined by - or _, at most {NAME_LIMIT} "
            f"characters, got {name!r}"
        )
    if not isinstance(plugin.version, int) or not 1 <= plugin.version <= LARGEST:
        raise RegistryError(
            f"{where}: version must be a whole number from 1 to {LARGEST}, got {plugin.version!r}"
        )
    if not isinstance(plugin.paper, str):
        raise RegistryError(f"{where}: paper must be a text, got {plugin.paper!r}")
    if issubclass(plugin, Defense):
        stages = [base.stage for base in bases if issubclass(plugin, base)]  # type: ignore[attr-defined]
        if plugin.stage not in stages:
            raise RegistryError(
                f"{where}: stage must be {' or '.join(stages)}, which its base class says, "
                f"got {plugin.stage!r}"
            )
    if not dataclasses.is_dataclass(plugin):
        raise RegistryError(f"{where}: must be decorated with @dataclass")
    missing = getattr(plugin, "__abstractmethods__", frozenset())
    if missing:
        raise RegistryError(f"{where}: has no {', '.join(sorted(missing))}")
    _check_parameters(plugin, where)
    undocumented = (plugin.__doc__ or "").startswith(f"{plugin.__name__}(")
    # With -OO Python has no docstrings at all.
    if sys.flags.optimize < 2 and (plugin.__dict__.get("__doc__") is None or undocumented):
        raise RegistryError(f"{where}: needs a docstring, its first line is the summary")
    if issubclass(plugin, Attack):
        try:
            check_threat(plugin(), where)
        except (KeyboardInterrupt, RegistryError):
            raise
        except BaseException as error:
            raise RegistryError(
                f"{where}: cannot be built with its defaults: {told(error)}"
            ) from None


def check_threat(attack: Attack, where: str) -> None:
    """Refuse a threat model that there is not, or that is not of this base class."""
    allowed = ("code",) if isinstance(attack, CodePoisoningAttack) else get_args(Threat)
    if attack.threat not in allowed:
        raise RegistryError(
            f"{where}: threat must be {' or '.join(allowed)}, got {attack.threat!r}"
        )


def _taken(plugin: type[Plugin]) -> dict[str, str]:
    """What no parameter may be called, and the base class to which that means something else."""
    bases = [base for base in plugin.__mro__ if base.__module__ == Plugin.__module__]
    found = {
        name: base.__name__
        for base in bases
        for name in (*vars(base), *inspect.get_annotations(base))
    }
    if issubclass(plugin, Attack):  # they stand among the settings on the command line
        found |= dict.fromkeys(("m", "boost"), "attack")
    return {name: base for name, base in found.items() if name not in ("source", "clean_label")}


def _check_parameters(plugin: type[Plugin], where: str) -> None:
    taken = _taken(plugin)
    if issubclass(plugin, Attack | Defense):
        for field, (_, default) in parameters(plugin).items():
            if default is dataclasses.MISSING:
                raise RegistryError(f"{where}: parameter {field} needs a default")
    for field, (hint, default) in parameters(plugin).items():
        if not FIELD.fullmatch(field):
            raise RegistryError(
                f"{where}: parameter {field!r} must begin with a letter and have only letters "
                "from A to Z, digits and _, at most 60"
            )
        if field in taken:
            raise RegistryError(
                f"{where}: no parameter may be called {field}, which means something else to "
                f"every {taken[field]}; choose another name"
            )
        if not is_allowed(hint):
            raise RegistryError(
                f"{where}: parameter {field} is a {describe_type(hint)}, allowed are {ALLOWED}"
            )
        if (
            field == "source"
            and issubclass(plugin, Attack)
            and not {*flat(hint)} <= {int, NoneType}
        ):
            raise RegistryError(
                f"{where}: parameter source is a {describe_type(hint)}, but it must be an int, as "
                "in source: Count = 1: the source class is (target + source) mod K"
            )
        if is_plugin(hint) and not isinstance(default, hint) and default is not dataclasses.MISSING:
            raise RegistryError(
                f"{where}: parameter {field} is another plugin, and its default must be one, a "
                f"{hint.__name__}; got {default!r}"
            )
