"""Where tensors of the pretended GPU are, and calls from Python, which put them there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pretended_graphs import Tape, tensors
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")

GETTERS: dict[Any, Callable[[torch.device | None], Any]] = {
    Tensor.device.__get__: lambda device: device,
    Tensor.is_cuda.__get__: lambda device: device is CUDA,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda device: device is CPU,  # type: ignore[attr-defined]
    Tensor.get_device: lambda device: 0 if device is CUDA else -1,
}
SET_GRADIENT = Tensor.grad.__set__  # type: ignore[union-attr]

#: Calls that copy between devices, or from Python's numbers.
COPIES = {
    *(Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.type_as, Tensor.new_tensor),
    *(torch.tensor, torch.as_tensor, torch.asarray),
}


def one_of_two(device: torch.device | str | int) -> torch.device:
    """The device as tensors name it: "cuda" is "cuda:0"."""
    return CPU if torch.device(device).type == "cpu" else CUDA


@dataclass(frozen=True)
class Sync:
    """The host waited for the device: for what, and in which file and line."""

    what: str
    where: str


class Gpu:
    """What is known of the pretended device.

    Attributes:
        syncs: what the host waited for.
        tape: what operations are recorded on, while a graph is captured.
        home: where what C++ allocates belongs. During a call with tensors of the GPU nobody can
            tell; then it is the number of the call, and whoever uses it first decides.
    """

    def __init__(self) -> None:
        self.syncs: list[Sync] = []
        self.tape: Tape | None = None
        self.home: torch.device | int = CPU
        self.calls = 0
        self.unaware = False

    def place(self, tensor: Tensor) -> torch.device | None:
        """Where a tensor is; None for what C++ has just made for its own use."""
        found: torch.device | int = getattr(tensor.untyped_storage(), "place", CPU)
        if isinstance(found, int):
            return None if found == self.home else CPU
        return found

    def wait(self, what: str) -> None:
        """Note that the host waits; while a graph is captured, CUDA refuses to."""
        if self.unaware:
            return
        if self.tape is not None:
            self.tape.failed = True
            raise RuntimeError(
                f"CUDA error: operation not permitted when stream is capturing ({what})"
            )
        self.syncs.append(Sync(what, _line()))


def put(tensor: Tensor, place: torch.device | int) -> None:
    # Torch keeps the Python object of a storage, with its attributes, as long as its memory.
    tensor.untyped_storage().place = place  # type: ignore[attr-defined]


def memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]


class Calls(TorchFunctionMode):
    """Calls from Python: they name devices and generators, and ask tensors where they are."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        gpu, kwargs = self.gpu, dict(kwargs or {})
        if func in GETTERS:
            return GETTERS[func](gpu.place(args[0]))
        # The memo of a deep copy holds other tensors.
        given = list(tensors(args[:1] if func is Tensor.__deepcopy__ else (args, kwargs)))
        on_gpu = any(gpu.place(tensor) is CUDA for tensor in given)
        if on_gpu:
            args = self._as_cuda_would(func, args)
        wanted = self._named(func, args, kwargs)
        self._check_generator(args, kwargs, wanted or (CUDA if on_gpu else CPU))
        gpu.calls += 1
        before = gpu.home, gpu.unaware
        gpu.home = wanted or (gpu.calls if on_gpu else CPU)
        # Only on the CPU it looks at the labels even if it is told the number of classes.
        told = len(args) > 1 or "num_classes" in kwargs
        gpu.unaware |= func is torch.nn.functional.one_hot and told
        try:
            result = _run_on_cpu(func, args, kwargs)
            if isinstance(result, Tensor) and wanted is not None:
                return self._arrived(func, result, given, wanted)
            return result
        finally:
            gpu.home, gpu.unaware = before

    def _as_cuda_would(self, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Raise or wait as CUDA does for the call as such."""
        gpu = self.gpu
        if func in (Tensor.numpy, Tensor.__array__):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        if func is Tensor.tolist:
            gpu.wait("tolist")
        if func == SET_GRADIENT and len({gpu.place(tensor) for tensor in tensors(args)}) > 1:
            raise RuntimeError("assigned grad has data located on a different device")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and gpu.place(args[0]) is CUDA:
            return (args[0], self._carried(args[1]), *args[2:])
        return args

    def _carried(self, index: Any) -> Any:
        """An index whose lists of numbers are tensors on the device, as C++ would make them."""
        if isinstance(index, tuple):
            return tuple(map(self._carried, index))
        if not isinstance(index, list | range | np.ndarray):
            return index
        self.gpu.wait("an index from the host")
        carried = torch.as_tensor(index)
        put(carried, CUDA)
        return carried

    def _named(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> torch.device | None:
        """The device that a call names, by itself or by a tensor that is there."""
        if func is Tensor.cpu or func is Tensor.cuda:
            return CPU if func is Tensor.cpu else CUDA
        named = [kwargs.get("device")]
        if func is Tensor.to or func is Tensor.type_as:
            named += [kwargs.get("other"), *args[1:2]]
        if func is Tensor.new_tensor and named == [None]:
            named = [args[0]]
        for one in named:
            if isinstance(one, Tensor):
                return self.gpu.place(one)
            if isinstance(one, str | torch.device | int):
                return one_of_two(one)
        return None

    def _check_generator(self, args: Any, kwargs: Any, device: torch.device) -> None:
        tape = self.gpu.tape
        for rng in (*args, *kwargs.values()):
            if not isinstance(rng, Generator):
                continue
            if rng.device.type != device.type:
                raise RuntimeError(
                    f"Expected a '{device.type}' device type for generator but found "
                    f"'{rng.device.type}'"
                )
            if tape is not None and device is CUDA and rng not in tape.generators:
                tape.failed = True
                raise RuntimeError(
                    "Attempt to increase offset for a CUDA generator not in capture mode."
                )

    def _arrived(
        self, func: Any, result: Tensor, given: list[Tensor], wanted: torch.device
    ) -> Tensor:
        """The result on the device that was named, as a copy if it was on the other one."""
        if self.gpu.place(result) is wanted:
            return result
        if func in COPIES:
            self.gpu.wait(f"a copy to the {'device' if wanted is CUDA else 'host'}")
        if any(memory(result) == memory(tensor) for tensor in given):
            result = result.clone()
        put(result, wanted)
        return result


def _run_on_cpu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call without the device that is named."""
    if func is Tensor.cuda:
        func, args, kwargs = Tensor.cpu, args[:1], {}
    if kwargs.get("device") is not None:
        kwargs["device"] = CPU
    if func is Tensor.to and isinstance(args[1] if args[1:] else None, str | torch.device | int):
        args = (args[0], CPU, *args[2:])
    return func(*args, **kwargs)


def _line() -> str:
    """The innermost line that is neither torch's, nor Python's, nor the harness's."""
    others = (str(Path(torch.__file__).parent), str(Path(contextlib.__file__).parent))
    frame = sys._getframe(2)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if not path.startswith(others) and not Path(path).name.startswith("pretended_"):
            break
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
