"""Fine-Pruning: remove channels that clean images do not use, then fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from backdoor_defenses.fine_tuning import FineTuning
from benchmark import Classifier, Count, Share, TrustedData, hookimpl
from benchmark.training import mixed_precision

Scope = Literal["features", "last", "all"]
Layer = tuple[nn.Conv2d, nn.BatchNorm2d | None]


#: Said where zeroing the weights that were found is no mask on the last stage's output.
UNKNOWN = (
    "fine-pruning cannot tell which weights of this architecture read the last stage's channels; "
    "use another repair"
)


class Channels(NamedTuple):
    """Channels of one place in a model: how active they are, and what takes them away.

    Attributes:
        shown: the module whose output (B, C, H, W) is ranked.
        weights: tensors, each with the axis that holds C runs of equal length, one a channel;
            where a channel's runs are zero, it is gone.
    """

    shown: nn.Module
    weights: list[tuple[Tensor, int]]


class Gone(NamedTuple):
    """What is to be zero: int64 `entries` along `axis` of `weights`."""

    weights: Tensor
    axis: int
    entries: Tensor


def convolutions(model: nn.Module) -> list[Layer]:
    """Convolutions with the batch norm behind each, without projections in shortcuts.

    A convolution may be pooled before its batch norm.
    """
    modules = [
        module
        for name, module in model.named_modules()
        if not {"shortcut", "downsample"} & set(name.split("."))
        and not isinstance(module, nn.MaxPool2d)
    ]
    found: list[Layer] = []
    for module, behind in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(module, nn.Conv2d):
            found.append((module, behind if isinstance(behind, nn.BatchNorm2d) else None))
    return found


def channels(model: Classifier, scope: Scope) -> list[Channels]:
    """What is ranked, all of it together; see `FinePruning`."""
    if scope == "features":
        behind = [*model.neck.modules(), model.head]
        reader = next(m for m in behind if isinstance(m, nn.Linear | nn.Conv2d))
        return [Channels(model.stages[-1], [(reader.weight, 1)])]
    if not convolutions(model.stages[-1]):
        raise ValueError(
            f"scope={scope} prunes convolutions, and the last stage of this architecture has none; "
            "use scope=features"
        )
    layers = convolutions(model)
    found = []
    for conv, norm in layers[-1:] if scope == "last" else layers:
        # Without its shift, a batch norm would emit a constant.
        scale, shift = (None, None) if norm is None else (norm.weight, norm.bias)
        weights = (conv.weight, conv.bias, scale, shift)
        found.append(Channels(norm or conv, [(w, 0) for w in weights if w is not None]))
    return found


def mean_activation(
    model: Classifier, modules: Sequence[nn.Module], batches: Iterable[Tensor]
) -> list[Tensor]:
    """Mean absolute output per channel, (C,) for each module, in evaluation mode."""
    sums: dict[int, Tensor] = {}
    hooks = []
    for index, module in enumerate(modules):

        def add(_module: nn.Module, _inputs: object, output: Tensor, index: int = index) -> None:
            sums[index] = sums.get(index, 0) + output.float().abs().mean((0, 2, 3))

        hooks.append(module.register_forward_hook(add))
    model.eval()
    count = 0
    with torch.no_grad():
        for images in batches:
            count += 1
            with mixed_precision(images.device):
                model(images)
    for hook in hooks:
        hook.remove()
    return [sums[index] / count for index in range(len(modules))]


@dataclass
class FinePruning(FineTuning):
    """Zero the channels with the smallest mean activation on clean images, then fine-tune.

    The share `pruned` of the channels with the smallest mean absolute activation, over
    `sampled_batches` batches in evaluation mode, is zero from before the first step on.
    `scope` says which channels:

    - "features": the last stage's output, behind the residual sum and its ReLU, which is what
      the head sees. Where a shortcut is the identity, no weights write a channel that could
      be zeroed. So the weights that read it are: the columns of the first linear map (or
      convolution) in the neck, or of the head where the neck only pools and flattens. This
      equals a mask on the stage's output in every forward pass and in every step, it is
      saved with the weights, and it is known from a port as pruning the inputs of the linear
      layer.
    - "last": the last convolution with its batch norm, before the sum, as the original's text
      has it. In a ResNet every channel stays alive through the shortcut.
    - "all": all convolutions but the projections of shortcuts in one ranking (C18), as Pick your
      Poison measures them.

    Defaults are Pick your Poison's (Tab. V, CIFAR-10, r = 1 %).
    """

    name, version, paper = "fine-pruning", 2, "Liu, Dolan-Gavitt, Garg, RAID 2018"
    pruned: Share = 0.96
    sampled_batches: Count = 10
    scope: Scope = "features"

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        gone = self.prune(model, trusted, rng)
        for _ in self.fine_tune(model, trusted, rng):
            zero(gone)
            yield

    def prune(self, model: Classifier, trusted: TrustedData, rng: Generator) -> list[Gone]:
        """Zero the least active channels, and return what `zero` has to zero after a step."""
        batches = (images for images, _ in trusted.batches(self.batch_size, rng))
        first = next(batches)
        sample = chain([first], islice(batches, self.sampled_batches - 1))
        parts = channels(model, self.scope)
        activity = mean_activation(model, [part.shown for part in parts], sample)
        ranking = torch.cat(activity).argsort(stable=True)
        doomed = torch.zeros(len(ranking), dtype=torch.bool, device=ranking.device)
        doomed[ranking[: round(self.pruned * len(ranking))]] = True
        gone = []
        for part, dead in zip(parts, doomed.split([len(a) for a in activity]), strict=True):
            for weights, axis in part.weights:
                run, rest = divmod(weights.shape[axis], len(dead))
                if rest:
                    raise ValueError(UNKNOWN)
                entries = dead.repeat_interleave(run).nonzero().flatten()
                gone.append(Gone(weights, axis, entries))
        expected = without(model, first, doomed) if self.scope == "features" else None
        zero(gone)
        if expected is not None:
            found = without(model, first, torch.zeros_like(doomed))
            if not found.allclose(expected, rtol=1e-3, atol=1e-3):
                raise ValueError(UNKNOWN)
        return gone


@torch.no_grad()
def without(model: Classifier, images: Tensor, dead: Tensor) -> Tensor:
    """Logits (B, K) of images without the channels bool (C,) of the last stage's output."""
    maps = model.stages(model.normalised(images)).masked_fill(dead[:, None, None], 0)
    logits: Tensor = model.head(model.neck(maps))
    return logits


@torch.no_grad()
def zero(gone: list[Gone]) -> None:
    for weights, axis, entries in gone:
        weights.index_fill_(axis, entries, 0)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(FinePruning)
