"""Processes that plugins run in: how they begin, how they end with all that they started."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Signals that ask for an end.
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Linux's numbers of "adopt orphans below me" and "kill me with my parent".
_SUBREAPER, _DIE_WITH_PARENT = 36, 1


def adopt_orphans() -> None:
    """From now on whatever loses its parent, below this process, becomes its child (on Linux)."""
    _prctl(_SUBREAPER, 1)


def begin(parent: int) -> None:
    """What the process of a plugin does first: it must not outlive its parent."""
    _prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError):  # where memory runs out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("500")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let signals that ask for an end wait. A process that is begun here inherits that.

    Blocked in this thread, one may still reach another thread of a library, upon which Python would
    interrupt this one; so the handlers wait as well.
    """
    came: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    wait = {number: lambda number, _: came.append(number) for number in _ASKING if main}
    handlers = {number: signal.signal(number, handler) for number, handler in wait.items()}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def asked_to_end() -> Iterator[None]:
    """End as Ctrl-C does where a job's end is announced by SIGTERM or SIGHUP, as queues do."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are another thread's
        return
    before = {number: signal.signal(number, interrupt) for number in _ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def children() -> set[int]:
    """All children of this process, those that ended unnoticed too."""
    if os.path.exists(f"/proc/self/task/{os.getpid()}/children"):  # which takes some 0.1 ms
        found: list[str] = []
        for task in os.listdir("/proc/self/task"):
            with suppress(OSError), open(f"/proc/self/task/{task}/children") as file:
                found += file.read().split()  # else of a thread that has just ended
        return {int(pid) for pid in found}
    import psutil  # here, since every command imports this module

    return {child.pid for child in psutil.Process().children()}


def end_strays(own: Collection[int | None]) -> None:
    """End all children of this process, and those that become its children thereby.

    Args:
        own: processes that stay.
    """
    import psutil

    for _ in range(100):
        strays = [child for child in psutil.Process().children() if child.pid not in own]
        if not strays:
            return
        for stray in strays:
            with suppress(psutil.Error):
                stray.kill()
        psutil.wait_procs(strays, timeout=1)


def cause(code: int) -> str:
    """What an exit code says, in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
