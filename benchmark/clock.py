"""Wall-clock time of work on a device."""

from __future__ import annotations

import time

import torch


def seconds(device: torch.device) -> float:
    """Time on a clock that never goes back, once the device has done all that it was given.

    A GPU works on while Python has gone ahead, so that work is measured between two of these.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
