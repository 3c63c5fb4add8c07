"""State dicts as people have them: other orders and wrappers, tied weights, what is no tensor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from benchmark.api import Architecture
from benchmark.registry import Registry
from benchmark.suspect.adapter import ModelError
from benchmark.suspect.reading import read
from benchmark.suspect.states import check_savable, save_state


def own(registry: Registry, name: str, classes: int = 7) -> nn.Module:
    return registry.create(Architecture, name).build((3, 32, 32), classes)


@pytest.mark.parametrize("name", ["vit:layers=1,width=32,heads=2", "vgg11", "convnext_tiny"])
def test_the_head_need_not_be_last_in_the_file(
    name: str, registry: Registry, tmp_path: Path
) -> None:
    """Files of safetensors are sorted by name."""
    if name == "convnext_tiny":
        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=7)
    else:
        model = own(registry, name)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    found = read(str(tmp_path / "w.safetensors"), (32, 32), name, registry).model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("wrapped", ["", "module.", "_orig_mod.module.", "net.", "module.model."])
def test_all_wrappers_are_taken_off_and_put_back(
    wrapped: str, registry: Registry, tmp_path: Path
) -> None:
    state = own(registry, "resnet-small:width=16").state_dict()
    torch.save({wrapped + name: value for name, value in state.items()}, tmp_path / "w.pt")
    found = read(str(tmp_path / "w.pt"), (32, 32), "resnet-small:width=16", registry)
    assert found.prefix == wrapped
    assert list(found.model.state_dict()) == list(state)


def sparse(state: dict[str, Any]) -> dict[Any, Any]:
    return state | {"head.weight": state["head.weight"].to_sparse()}


SETTING = """
import os, sys
import torch
from torch import nn

os.chdir("/")
sys.path.clear()
torch.set_default_dtype(torch.float64)


def build():
    torch.set_grad_enabled(False)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
"""


@pytest.mark.parametrize("end", ["", "    1 / 0\n"])
def test_settings_that_a_models_code_changes_are_put_back(
    end: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    Path("sets.py").write_text(SETTING.replace("    return", f"{end}    return"))
    if end:
        with pytest.raises(ModelError, match="raised ZeroDivisionError"):
            read("sets.py:build", (2, 2), None, registry)
    else:
        (note,) = read("sets.py:build", (2, 2), None, registry).notes
        assert note == (
            "building the model changes the working directory and torch's default dtype and "
            "whether torch keeps gradients, which was put back"
        )
    assert Path.cwd() == tmp_path
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


BROKEN = {
    "holds no state dict": lambda state: dict(enumerate(state.values())),
    r"several state dicts, model, model_ema; .*\['model'\], 'weights.pt'\)": lambda state: {
        "epoch": 3,
        "model": state,
        "model_ema": state,
    },
    "save them as dense tensors on a CPU": sparse,
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_what_is_no_plain_state_is_refused(
    sentence: str, registry: Registry, tmp_path: Path
) -> None:
    torch.save(
        BROKEN[sentence](own(registry, "resnet-small:width=16").state_dict()), tmp_path / "w.pt"
    )
    with pytest.raises(ModelError, match=sentence):
        read(str(tmp_path / "w.pt"), (32, 32), "resnet-small:width=16", registry)


def test_settings_that_torchvision_does_not_know(registry: Registry, tmp_path: Path) -> None:
    torch.save(own(registry, "resnet-small:width=16").state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="has no settings; say --arch resnet50"):
        read(str(tmp_path / "w.pt"), (32, 32), "resnet50:width=3", registry)


def test_tied_weights_are_saved_and_what_is_no_tensor_is_refused_before(tmp_path: Path) -> None:
    one = torch.rand(2, 2)
    save_state({"a": one, "b": one, "c": one[:, :1]}, tmp_path / "tied.safetensors")
    found = load_file(tmp_path / "tied.safetensors")
    assert torch.equal(found["a"], one)
    assert torch.equal(found["b"], one)
    assert torch.equal(found["c"], one[:, :1])
    check_savable({"a": one, "_extra_state": {}}, Path("x.pt"))
    with pytest.raises(
        ModelError, match=r"_extra_state of the model is no tensor; end --out in .pt"
    ):
        check_savable({"a": one, "_extra_state": {}}, Path("x.safetensors"))
