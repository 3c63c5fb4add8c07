"""Steps that a GPU runs from a recording, since launching their many small kernels takes longer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

#: Calls that run as they are before the recording: libraries choose their kernels, optimisers
#: make their state.
ORDINARY_CALLS = 3


class Graphed(Generic[Result]):
    """A function of tensors that is recorded as a CUDA graph, and replayed from then on.

    On other devices, for the first calls, and for arguments of another shape than the first
    ones, the function is simply called. What it returns is valid until the next call.

    A replay runs the recorded kernels on the recorded memory, and no Python. So the function
    may read and write, apart from its arguments, only tensors that stay where they are; numbers
    keep the value they had; it must not look at what the GPU computed, or draw from another
    generator than torch's own.

    Args:
        function: called with tensors that all are on one device.
    """

    #: A recording that failed leaves traces in torch's memory, so that a process tries no other.
    failed: ClassVar[bool] = False

    def __init__(self, function: Callable[..., Result]) -> None:
        self.function = function
        self._ordinary = ORDINARY_CALLS
        self._shapes: list[tuple[torch.Size, torch.dtype]] = []
        self._recording: tuple[torch.cuda.CUDAGraph, list[Tensor], Result] | None = None

    def __call__(self, *inputs: Tensor) -> Result:
        if inputs[0].device.type != "cuda":
            return self.function(*inputs)
        shapes = [(tensor.shape, tensor.dtype) for tensor in inputs]
        if not self._shapes:
            self._shapes, self._stream = shapes, torch.cuda.Stream(inputs[0].device)
        if shapes != self._shapes:
            return self._aside(inputs)
        if self._ordinary:
            self._ordinary -= 1
            return self._aside(inputs)
        if self._recording is None:
            if Graphed.failed:
                return self._aside(inputs)
            try:
                self._recording = self._record(inputs)
            except RuntimeError as error:
                Graphed.failed = True
                # The end of a failed recording raises as well; the reason came before it.
                warnings.warn(
                    "a step cannot be recorded as a CUDA graph, and steps run slowly from now on: "
                    f"{error.__context__ or error}",
                    stacklevel=2,
                )
                return self._aside(inputs)
        graph, recorded, result = self._recording
        for there, given in zip(recorded, inputs, strict=True):
            there.copy_(given)
        graph.replay()
        return result

    def _aside(self, inputs: tuple[Tensor, ...]) -> Result:
        """Call the function on the stream of the recording, which autograd remembers."""
        current = torch.cuda.current_stream(inputs[0].device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = self.function(*inputs)
        current.wait_stream(self._stream)
        return result

    def _record(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Result]:
        """Record one call; nothing is computed yet."""
        recorded, graph = [tensor.clone() for tensor in inputs], torch.cuda.CUDAGraph()
        # The outer one restores the stream even where the recording fails.
        with torch.cuda.stream(self._stream), torch.cuda.graph(graph, stream=self._stream):
            result = self.function(*recorded)
        return graph, recorded, result
