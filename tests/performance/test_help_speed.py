"""The help of a command costs little more than typer's own: no command waits for the others.

CPU seconds beside those of the smallest program that prints a help; 1.03 to 1.12 times as many when
this was written. What is asserted is the median over pairs that ran one after the other, since the
clock of a machine that others use changes within a run; 1.26 was seen beside other work. Which
modules a help loads is counted in `tests/test_cli.py`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

BARE = """
import typer

app = typer.Typer(rich_markup_mode="rich")
app.command()(lambda: None)
app.command("scan")(lambda name="": None)
app()
"""
ROUNDS, ALLOWED = 7, 1.5


def seconds(*words: str) -> float:
    """CPU time of one fresh interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_help_of_a_command() -> None:
    seconds("-m", "benchmark", "scan", "--help")  # compiles what has no byte code yet
    pairs = [
        (seconds("-m", "benchmark", "scan", "--help"), seconds("-c", BARE, "scan", "--help"))
        for _ in range(ROUNDS)
    ]
    own, bare = (median(side) for side in zip(*pairs, strict=True))
    print(f"\nscan --help {own:.3f} s, of typer alone {bare:.3f} s")
    assert median(ours / theirs for ours, theirs in pairs) < ALLOWED
