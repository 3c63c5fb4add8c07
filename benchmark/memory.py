"""How many images go through a network at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmark.classifier import Classifier

#: At most so many images are judged in one pass, and so many bytes of activations are made.
IMAGES_PER_PASS = 1000
BYTES_PER_PASS = 2 * 1024**3


@torch.no_grad()
def activation_bytes(model: Classifier, shape: Sequence[int]) -> int:
    """Bytes that the outputs of all layers take for one image of shape (C, H, W).

    Measured on a black one. What a layer writes over its input counts once.
    """
    made: dict[int, Tensor] = {}  # kept alive, so that no two outputs share an address

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            made[output.untyped_storage().data_ptr()] = output

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model(torch.zeros(1, *shape, device=model.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(output.untyped_storage().nbytes() for output in made.values())


def images_per_pass(model: Classifier, shape: Sequence[int]) -> int:
    """How many images of shape (C, H, W) are judged in one pass: 1,000, or what 2 GiB hold.

    Args:
        model: in evaluation mode; it stays as it is.
    """
    return max(1, min(IMAGES_PER_PASS, BYTES_PER_PASS // activation_bytes(model, shape)))
