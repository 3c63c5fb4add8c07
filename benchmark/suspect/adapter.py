"""Any module that ends in a linear layer as a `Classifier`: stages, a neck and the head.

One image goes through the model while hooks note what its parts are given and return. Parts
that hand their output on to the next, sequences taken apart, are a chain; parts of one
resolution make a stage. Neck is all the rest: the model's own code, with what became a stage or
the head left out. The longest chain is taken that gives the very answers of the model.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.classifier import Classifier
from benchmark.errors import UserError


class ModelError(UserError, ValueError):
    """A model that cannot be read or examined, in one sentence that says what to do."""


class Rest(nn.Module):
    """What is left of a model whose stages and head were taken out: hidden maps to features."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, hidden: Tensor) -> Tensor:
        # Tensors that the model keeps for itself stay float32 when its weights are made bfloat16.
        with torch.autocast(hidden.device.type, torch.bfloat16, hidden.dtype == torch.bfloat16):
            features: Tensor = first(self.model(hidden))
            return features


class AsMap(nn.Module):
    """The features (B, D) of a model that could not be cut, as a map (B, D, 1, 1)."""

    def __init__(self, rest: Rest) -> None:
        super().__init__()
        self.rest = rest

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.rest(images)
        return features.flatten(1)[:, :, None, None]


class Adapted(Classifier):
    """A classifier made of somebody's model; `own_state` gives the weights by his names."""

    names: dict[str, str]

    def own_state(self) -> dict[str, Tensor]:
        """The model's own state dict, on the CPU."""
        state = self.state_dict()
        return {own: state[key].detach().cpu().clone() for own, key in self.names.items()}


@dataclass(frozen=True)
class Call:
    """One call of a part during the pass of one image."""

    name: str
    module: nn.Module
    given: Any
    returned: Any


def first(returned: Any) -> Any:
    """The logits, of a model that returns others beside them while it trains."""
    return returned[0] if isinstance(returned, tuple) else returned


def adapt(model: nn.Module, shape: tuple[int, int, int]) -> Adapted:
    """A copy of `model` as a classifier of images (C, H, W) in [0, 1], in evaluation mode.

    What its images are normalised by is told to the copy by `normalise_by`; nothing is at first.

    Args:
        model: gives logits (B, K) of images (B, C, H, W), by a linear layer at its end.

    Raises:
        ModelError: it does not take such images, has weights that are not finite, or does
            not end in a linear layer.
    """
    try:
        model = copy.deepcopy(model).float().cpu().eval().requires_grad_(True)
    except Exception as error:  # somebody's code, and parts that are no plain modules
        raise ModelError(
            f"the model cannot be copied ({told(error)}); give one of plain modules, with "
            "weight_norm and pruning made permanent by torch.nn.utils.remove_weight_norm and "
            "prune.remove, and the Python class instead of TorchScript"
        ) from None
    for name, tensor in model.state_dict().items():
        # A module may keep what is no tensor, too.
        if isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"the weights {name} are not all finite; give the model of an earlier epoch"
            )
    probe = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    if isinstance(model, Classifier):
        return _finished(_of_classifier(model), model, model.state_dict(keep_vars=True))
    calls, logits = _pass(model, probe)
    head = _head(calls, logits)
    stages = _stages([call for call in calls if call is not head], probe)
    for kept in range(len(stages), -1, -1):
        # Modules of a copy, so that the next attempt finds the model whole.
        trial = copy.deepcopy(model)
        state = trial.state_dict(keep_vars=True)
        adapted = _cut(trial, stages[:kept], head, shape[0])
        adapted.normalise_by(torch.zeros(shape[0]), torch.ones(shape[0]))
        if _agrees(adapted, probe, head.given):
            return _finished(adapted, trial, state)
    raise ModelError(
        f"the model answers otherwise when {head.name or 'its last linear layer'} is taken apart "
        "from the rest; give a module whose forward ends with that layer"
    )


def _of_classifier(model: Classifier) -> Adapted:
    stages = OrderedDict(model.stages.named_children())
    adapted = Adapted(stages, model.neck, model.head, model.mean.shape[1])
    adapted.mean, adapted.std = model.mean, model.std
    return adapted


def _finished(adapted: Adapted, model: nn.Module, state: dict[str, Any]) -> Adapted:
    keys = {id(tensor): key for key, tensor in adapted.state_dict(keep_vars=True).items()}
    adapted.names = {
        name: keys[id(tensor)]
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and id(tensor) in keys
    }
    return adapted.eval()


