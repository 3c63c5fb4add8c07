"""What a class must be to be registered as a plugin."""

from __future__ import annotations

import dataclasses
import re
from types import NoneType

from benchmark.api import Attack, Defense, Plugin
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
    if not isinstance(plugin.version, int):
        raise RegistryError(f"{where}: version must be a whole number, got {plugin.version!r}")
    if not dataclasses.is_dataclass(plugin):
        raise RegistryError(f"{where}: must be decorated with @dataclass")
    missing = getattr(plugin, "__abstractmethods__", frozenset())
    if missing:
        raise RegistryError(f"{where}: has no {', '.join(sorted(missing))}")
    if issubclass(plugin, Attack | Defense):
        for field, (_, default) in parameters(plugin).items():
            if default is dataclasses.MISSING:
                raise RegistryError(f"{where}: parameter {field} needs a default")
    for field, (hint, default) in parameters(plugin).items():
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
    if "__doc__" not in vars(plugin) or (plugin.__doc__ or "").startswith(f"{plugin.__name__}("):
        raise RegistryError(f"{where}: needs a docstring, its first line is the summary")
    if issubclass(plugin, Attack):  # whose threat model those have who list it
        try:
            plugin()
        except Exception as error:
            raise RegistryError(
                f"{where}: cannot be built with its defaults: {type(error).__name__}: {error}"
            ) from None
