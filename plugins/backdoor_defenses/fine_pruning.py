"""Fine-Pruning: remove channels that clean images do not use, then fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from backdoor_defenses.fine_tuning import FineTuning
from benchmark import Count, Share, TrustedData, hookimpl
from benchmark.models import Classifier
from benchmark.training import mixed_precision

Layer = tuple[nn.Conv2d, nn.BatchNorm2d | None]


def convolutions(model: nn.Module) -> list[Layer]:
    """Convolutions with the batch norm behind each, without projections in shortcuts."""
    modules = [
        module
        for name, module in model.named_modules()
        if not {"shortcut", "downsample"} & set(name.split("."))
    ]
    found: list[Layer] = []
    for module, behind in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(module, nn.Conv2d):
            found.append((module, behind if isinstance(behind, nn.BatchNorm2d) else None))
    return found


def mean_activation(model: Classifier, layers: list[Layer], batches: list[Tensor]) -> list[Tensor]:
    """Mean absolute output per channel, (channels,) for each layer, normalised where it is."""
    sums: list[Tensor] = [torch.zeros(conv.out_channels) for conv, _ in layers]
    hooks = []
    for index, (conv, norm) in enumerate(layers):

        def add(_module: nn.Module, _inputs: object, output: Tensor, index: int = index) -> None:
            sums[index] = sums[index].to(output.device) + output.float().abs().mean((0, 2, 3))

        hooks.append((norm or conv).register_forward_hook(add))
    model.eval()
    with torch.no_grad(), mixed_precision(batches[0].device):
        for images in batches:
            model(images)
    for hook in hooks:
        hook.remove()
    return [total / len(batches) for total in sums]


@dataclass
class FinePruning(FineTuning):
    """Zero the channels with the smallest mean activation on clean images, then fine-tune.

    Pruned channels stay zero. `layers` is the last convolution, as in the original, or all
    of them, as Pick your Poison writes (at 96 % that leaves no model, see C18).
    """

    name, version, paper = "fine-pruning", 1, "Liu, Dolan-Gavitt, Garg, RAID 2018"
    pruned: Share = 0.96
    sampled_batches: Count = 10
    layers: Literal["last", "all"] = "last"

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        found = convolutions(model)
        chosen = found[-1:] if self.layers == "last" else found
        batches = trusted.batches(self.batch_size, rng)
        sample = [next(batches)[0] for _ in range(self.sampled_batches)]
        doomed = [
            activation.argsort()[: round(self.pruned * len(activation))]
            for activation in mean_activation(model, chosen, sample)
        ]
        zero_channels(chosen, doomed)
        for _ in self.fine_tune(model, trusted, rng):
            zero_channels(chosen, doomed)
            yield


@torch.no_grad()
def zero_channels(layers: list[Layer], channels: list[Tensor]) -> None:
    """Zero weights, and scale and shift behind them, which would otherwise emit a constant."""
    for (conv, norm), doomed in zip(layers, channels, strict=True):
        scale, shift = (None, None) if norm is None else (norm.weight, norm.bias)
        for weights in (conv.weight, conv.bias, scale, shift):
            if weights is not None:
                weights.index_fill_(0, doomed, 0)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(FinePruning)
