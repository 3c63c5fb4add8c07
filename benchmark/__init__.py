"""PoisonGames: backdoor attacks against defenses, measured by fixed games.

Everything a plugin author needs is importable from here, see `benchmark.api`; so are `scan` and
`repair` for whoever has a model of unknown origin, and `load_results` for whoever reads boards.
Names are loaded on first use, so that `import benchmark` stays quick and free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.api import (
        Architecture,
        Attack,
        AttackerView,
        Classifier,
        CodePoisoningAttack,
        Count,
        Dataset,
        Defense,
        Deployment,
        Detection,
        Detector,
        Images,
        ImageSet,
        Inverter,
        PoisoningAttack,
        Positive,
        Repair,
        Sanitizer,
        Share,
        Source,
        Starts,
        Trainer,
        Trigger,
        TrustedData,
        Verdict,
        Weight,
        hookimpl,
    )
    from benchmark.leaderboard.board import load_results as load_results
    from benchmark.suspect.repair import repair as repair
    from benchmark.suspect.scan import scan as scan

__all__ = [
    "Architecture",
    "Attack",
    "AttackerView",
    "Classifier",
    "CodePoisoningAttack",
    "Count",
    "Dataset",
    "Defense",
    "Deployment",
    "Detection",
    "Detector",
    "ImageSet",
    "Images",
    "Inverter",
    "PoisoningAttack",
    "Positive",
    "Repair",
    "Sanitizer",
    "Share",
    "Source",
    "Starts",
    "Trainer",
    "Trigger",
    "TrustedData",
    "Verdict",
    "Weight",
    "hookimpl",
]

_ELSEWHERE = {
    "load_results": "benchmark.leaderboard.board",
    "repair": "benchmark.suspect.repair",
    "scan": "benchmark.suspect.scan",
}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("poisongames")
    except PackageNotFoundError:  # a checkout on the path that was never installed
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name == "hookimpl":  # for modules that stay free of torch too
        return import_module("benchmark.hooks").hookimpl
    if name in __all__:
        return getattr(import_module("benchmark.api"), name)
    # Not among what `from benchmark import *` gives a plugin: they load the tables of boards.
    if name in _ELSEWHERE:
        return getattr(import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module 'benchmark' has no attribute {name!r}")
