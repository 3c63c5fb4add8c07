"""Operations on tensors of the pretended GPU, which meet there or must not meet."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from pretended_devices import CPU, CUDA, Gpu, memory, put
from pretended_graphs import plain_sgd, tensors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

#: Operations for which the host waits, since it must know a value or a size.
WAITS = {
    *(aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.unique_dim_consecutive),
    *(aten.bincount, aten.multinomial, aten._linalg_eigh, aten._linalg_svd),
}
FILLS = {aten.masked_fill, aten.masked_fill_}
INDEXES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
PUTS = {aten.copy_, aten._foreach_copy_}

#: Kernels that the CPU has too, but which round otherwise than what the CPU uses by itself.
STAND_INS = {aten._fused_sgd_.default: plain_sgd, aten._fused_sgd_.tensor_lr: plain_sgd}


class Operations(TorchDispatchMode):
    """Operations, those of autograd included: what comes out is where they ran."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it is slow

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        gpu, kwargs = self.gpu, kwargs or {}
        with torch._C.DisableTorchFunction():
            if _has_parts(func):  # they come whole in inference mode
                with self:
                    return func.decompose(*args, **kwargs)
            inputs = list(tensors((args, kwargs)))
            places = [gpu.place(tensor) for tensor in inputs]
            on_gpu = CUDA in places
            if on_gpu:
                self._check(func, args, kwargs, places, inputs)
            func = STAND_INS.get(func, func)
            # What C++ allocates for its own use is recorded too, as it may go to the GPU.
            adopted = not on_gpu and CPU not in places and gpu.home is not CPU
            tape = gpu.tape if on_gpu or adopted else None
            if tape is not None:
                tape.touch(t for t, place in zip(inputs, places, strict=True) if place is not CPU)
            result = func(*args, **kwargs)
            on_host = {memory(t) for t, place in zip(inputs, places, strict=True) if place is CPU}
            for output in tensors(result):
                if on_gpu and memory(output) not in on_host:
                    put(output, CUDA)
                elif adopted and not hasattr(output.untyped_storage(), "place"):
                    put(output, gpu.home)
            if tape is not None:
                tape.note(func, args, kwargs, result, on_host)
            return result

    def _check(
        self, func: Any, args: Any, kwargs: Any, places: list[Any], inputs: list[Tensor]
    ) -> None:
        """Raise what CUDA raises where devices meet, and note what the host waits for."""
        gpu, op = self.gpu, func.overloadpacket
        size_unknown = op is aten.repeat_interleave and kwargs.get("output_size") is None
        if op in WAITS or size_unknown:
            gpu.wait(op.__name__)
        if op in FILLS and isinstance(args[2], Tensor) and gpu.place(args[2]) is CUDA:
            gpu.wait("a value to fill in")
        if op in PUTS:
            if CPU in places:
                gpu.wait(f"a copy to the {'host' if places[0] is CPU else 'device'}")
        elif op in INDEXES:
            self._check_index(args)
        elif CPU in places:
            foreign = [t for t, place in zip(inputs, places, strict=True) if place is CPU]
            numbers = torch.Tag.pointwise in func.tags or op in FILLS or op is aten.fill_
            if not numbers or any(t.dim() or _writes(func, args, kwargs, t) for t in foreign):
                raise _two_devices(func)

    def _check_index(self, args: Any) -> None:
        gpu = self.gpu
        here, indices = gpu.place(args[0]), [index for index in args[1] if index is not None]
        for index, there in [(index, gpu.place(index)) for index in indices]:
            if here is CPU and there is CUDA:
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor "
                    "(cpu)"
                )
            if here is CUDA and there is CPU:
                gpu.wait("an index from the host")
            elif index.dtype in (torch.bool, torch.uint8):
                gpu.wait("the size of a mask")
        if len(args) > 2 and (there := gpu.place(args[2])) is not None and there is not here:
            if args[2].dim():
                raise _two_devices("index_put")
            gpu.wait("a copy to the device")


def _two_devices(where: Any) -> RuntimeError:
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
        f"and cpu! (when checking arguments of {where})"
    )


@cache
def _has_parts(func: Any) -> bool:
    """Whether an operation is nothing but others, so that only these tell what it does."""
    has, keys = torch._C._dispatch_has_kernel_for_dispatch_key, torch._C.DispatchKey
    whole: bool = has(func.name(), keys.CPU)
    return has(func.name(), keys.CompositeImplicitAutograd) and not whole


def _writes(func: Any, args: Any, kwargs: Any, tensor: Tensor) -> bool:
    """Whether an operation writes into a tensor."""
    names = [argument.name for argument in func._schema.arguments]
    values = dict(zip(names, args, strict=False)) | kwargs
    return any(
        found is tensor
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
        for found in tensors(values.get(argument.name))
    )
