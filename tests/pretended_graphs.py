"""CUDA graphs and streams of the pretended GPU: a graph is a tape of operations.

In a real capture nothing is computed, and Python runs once. Here the operations do run, since
Python needs the shapes of what they return; then all memory is put back, what was allocated is
filled with NaN, and a replay runs the same operations on the same memory with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import _disable_current_modes

if TYPE_CHECKING:
    from pretended_devices import Gpu


def tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors(value)


def _mapped(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested lists, tuples and dictionaries with other tensors."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, dict):
        return {key: _mapped(value, change) for key, value in values.items()}
    if isinstance(values, list | tuple):
        kind = list if isinstance(values, list) else tuple
        return kind(_mapped(value, change) for value in values)
    return values


def plain_sgd(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    *,
    weight_decay: float,
    momentum: float,
    lr: float | Tensor,
    dampening: float,
    nesterov: bool,
    is_first_step: bool,
    **others: Any,
) -> None:
    """A fused step of SGD by the operations, and so with the roundings, of the CPU's optimiser."""
    for number, (parameter, gradient) in enumerate(zip(params, grads, strict=True)):
        if weight_decay:
            gradient = gradient.add(parameter, alpha=weight_decay)
        if momentum:
            buffer = buffers[number]
            if is_first_step:
                buffer.copy_(gradient)
            else:
                buffer.mul_(momentum).add_(gradient, alpha=1 - dampening)
            gradient = gradient.add(buffer, alpha=momentum) if nesterov else buffer
        parameter.add_(gradient, alpha=-float(lr))


class Tape:
    """The operations of one capture.

    Args:
        generators: those that may be drawn from, besides torch's own.

    Attributes:
        failed: whether something was tried that CUDA refuses during a capture.
    """

    def __init__(self, generators: list[Generator]) -> None:
        self.generators, self.failed = generators, False
        self._drawn = [rng.get_state() for rng in self._sources()]
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._allocated: dict[int, torch.UntypedStorage] = {}
        self._steps: list[tuple[Any, Any, Any, list[Tensor | None]]] = []

    def _sources(self) -> list[Generator]:
        return [torch.default_generator, *self.generators]

    def touch(self, used: Iterable[Tensor]) -> None:
        """Keep what is in memory that an operation is about to use, and may write to.

        Schemas do not tell of all that is written: batch norm's statistics, for one.
        """
        for tensor in used:
            memory = tensor.untyped_storage()
            if memory._cdata not in self._before and memory._cdata not in self._allocated:
                self._before[memory._cdata] = memory, memory.clone()

    def note(self, func: Any, args: Any, kwargs: Any, result: Any, on_host: set[int]) -> None:
        """Record an operation that has just run.

        Args:
            on_host: memory of the CPU among the arguments; a replay sees what was in it.
        """

        def kept(tensor: Tensor) -> Tensor:
            # `data`, since whoever holds the tensor may yet make it point elsewhere.
            at_host = tensor.untyped_storage()._cdata in on_host
            return tensor.clone() if at_host else tensor.data

        used = {tensor.untyped_storage()._cdata for tensor in tensors((args, kwargs))}
        outputs: list[Tensor | None] = []
        for output in tensors(result):
            memory = output.untyped_storage()
            if memory._cdata in used:
                outputs.append(None)
            else:
                self._allocated[memory._cdata] = memory
                outputs.append(output.data)
        self._steps.append((func, _mapped(args, kept), _mapped(kwargs, kept), outputs))

    def undo(self) -> None:
        """Leave memory and generators as if nothing had been computed."""
        for memory, before in self._before.values():
            memory.copy_(before)
        self._before.clear()
        for *_, outputs in self._steps:
            for output in outputs:
                if output is not None:
                    output.fill_(torch.nan if output.is_floating_point() else 1)
        for rng, state in zip(self._sources(), self._drawn, strict=True):
            rng.set_state(state)

    def replay(self) -> None:
        """Run the operations again, and put what they return where it was the first time."""
        for func, args, kwargs, outputs in self._steps:
            for output, new in zip(outputs, tensors(func(*args, **kwargs)), strict=True):
                if output is not None:
                    output.copy_(new)


@contextmanager
def _as_they_are() -> Iterator[None]:
    """Run operations without modes, autograd and autocast."""
    with (
        torch._C.DisableTorchFunction(),
        _disable_current_modes(),
        torch._C._AutoDispatchBelowAutograd(),
        torch.autocast("cpu", enabled=False),
    ):
        yield


def stand_ins(gpu: Gpu) -> dict[str, Any]:
    """What is in `torch.cuda` as long as there is a pretended GPU."""

    class Stream:
        def __init__(self, device: Any = None, priority: int = 0) -> None:
            self.device = device

        def wait_stream(self, stream: Stream) -> None:
            pass

        def synchronize(self) -> None:
            gpu.wait("a stream")

        def is_capturing(self) -> bool:
            return gpu.tape is not None

    current = Stream()

    @contextmanager
    def stream(chosen: Stream | None) -> Iterator[None]:
        nonlocal current
        before, current = current, chosen or current
        try:
            yield
        finally:
            current = before

    class CUDAGraph:
        def __init__(self, keep_graph: bool = False) -> None:
            self._generators: list[Generator] = []
            self._tape: Tape | None = None

        def __reduce_ex__(self, protocol: Any) -> NoReturn:
            raise TypeError("cannot pickle 'CUDAGraph' object")

        def register_generator_state(self, generator: Generator) -> None:
            self._generators.append(generator)

        def capture_begin(self, *args: Any, **kwargs: Any) -> None:
            gpu.tape = self._tape = Tape(self._generators)

        def capture_end(self) -> None:
            tape, gpu.tape = self._tape, None
            assert tape is not None
            with _as_they_are():
                tape.undo()
            if tape.failed:
                self._tape = None
                raise RuntimeError(
                    "CUDA error: operation failed due to a previous error during capture"
                )

        def replay(self) -> None:
            if self._tape is None:
                raise RuntimeError("Called CUDAGraph::replay without a preceding capture")
            with _as_they_are():
                self._tape.replay()

    @contextmanager
    def graph(
        cuda_graph: CUDAGraph, pool: Any = None, stream: Stream | None = None, **options: Any
    ) -> Iterator[None]:
        gpu.wait("the device")
        with stand_in["stream"](stream or Stream()):
            cuda_graph.capture_begin()
            try:
                yield
            finally:
                cuda_graph.capture_end()

    stand_in: dict[str, Any] = {
        "Stream": Stream,
        "stream": stream,
        "current_stream": lambda device=None: current,
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "is_current_stream_capturing": lambda: gpu.tape is not None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "a pretended GPU",
        "synchronize": lambda device=None: gpu.wait("the device"),
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 2**20,
    }
    return stand_in
