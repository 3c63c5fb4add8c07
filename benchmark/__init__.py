"""PoisonGames: backdoor attacks against defenses, measured by fixed games.

Everything a plugin author needs is importable from here, see `benchmark.api`, and
`load_results` for whoever reads boards.
Names are loaded on first use, so that `import benchmark` stays free of torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
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
        hookimpl,
    )
    from benchmark.leaderboard.board import load_results

try:
    __version__ = version("poisongames")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"

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
    "hookimpl",
    "load_results",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = "benchmark.leaderboard.board" if name == "load_results" else "benchmark.api"
        return getattr(import_module(home), name)
    raise AttributeError(f"module 'benchmark' has no attribute {name!r}")
