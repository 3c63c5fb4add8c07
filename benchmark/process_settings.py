"""Settings of a process: how each is read, and put back where an import changed it."""

from __future__ import annotations

import gc
import inspect
import os
import random
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import compress
from operator import is_not
from types import ModuleType
from typing import Any, NamedTuple

from benchmark import processes

_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE),
)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]

#: Threads that a plugin's import began: Python would wait for them at the end.
strays: list[threading.Thread] = []


class Setting(NamedTuple):
    """What it is called, how it is read, and how it is put back, where that can be done.

    What is `forgiven` libraries change that a plugin may need; it is put back all the same.
    """

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object] | None
    forgiven: bool = False


def of_process() -> list[Setting]:
    """What an import begins, and what it replaces or limits for the whole process."""
    found = [
        # First, since what follows needs some depth, and these functions.
        Setting("Python's recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, True),
        parts("builtins", sys.modules["builtins"]),
        parts("os", os),
        # Before the handlers, without which a timer ends the process.
        Setting("timers", _timers, _stop),
        Setting("how signals are handled", _handlers, _handle, True),
        _threads(),
        _children(),
        Setting("environment variables", partial(dict, os.environ), _set_variables, True),
        Setting("the umask", _umask, os.umask),
        Setting("limits of resources", _limits, _limit),
        Setting("when Python collects garbage", _collecting, _collect),
    ]
    if (socket := sys.modules.get("socket")) is not None:
        get, put = socket.getdefaulttimeout, socket.setdefaulttimeout
        found.append(Setting("the default timeout of sockets", get, put))
    return found


def of_python() -> list[Setting]:
    """What changes how code is computed, and where its files and words go."""
    return [
        Setting("the working directory", _folder, os.chdir),
        Setting("whether warnings are errors", _errors, _only_these_errors),
        Setting("Python's global random state", random.getstate, random.setstate, True),
        _stream("stdout", 1),
        _stream("stderr", 2),
    ]


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _handle(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _timers() -> list[bool]:
    return [signal.getitimer(number)[0] > 0 for number in _TIMERS]


def _stop(were_set: list[bool]) -> None:
    for number, was_set in zip(_TIMERS, were_set, strict=True):
        if not was_set:
            signal.setitimer(number, 0)


def _set_variables(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _umask() -> int:
    mask = os.umask(0o077)  # there is no other way to read it
    os.umask(mask)
    return mask


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(number) for number in _LIMITS]


def _limit(limits: list[tuple[int, int]]) -> None:
    for number, limit in zip(_LIMITS, limits, strict=True):
        if resource.getrlimit(number) != limit:
            resource.setrlimit(number, limit)


def _collecting() -> tuple[bool, tuple[int, int, int]]:
    return gc.isenabled(), gc.get_threshold()


def _collect(when: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if when[0] else gc.disable)()
    gc.set_threshold(*when[1])


def _threads() -> Setting:
    before = set(threading.enumerate())

    def new() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before]

    return Setting("which threads run", new, lambda _: strays.extend(new()))


def _children() -> Setting:
    before = processes.children()
    return Setting(
        "which child processes run",
        lambda: processes.children() - before,
        lambda _: processes.end_strays(before),
    )


def parts(name: str, owner: Any, home: str | None = None) -> Setting:
    """What a module or a class has, by identity; what came to it, as submodules do, is no matter.

    Args:
        home: folder of the library, which may replace a part as more of it is imported.
    """

    def all_parts() -> Mapping[str, Any]:
        if isinstance(owner, ModuleType):
            return vars(owner)
        return {key: part for one in reversed(owner.__mro__) for key, part in vars(one).items()}

    before = dict(all_parts())

    def replaced() -> list[str]:
        now = all_parts()
        # In C, since there are thousands.
        changed = compress(before, map(is_not, before.values(), map(now.get, before)))
        return [key for key in changed if key[0] != "_" and not _lies_in(home, now.get(key))]

    def put(_: list[str]) -> None:
        for key in replaced():
            setattr(owner, key, before[key])

    return Setting(f"parts of {name}", replaced, put)


def _lies_in(home: str | None, part: Any) -> bool:
    try:
        return home is not None and inspect.getfile(part).startswith(os.path.join(home, ""))
    except (TypeError, OSError):  # nothing that was written in a file
        return False


def _errors() -> list[Any]:
    # Libraries may add other filters.
    return [one for one in warnings.filters if one[0] == "error"]


def _only_these_errors(kept: list[Any]) -> None:
    for one in _errors():
        if one not in kept:
            warnings.filters.remove(one)  # type: ignore[attr-defined]


def _stream(name: str, number: int) -> Setting:
    def get() -> tuple[Any, bool]:
        stream = getattr(sys, name)
        return stream, getattr(stream, "closed", False)

    def put(before: tuple[Any, bool]) -> None:
        stream = before[0]
        if getattr(stream, "closed", False):  # the file below it stays open
            stream = open(number, "w", errors="replace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)

    return Setting(f"sys.{name}", get, put)