@torch.no_grad()
def _pass(model: nn.Module, images: Tensor) -> tuple[list[Call], Tensor]:
    """All calls of parts, in the order in which they returned, and the logits."""
    calls: list[Call] = []
    kept: list[Any] = []  # nothing is freed, so that no two tensors are taken for one

    def hook(name: str) -> Any:
        def note(module: nn.Module, given: Any, returned: Any) -> None:
            kept.append((given, returned))
            one = given[0] if len(given) == 1 else None
            calls.append(Call(name, module, one, returned))

        return note

    hooks = [part.register_forward_hook(hook(name)) for name, part in model.named_modules()]
    try:
        logits = first(model(images))
    except Exception as error:  # somebody's code, which may raise anything
        raise ModelError(
            f"the model does not take images of {images.shape[1]} colour channels and "
            f"{images.shape[2]}x{images.shape[3]} pixels ({told(error)}); check --size, and "
            "that images and model have as many channels"
        ) from error
    finally:
        for one in hooks:
            one.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model returns {found}, expected logits (images, classes)")
    _check_answers(model, images, logits)
    return calls, logits


def _check_answers(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    if not bool(logits.isfinite().all()):
        raise ModelError(
            "the model's logits are not finite; give the model of an earlier epoch, and check the "
            "running variances of its batch norm"
        )
    if (first(model(images)) - logits).abs().max() > 1e-3 * logits.abs().max():
        raise ModelError(
            "the model gives other logits when it is asked again; let its forward leave out "
            "dropout and noise where self.training is False"
        )
    why = ""
    try:
        alone = first(model(images[:1]))
        if alone.shape != logits[:1].shape:
            why = f"its logits have the shape {tuple(alone.shape)}"
    except Exception as error:  # somebody's code, which may raise anything
        why = told(error)
    if why:
        raise ModelError(
            f"the model takes two images and not one ({why}); flatten with torch.flatten(x, 1), as "
            "squeeze takes a batch of one away, too"
        )


def told(error: BaseException, most: int = 200) -> str:
    """What an error of somebody's code says, in one line without its full stop, cut at `most`."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:most].rstrip(".")


def _head(calls: list[Call], logits: Tensor) -> Call:
    linear = [call for call in calls if isinstance(call.module, nn.Linear)]
    # Others may be called after it, such as a second head.
    for call in reversed(linear):
        if call.returned.equal(logits):
            return call
    last = [call for call in calls if not list(call.module.children())][-1]
    if linear and linear[-1].returned.shape == logits.shape:
        to = "what its forward does then"
        if last is not linear[-1]:
            to = type(last.module).__name__
        raise ModelError(
            f"the model goes on behind its last linear layer {linear[-1].name}, to {to}; give it "
            "without, so that it returns that layer's logits"
        )
    raise ModelError(
        f"the model ends in {type(last.module).__name__} {last.name}, not in a linear layer; give "
        "one whose logits come from torch.nn.Linear"
    )


def _stages(calls: list[Call], images: Tensor) -> list[list[Call]]:
    """The chain of parts from the images on, those of one resolution together."""
    names = [call.name for call in calls]
    stages: list[list[Call]] = []
    hidden = images
    for call in _atoms(calls):
        fits = isinstance(call.returned, Tensor) and call.returned.ndim == 4
        if call.given is not hidden or not fits or names.count(call.name) > 1:
            break
        if not stages or stages[-1][-1].returned.shape[2:] != call.returned.shape[2:]:
            stages.append([])
        stages[-1].append(call)
        hidden = call.returned
    # Pooling at the end belongs to the neck: maps that attention is read from have a shape.
    while stages and not any(list(call.module.parameters()) for call in stages[-1]):
        stages.pop()
    return stages


def _atoms(calls: list[Call]) -> Iterator[Call]:
    """Calls of the outermost parts that are neither the model nor a mere sequence of others."""
    plain = {
        call.name
        for call in calls
        if not call.name or type(call.module).forward is nn.Sequential.forward
    }
    for call in calls:
        above = call.name.split(".")[:-1]
        whole = (".".join(above[:depth]) for depth in range(len(above) + 1))
        if call.name not in plain and all(name in plain for name in whole):
            yield call


def _cut(model: nn.Module, stages: list[list[Call]], head: Call, channels: int) -> Adapted:
    """Take stages and head out of `model`, which is changed and becomes the neck."""

    def take(name: str) -> nn.Module:
        part = model.get_submodule(name)
        if not name:
            return part
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, nn.Identity())
        return part

    if not head.name:
        raise ModelError("the model is a linear layer alone; give one with features before it")
    linear = take(head.name)
    assert isinstance(linear, nn.Linear)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, stage in enumerate(stages, start=1):
        parts[f"stage{number}"] = nn.Sequential(*(take(call.name) for call in stage))
    if not parts:
        return Adapted(OrderedDict(all=AsMap(Rest(model))), nn.Flatten(), linear, channels)
    return Adapted(parts, nn.Sequential(Rest(model), nn.Flatten()), linear, channels)


@torch.no_grad()
def _agrees(adapted: Adapted, images: Tensor, features: Tensor) -> bool:
    try:
        found = adapted.eval().features(images)
    except Exception:  # what somebody's code makes of parts that are not there
        return False
    # Untrained models have features of any size.
    return found.shape == features.shape and bool(
        (found - features).abs().max() <= 1e-4 * features.abs().max()
    )
