"""State dicts in files: reading what people save, and writing what was repaired."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.records.files import write_whole
from benchmark.suspect.adapter import ModelError, told


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name; those of a checkpoint that holds one state dict, too.

    Raises:
        ModelError: no such file, or one that is not allowed; pickled code is never run.
    """
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ModelError(
            f"{path} is no model: expected a file .safetensors, .pt or .pth with a state dict, "
            "the name of a torchvision model, or module.py:function"
        )
    if not path.is_file():
        raise ModelError(f"there is no file {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files are met with errors of many types
        if "weights_only" in str(error) or "TorchScript" in str(error):
            raise ModelError(
                f"{path} holds a pickled model, which would run code while it is loaded; save "
                "torch.save(model.state_dict(), 'weights.pt') where it was made, and give that"
            ) from None
        raise ModelError(f"{path} cannot be read ({told(error)}); fetch or save it again") from None
    if not _is_state(found) and isinstance(found, Mapping):
        inner = {key: value for key, value in found.items() if _is_state(value)}
        if len(inner) > 1:
            one, names = next(iter(inner)), ", ".join(map(str, inner))
            raise ModelError(
                f"{path} holds several state dicts, {names}; give one of them alone, saved by "
                f"torch.save(torch.load({str(path)!r})[{one!r}], 'weights.pt')"
            )
        found = next(iter(inner.values()), found)
    if not _is_state(found):
        raise ModelError(
            f"{path} holds no state dict; save torch.save(model.state_dict(), 'weights.pt') where "
            "it was made, and give that"
        )
    return dict(found)


def check_savable(state: Mapping[str, Any], path: Path) -> None:
    """See that a file of this suffix takes the state of a model.

    Raises:
        ModelError: it has parts that are no tensors, which safetensors does not know.
    """
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd and path.suffix == ".safetensors":
        raise ModelError(f"{odd[0]} of the model is no tensor; end --out in .pt")


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as the suffix says: .safetensors, or .pt and .pth for torch.load.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        # Tied weights would share memory, which such files do not have.
        content = save(
            {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
        )
    else:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
    write_whole(path, content)


def _is_state(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and bool(found)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items())
        and any(value.ndim == 2 for value in found.values())
    )
