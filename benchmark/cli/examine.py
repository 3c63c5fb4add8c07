"""Runs checks in processes of their own, which a plugin may end or block.

One process, which nobody else's threads disturb, loads the plugin and forks another that runs the
checks one after the other; where a plugin ends or blocks that one, the rest is run in a new fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

from benchmark import processes
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.conformance import Check

#: So many forks are made before the rest is given up.
ATTEMPTS = 3


class Verdict(NamedTuple):
    """How a plugin keeps one rule, in one sentence."""

    rule: str
    outcome: Literal["kept", "broken", "silent"]
    sentence: str


class ExaminerDied(UserError, RuntimeError):
    """The process that watched the checks was ended by what it watched."""


def examine(spec: str, files: Sequence[Path], seconds: float) -> Iterator[Verdict]:
    """Run all checks of a plugin; one that ends its process or takes too long is broken.

    Args:
        spec: name and settings of the plugin.
        files: plugins in single files.
        seconds: how long each check may take.

    Raises:
        UserError: no such plugin or setting.
    """
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe(duplex=False)
    process = context.Process(target=_examine, args=(spec, tuple(files), seconds, other))
    resource_tracker.ensure_running()  # which would let signals through
    try:
        with processes.undisturbed():  # until it knows what to do with them
            process.start()
        other.close()
        pipe.recv()  # when it has what is not the plugin's
        if not pipe.poll(seconds):
            raise UserError(
                f"{spec} took longer than {seconds:.0f} s to be imported and built; "
                "--rule-time-limit gives it more"
            )
        said = pipe.recv()
        while said is None and (verdict := pipe.recv()) is not None:
            yield Verdict(*verdict)
        if said is not None:
            raise UserError(said)
    except EOFError:
        raise ExaminerDied(f"the process that examines {spec} was killed") from None
    finally:
        with processes.undisturbed():
            if process.pid is not None:
                process.kill()
                process.join()


def _examine(spec: str, files: tuple[Path, ...], seconds: float, pipe: Connection) -> None:
    """Say when plugins are imported, then None, verdicts and None, or why there are none."""
    from benchmark.conformance import checks
    from benchmark.registry import Registry

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the parent's to handle
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    processes.adopt_orphans()
    own = processes.children()
    pipe.send(None)
    try:
        found = checks(spec, Registry(files))
    except UserError as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    rules, context = [str(check) for check in found], multiprocessing.get_context("fork")
    for _ in range(ATTEMPTS):
        if not rules:
            break
        answers, other = context.Pipe(duplex=False)
        skip = len(found) - len(rules)
        child = context.Process(target=_check, args=(found[skip:], other, os.getpid()))
        child.start()
        other.close()
        for verdict in _listen(rules, answers, child, seconds):
            pipe.send(tuple(verdict))
        child.kill()
        child.join()
        processes.end_strays(own)
    for rule in rules:
        sentence = "was not examined: others ended or blocked their process"
        pipe.send((rule, "silent", sentence))
    pipe.send(None)


def _listen(
    rules: list[str], answers: Connection, child: BaseProcess, seconds: float
) -> Iterator[Verdict]:
    """Verdicts of one fork, taken from `rules`, until it is of no more use."""
    while rules:
        deadline = time.monotonic() + seconds
        # What a plugin has forked may hold the pipe of a process that died.
        while not answers.poll(0.1) and child.exitcode is None and time.monotonic() < deadline:
            pass
        if not answers.poll() and child.exitcode is None:
            yield Verdict(rules.pop(0), "broken", f"took longer than {seconds:.0f} s")
            return
        try:
            if not answers.poll():
                raise EOFError
            outcome, sentence = answers.recv()
        except EOFError:
            child.join(1)
            how = processes.cause(child.exitcode or 0)
            yield Verdict(rules.pop(0), "broken", f"the process died ({how}) while it played")
            return
        yield Verdict(rules.pop(0), outcome, sentence)


def _check(checks: Sequence[Check], answers: Connection, parent: int) -> NoReturn:
    from benchmark.conformance import ConformanceError, DoesNotApply

    processes.begin(parent)
    for check in checks:
        try:
            check()
            answers.send(("kept", check.rule))
        except ConformanceError as error:
            answers.send(("broken", str(error)))
        except DoesNotApply as reason:
            answers.send(("silent", f"does not apply: {reason}"))
        except BaseException as error:
            name = type(error).__name__
            answers.send(("broken", f"{name} was raised, which ends a program"))
    os._exit(0)
