"""Repairs that do to their process what no plugin should, each in one way; loaded by --plugin."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark import Repair, hookimpl

PLUGINS: list[type[Repair]] = []
#: What is set here must be gone when the next cell is played.
LEFT: list[str] = []
#: In the command line of every process that is left behind.
MARK = "9753"


def repair(plugin_name: str) -> Callable[[Callable[..., Iterator[None] | None]], None]:
    """Make a repair that calls a function and changes the weights a little."""

    def register(body: Callable[..., Any]) -> None:
        @dataclass
        class Misbehaving(Repair):
            """A repair that misbehaves in one way."""

            name = plugin_name

            def repair(self, model: Any, trusted: Any, rng: Any) -> Iterator[None]:
                with torch.no_grad():
                    next(model.parameters()).mul_(1.0001)
                yield
                body()
                yield

        PLUGINS.append(Misbehaving)

    return register


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


@repair("exits")
def _() -> None:
    sys.exit(0)


@repair("interrupts")
def _() -> None:
    raise KeyboardInterrupt


@repair("unspeakable")
def _() -> None:
    raise UnspeakableError


@repair("exits-hard")
def _() -> None:
    os._exit(0)


@repair("aborts")
def _() -> None:
    os.abort()


@repair("crashes")
def _() -> None:
    ctypes.string_at(0)


@repair("kills-itself")
def _() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@repair("hangs")
def _() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(0.05)


@repair("keeps-a-thread")
def _() -> None:
    threading.Thread(target=time.sleep, args=(3600,), daemon=False).start()


@repair("keeps-a-child")
def _() -> None:
    subprocess.Popen(["sleep", MARK], stdout=subprocess.DEVNULL, start_new_session=True)


@repair("keeps-a-daemon")
def _() -> None:
    """Forked twice, in a session of its own: no child of the cell's process any more."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", MARK])
        os._exit(0)


@repair("sets-torch")
def _() -> None:
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True)


@repair("replaces-functions")
def _() -> None:
    def no_more(*_: object, **__: object) -> None:
        raise RuntimeError("this function was replaced")

    torch.Tensor.argmax = no_more  # type: ignore[method-assign,assignment]
    json.dumps = no_more  # type: ignore[assignment]
    os.fsync = no_more


@repair("moves-away")
def _() -> None:
    os.chdir("/")
    os.environ.clear()
    os.umask(0o777)
    sys.path.clear()


@repair("closes-files")
def _() -> None:
    os.closerange(0, 1000)


@repair("may-write-nothing")
def _() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@repair("may-read-nothing")
def _() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


@repair("leaves-something")
def _() -> None:
    if LEFT:
        raise RuntimeError("something of another cell is still here")
    LEFT.append("something")


@repair("prints")
def _() -> None:
    print("x" * 300_000)
    sys.stderr.write("y" * 300_000)


@repair("removes-its-victim")
def _() -> None:
    """Files of the run that it has no business with, and that can be made again."""
    for folder in Path(os.environ["MISBEHAVING_RUN"]).glob("artifacts/victims/*"):
        (folder / "model.safetensors").unlink(missing_ok=True)


@hookimpl
def register_defenses(register: Callable[[type[Repair]], None]) -> None:
    for plugin in PLUGINS:
        register(plugin)
