"""A CUDA device that is pretended on the CPU, so that device mistakes show without a GPU.

Tensors stay on the CPU; being on the GPU is a mark on their memory that Python sees. What CUDA
refuses is refused, and what makes the host wait for the device is noted::

    with pretended_gpu() as gpu:
        play(device="cuda")
    assert not gpu.syncs

Kernels are the CPU's, so that results are equal to the bit where the arithmetic is. Not seen:
the order of streams, code in hooks of autograd, and gradients that autograd itself would move
to the device of a leaf.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pretended_graphs
import torch
from pretended_devices import Calls, Gpu, one_of_two
from pretended_operations import Operations
from torch import Generator


class PretendedGenerator(Generator):
    """A generator on the CPU that says it is where it was asked to be."""

    def __new__(cls, device: torch.device | str = "cpu") -> PretendedGenerator:
        self = super().__new__(cls)
        vars(self)["device"] = one_of_two(device)
        return self

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        device: torch.device = vars(self)["device"]
        return device


class PretendedAutocast(torch.autocast):
    """The CPU's autocast, under either name."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


@contextmanager
def pretended_gpu() -> Iterator[Gpu]:
    """Pretend that there is a GPU, called "cuda", for all code that runs inside.

    What was put on it is still there the next time.
    """
    gpu = Gpu()
    with ExitStack() as stack:
        for name, value in pretended_graphs.stand_ins(gpu).items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        # Here optimisers ask whether a graph is being captured.
        current = torch.cuda.current_stream
        stack.enter_context(patch.object(torch.accelerator, "current_stream", current))
        stack.enter_context(patch.object(torch, "autocast", PretendedAutocast))
        stack.callback(_exchange, PretendedGenerator, Generator)
        _exchange(Generator, PretendedGenerator)
        stack.enter_context(Operations(gpu))
        stack.enter_context(Calls(gpu))
        yield gpu


def _exchange(old: type[Generator], new: type[Generator]) -> None:
    """Exchange the class in torch's name space and in all modules but torch's and these."""
    for name, module in list(sys.modules.items()):
        ours = name == "torch" or not name.startswith(("torch.", "pretended_"))
        if ours and getattr(module, "__dict__", {}).get("Generator") is old:
            setattr(module, "Generator", new)  # noqa: B010
