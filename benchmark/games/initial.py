"""Weights that victims start from: a file or torchvision's, fitted to a protocol's architecture."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark.api import Architecture
from benchmark.classifier import Classifier, tensors_sha256
from benchmark.protocol import ProtocolError, Recipe

#: So many tensors that do not fit are named.
NAMED = 3


@dataclass(frozen=True)
class Initial:
    """How a victim starts.

    Attributes:
        state: tensors by a classifier's names, `mean` and `std` among them; empty where all is
            drawn anew. What it lacks is drawn.
        sha256: digest of the weights as they were given, None without any.
        note: a sentence on what of them was left out; empty where nothing was.
    """

    state: Mapping[str, Tensor]
    sha256: str | None
    note: str = ""


def digest(recipe: Recipe) -> str | None:
    """SHA-256 over the tensors that a recipe starts from, None where it draws all weights.

    Raises:
        ProtocolError: they cannot be read.
    """
    return None if recipe.init is None else tensors_sha256(tensors(recipe.init))


def initial(
    recipe: Recipe, architecture: Architecture, shape: tuple[int, int, int], classes: int
) -> Initial:
    """The start of a recipe's victims, images being (C, H, W).

    A head for another number of classes is left out; one that is not there is made.

    Raises:
        ProtocolError: weights that cannot be read or do not fit, or parts that are not there.
    """
    if recipe.init is None and not recipe.trains:
        return Initial({}, None)
    model = architecture.build(shape, classes)
    _check_parts(recipe.trains, model, architecture)
    if recipe.init is None:
        return Initial({}, None)
    given, own = tensors(recipe.init), model.state_dict()
    names = architecture.names(shape, classes)
    found = {names.get(name, name): tensor for name, tensor in given.items()}
    note = ""
    head = found.get("head.weight", own["head.weight"])
    if head.ndim == 2 and len(head) != classes and head.shape[1] == own["head.weight"].shape[1]:
        note = (
            f"{recipe.init} has a head of {len(head)} classes, which is replaced by a fresh one of "
            f"{classes}"
        )
    elif "head.weight" not in found:
        note = f"{recipe.init} has no head, so that a fresh one is made"
    if note:
        found |= {name: tensor for name, tensor in own.items() if name.startswith("head.")}
    for name in ("mean", "std"):
        if found[name].numel() == own[name].numel():
            found[name] = found[name].view_as(own[name])
    if wrong := [*_differences(found, own)]:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise ProtocolError(
            f"init: {recipe.init} does not fit {architecture.name} for {shape[0]}x{shape[1]}x"
            f"{shape[2]} images: {', '.join(wrong[:NAMED])}{more}; give weights of the protocol's "
            "architecture"
        )
    kept = {name for name in found if not (note and name.startswith("head."))}
    return Initial({name: found[name] for name in kept}, tensors_sha256(given), note)


def tensors(init: str) -> dict[str, Tensor]:
    """All tensors by the names of whoever saved them, with `mean` and `std` of normalisation.

    Args:
        init: as in `benchmark.protocol.Recipe`.
    """
    return _read(Path(init)) if init.endswith(".safetensors") else _fetched(init)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise ProtocolError(f"init: there is no file {path}; check the path")
    try:
        found: dict[str, Tensor] = load_file(path)
    except Exception as error:  # damaged files are met with errors of many types
        why = " ".join(str(error).split())
        raise ProtocolError(
            f"init: {path} cannot be read ({why}); save or fetch it again"
        ) from None
    if missing := {"mean", "std"} - found.keys():
        raise ProtocolError(
            f"init: {path} lacks {' and '.join(sorted(missing))}; add, per channel, what the "
            "images in [0, 1] that it was trained on were normalised by"
        )
    return found


def _fetched(name: str) -> dict[str, Tensor]:
    """Weights that torchvision publishes; it keeps what it once fetched."""
    import torchvision

    try:
        weights = torchvision.models.get_weight(name)
        shown = weights.transforms()
        mean, std = torch.tensor(shown.mean), torch.tensor(shown.std)
    except (ValueError, AttributeError):  # no such weights, or none of a classifier
        raise ProtocolError(
            f"init: {name!r} is neither a file .safetensors nor weights of a classifier in "
            "torchvision, such as ResNet18_Weights.IMAGENET1K_V1"
        ) from None
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # torchvision passes on what urllib and others raise
        why = " ".join(str(error).split())
        raise ProtocolError(
            f"init: {name} could not be fetched ({why}); save it to a file .safetensors elsewhere "
            "with its mean and std, and give that"
        ) from None
    return state | {"mean": mean, "std": std}


def _check_parts(trains: tuple[str, ...], model: Classifier, architecture: Architecture) -> None:
    there = [name for name, part in model.parts.items() if any(True for _ in part.parameters())]
    for name in trains:
        if name not in there:
            raise ProtocolError(
                f"trains: {name!r} is no part of {architecture.name} that can be trained; there "
                f"are {', '.join(there)}"
            )


def _differences(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in own.items():
        if name not in found:
            yield f"{name} is missing"
        elif found[name].shape != tensor.shape:
            yield f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
    for name in found:
        if name not in own:
            yield f"{name} is unknown"
