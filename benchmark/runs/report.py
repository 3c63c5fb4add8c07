"""What the records of all games say beside their numbers: costs, versions, errors."""

from __future__ import annotations

import platform
import re
import resource
import sys
import traceback
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import benchmark
from benchmark.records.record import MESSAGE_LIMIT, Error
from benchmark.texts import hidden


def describe(error: BaseException) -> Error:
    """What was raised, and in which line, in characters that a record may have."""
    try:
        said = str(error)
    except BaseException:  # what stands there is a plugin's code
        said = "its text cannot be had"
    message = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))", "", said)
    plain = "".join(c if c in "\n\t" or not hidden(c) else " " for c in message)
    frames, where = traceback.extract_tb(error.__traceback__), ""
    if frames:
        # Code without a file is called <string>, which would be markup.
        file = re.sub(r"[^\w.-]", "_", Path(frames[-1].filename).name.strip("<>"))
        where = f"{file}:{frames[-1].lineno}"
    return Error(
        kind=re.sub(r"\W", "_", type(error).__name__)[:100],
        message=plain[:MESSAGE_LIMIT],
        where=where,
    )


@cache
def environment() -> dict[str, str]:
    """Versions of what ran."""
    return {
        "poisongames": benchmark.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} thread"
