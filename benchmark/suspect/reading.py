"""Models as people have them: a state dict, a torchvision name, or a function that builds one."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api import Architecture
from benchmark.registry import Registry
from benchmark.specs import RegistryError, parse
from benchmark.suspect.adapter import ModelError, told
from benchmark.suspect.states import read_state
from benchmark.unchanged import restored, settings


@dataclass(frozen=True)
class TorchvisionWeights:
    """What torchvision says of weights that it publishes."""

    weights: Any
    size: int
    mean: Tensor
    std: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Given:
    """A model as it was given.

    Attributes:
        prefix: what the names in its file have before those in the model.
        notes: what was noticed while it was built.
    """

    model: nn.Module
    prefix: str = ""
    notes: tuple[str, ...] = ()


def published(text: str) -> TorchvisionWeights | None:
    """The best weights of a torchvision classifier, None where no such model is named."""
    import torchvision

    if text not in torchvision.models.list_models(module=torchvision.models):
        return None
    weights = torchvision.models.get_model_weights(text).DEFAULT
    shown = weights.transforms()
    return TorchvisionWeights(
        weights,
        shown.crop_size[0],
        torch.tensor(shown.mean),
        torch.tensor(shown.std),
        tuple(weights.meta["categories"]),
    )


def read(text: str, side: tuple[int, int], architecture: str | None, registry: Registry) -> Given:
    """The model that `text` names; settings that its code changes are put back, and noted.

    Args:
        text: a file of weights (.safetensors, .pt, .pth), ``module.py:function`` or the name of
            a torchvision model, whose published weights are fetched.
        side: (H, W) of the images.
        architecture: of weights in a file: a torchvision name, an architecture of the registry,
            or ``module.py:function``.

    Raises:
        ModelError: there is none, or the weights do not fit.
    """
    with restored(settings()) as changed:
        given = _read(text, side, architecture, registry)
    if not changed:
        return given
    note = f"building the model changes {' and '.join(changed)}, which was put back"
    return replace(given, notes=(note,))


def _read(text: str, side: tuple[int, int], architecture: str | None, registry: Registry) -> Given:
    if ".py:" in text or text.endswith(".py"):
        return Given(_built(text))
    if not os.path.exists(text) and (known := published(text)) is not None:
        try:
            import torchvision

            return Given(torchvision.models.get_model(text, weights=known.weights))
        except Exception as error:  # torchvision passes on what urllib and others raise
            raise ModelError(
                f"the weights of {text} could not be fetched ({told(error)}); save them to a file "
                f"elsewhere and give that with --arch {text}"
            ) from None
    state = read_state(Path(text))
    if architecture is None:
        raise ModelError(
            f"{text} holds weights alone; say --arch NAME, a model of torchvision such as resnet18 "
            "or of `poisongames plugins`, or --arch module.py:function of the code that builds it"
        )
    prefixes, differences = list(_prefixes(state)), []
    for build in _builders(architecture, state, side, registry):
        model = build()
        for prefix in prefixes:
            bare = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
            if not (found := _differences(model, bare)):
                try:
                    model.load_state_dict(bare)
                except RuntimeError as error:  # of tensors that hold nothing, or not densely
                    why = f"weights of {text} cannot be copied ({told(error)})"
                    raise ModelError(f"{why}; save them as dense tensors on a CPU") from None
                return Given(model, prefix)
            differences.append(found)
    closest = min(differences, key=len)
    more = f" and {len(closest) - 3} more" if len(closest) > 3 else ""
    raise ModelError(
        f"the weights in {text} are not those of {architecture}: {'; '.join(closest[:3])}{more}; "
        "give the code that builds the model, --arch module.py:function"
    )


def _prefixes(state: Mapping[str, Tensor]) -> Iterator[str]:
    """What wrappers may have put before every name, such as "module." or "_orig_mod.module."."""
    prefix = ""
    yield prefix
    while True:
        heads = {key[len(prefix) :].partition(".")[:2] for key in state}
        head, dot = heads.pop()
        if heads or not dot:
            return
        prefix += f"{head}."
        yield prefix


def _builders(
    architecture: str, state: Mapping[str, Tensor], side: tuple[int, int], registry: Registry
) -> Iterator[Callable[[], nn.Module]]:
    """What the name may mean; the one whose weights fit is meant."""
    import torchvision

    if ".py" in architecture:
        yield lambda: _built(architecture)
        return
    # The head's are the last ones, but for files that sort their weights by name.
    rows = [tensor.shape[0] for tensor in state.values() if tensor.ndim == 2]
    sizes = list(dict.fromkeys([rows[-1], *sorted(rows)]))
    colours = {tensor.shape[1] for tensor in state.values() if tensor.ndim == 4}
    names = torchvision.models.list_models(module=torchvision.models)
    if architecture in names:
        yield from (partial(_of_torchvision, architecture, classes) for classes in sizes)
    try:
        plugin = registry.create(Architecture, architecture)
    except RegistryError as error:
        name = parse(architecture)[0]
        if name not in names:
            raise ModelError(
                f"{error}; or the name of a torchvision model, or module.py:function"
            ) from None
        if name != architecture:
            raise ModelError(
                f"--arch {architecture}: {name} of torchvision has no settings; say --arch {name}"
            ) from None
        return
    for channels in sorted(colours & {1, 3}) or [3]:
        yield from (partial(plugin.build, (channels, *side), classes) for classes in sizes)


def _of_torchvision(name: str, classes: int) -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return model


def _differences(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """How the names, shapes and kinds of weights differ from those that a model has."""
    own = model.state_dict()
    found = [f"{name} is missing" for name in own.keys() - state.keys()]
    found += [f"{name} is unknown" for name in state.keys() - own.keys()]
    found += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    # Loading would take the real part of complex weights, and integers without their scale.
    found += [
        f"{name} is {_dtype(state[name])}, expected {_dtype(own[name])}"
        for name in own.keys() & state.keys()
        if own[name].is_floating_point() != state[name].is_floating_point()
    ]
    order = [*own, *state]
    return sorted(found, key=lambda text: order.index(text.split(" ")[0]))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _built(text: str) -> nn.Module:
    """What a function in a file of Python returns."""
    file, _, function = text.rpartition(":") if ".py:" in text else (text, "", "build")
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"there is no file {path}; check the path in {text}")
    spec = importlib.util.spec_from_file_location(f"poisongames_model_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    # As if it were run, so that it finds its neighbours.
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, function):
            raise ModelError(f"{path} has no function {function}; say {path}:NAME")
        model = getattr(module, function)()
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{text} raised {told(error)}; mend it first") from error
    finally:
        if folder in sys.path:  # its code may have changed that, too
            sys.path.remove(folder)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{text} returned {type(model).__name__}, expected a torch.nn.Module")
    return model
