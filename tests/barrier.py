"""What a plugin could see: everything that can be got at from what it was handed."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType

from torch import Tensor


def reachable(*roots: object) -> list[object]:
    """All that can be got at from some objects; of the program itself, closures only."""
    seen: dict[int, object] = {}
    stack = list(roots)
    while stack:
        thing = stack.pop()
        if id(thing) in seen or isinstance(thing, type | ModuleType):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, FunctionType):
            stack += [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, thing.__dict__]
        else:
            stack += gc.get_referents(thing)
    return list(seen.values())


def bytes_of(pixels: Tensor) -> list[bytes]:
    """Each image by itself."""
    return [image.numpy().tobytes() for image in pixels.contiguous()]
