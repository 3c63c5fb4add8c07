"""Architectures: shapes, stages, normalisation inside, statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from stand_ins import STAND_INS
from torch import nn

from benchmark.api import Architecture
from benchmark.classifier import Classifier, channel_statistics
from benchmark.models import Airbench, SmallResNet
from benchmark.models.published import LibraryModel
from benchmark.registry import Registry

SHAPES = [(1, 16, 16), (3, 32, 32)]
RESNET_STAGES = ["stem", "layer1", "layer2", "layer3", "layer4"]
STAGES = {
    "resnet-small": RESNET_STAGES[:4],
    "resnet9": RESNET_STAGES[:4],
    "airbench": RESNET_STAGES[:4],
    "resnet18": RESNET_STAGES,
    "resnet18-cifar": RESNET_STAGES,
    "wide-resnet50-2": RESNET_STAGES,
    "resnet50": RESNET_STAGES,
    "vgg16": [f"block{number}" for number in range(1, 6)],
    "vgg11": [f"block{number}" for number in range(1, 6)],
    "alexnet": [f"block{number}" for number in range(1, 6)],
    "vit": RESNET_STAGES,
    "clip": RESNET_STAGES,
}
#: Large ones that differ from a tested one in numbers only.
SIBLINGS = ("resnet50", "vgg11")
#: Sides of the stages' maps for images of 32 pixels: a stride of two halves them.
SIDES = {
    "resnet-small": [32, 32, 16, 8],
    "resnet9": [32, 16, 8, 4],
    "airbench": [31, 15, 7, 3],
    "resnet18": [32, 32, 16, 8, 4],
    "resnet18-cifar": [32, 32, 16, 8, 4],
    "wide-resnet50-2": [32, 32, 16, 8, 4],
    "resnet50": [32, 32, 16, 8, 4],
    "vgg16": [16, 8, 4, 2, 1],
    "vgg11": [16, 8, 4, 2, 1],
    "alexnet": [15, 7, 7, 7, 3],
    "vit": [65] * 5,
    "clip": [65] * 5,
}
#: Trainable scalars for 3x32x32 and 10 classes, by adding up the layers in the papers' tables.
SCALARS = {
    "resnet9": 412_954,
    "airbench": 498_138,
    "resnet18-cifar": 11_173_962,
    "resnet18": 11_173_962,
}

registered = [entry.plugin.name for entry in Registry().entries if entry.kind is Architecture]


def test_every_architecture_is_tested_here() -> None:
    assert set(registered) <= set(STAGES)


def images(shape: tuple[int, int, int], count: int = 2) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "shape"),
    [(n, shape) for n in registered for shape in SHAPES if n not in SIBLINGS or shape[1] == 32]
    + [("vgg16", (1, 28, 28))],
)
def test_architecture(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = Registry().create(Architecture, STAND_INS.get(name, name)).build(shape, 7).eval()
    batch = images(shape)
    with torch.no_grad():
        logits, features = model(batch), model.features(batch)
        maps = model.stage_maps(batch)
        assert logits.shape == (2, 7)
        assert model.classes == 7
        assert features.shape == (2, model.head.in_features)
        torch.testing.assert_close(model.head(features), logits)
        assert not torch.allclose(logits[0], logits[1])

        assert list(maps) == STAGES[name]
        assert all(found.ndim == 4 and len(found) == 2 for found in maps.values())
        torch.testing.assert_close(model.neck(list(maps.values())[-1]), features)
        if shape[1] == 32:
            assert [found.shape[2] for found in maps.values()] == SIDES[name]

        # Pixels in, normalisation inside: the bare net on normalised images is the same.
        mean, std = torch.rand(shape[0]) * 0.4 + 0.3, torch.rand(shape[0]) * 0.2 + 0.1
        bare = copy.deepcopy(model)
        bare.normalise_by(torch.zeros(shape[0]), torch.ones(shape[0]))
        model.normalise_by(mean, std)
        normalised = torch.empty_like(batch)
        for channel in range(shape[0]):
            normalised[:, channel] = (batch[:, channel] - mean[channel]) / std[channel]
        torch.testing.assert_close(model(batch), bare(normalised), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(model(batch), bare(batch))
    if name in SCALARS and shape == (3, 32, 32):
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trainable == SCALARS[name] - 3 * (model.head.in_features + 1)  # 7 classes, not 10


#: torchvision's models that classifiers are cut from, for images whose side is no small one.
ORIGINALS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "alexnet": ("alexnet", torchvision.models.alexnet),
    "resnet18": ("resnet18", torchvision.models.resnet18),
    "resnet50": ("resnet50", torchvision.models.resnet50),
    "wide-resnet50-2": ("wide-resnet50-2", torchvision.models.wide_resnet50_2),
    "vgg11": ("vgg11", torchvision.models.vgg11_bn),
    "vgg16": ("vgg16", torchvision.models.vgg16_bn),
    "vit": (
        "vit:layers=3,width=32,heads=2",
        partial(torchvision.models.VisionTransformer, 96, 32, 3, 2, 32, 128),
    ),
}


def test_every_published_architecture_is_compared_with_its_original() -> None:
    entries = (entry for entry in Registry().entries if entry.kind is Architecture)
    cut = {entry.plugin.name for entry in entries if issubclass(entry.plugin, LibraryModel)}
    assert cut == {*ORIGINALS, "clip"}, "tests/clip compares that one"


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "vit"])
def test_with_torchvisions_weights_it_answers_as_torchvisions_model(name: str) -> None:
    """Classifiers take pixels; torchvision's models take them less the mean over the deviation."""
    spec, original = ORIGINALS[name]
    torch.manual_seed(0)
    theirs, architecture = original().eval(), Registry().create(Architecture, spec)
    for buffer in theirs.buffers():  # running statistics that do something
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    nn.init.normal_([m for m in theirs.modules() if isinstance(m, nn.Linear)][-1].weight)
    own = architecture.build((3, 96, 96), 1000).eval()
    names = architecture.names((3, 96, 96), 1000)
    own.load_state_dict({names[k]: v for k, v in theirs.state_dict().items()}, strict=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    own.normalise_by(mean, std)
    batch = images((3, 96, 96))
    with torch.no_grad():
        expected = theirs((batch - mean[:, None, None]) / std[:, None, None])
        torch.testing.assert_close(own(batch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ORIGINALS)
def test_every_tensor_of_torchvisions_has_one_place_of_its_shape(name: str) -> None:
    """For 1000 classes of 224 x 224 pixels, ViT-B/32 among them; nothing is computed."""
    spec, original = ORIGINALS[name]
    if name == "vit":
        spec, original = "vit", torchvision.models.vit_b_32
    architecture = Registry().create(Architecture, spec)
    with torch.device("meta"):
        theirs = {key: one.shape for key, one in original().state_dict().items()}
        own = architecture.build((3, 224, 224), 1000).state_dict()
        names = architecture.names((3, 224, 224), 1000)
    assert theirs == {key: own[name].shape for key, name in names.items()}
    assert sorted(names.values()) == sorted(own.keys() - {"mean", "std"})


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("vit:layers=1", (3, 100, 100), "cannot cut images of 100x100 pixels into patches of 32x3"),
        ("vit:layers=1", (3, 16, 32), "cannot cut images of 16x32 pixels into patches of 4x4"),
        ("vit:heads=5", (3, 32, 32), "heads=5 do not share width=768 evenly"),
        ("vit:patch=12", (3, 32, 32), "patch"),
    ],
)
def test_a_transformer_that_cannot_be_says_why(
    spec: str, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Registry().create(Architecture, spec).build(shape, 2)


def small(width: int = 16) -> Classifier:
    torch.manual_seed(0)
    return SmallResNet(width=width).build((1, 16, 16), 4)


def test_normalisation_is_saved_with_the_weights_but_never_trained() -> None:
    model, other = small(), small()
    model.normalise_by(torch.tensor([0.1]), torch.tensor([0.2]))
    other.load_state_dict(model.state_dict())
    assert other.mean.flatten().tolist() == pytest.approx([0.1])
    assert other.std.flatten().tolist() == pytest.approx([0.2])
    assert not {"mean", "std"} & {name for name, _ in model.named_parameters()}


def test_a_constant_channel_cannot_divide_by_zero() -> None:
    model = small().eval()
    model.normalise_by(torch.tensor([0.5]), torch.tensor([0.0]))
    assert torch.isfinite(model(images((1, 16, 16)))).all()


def test_torchs_seed_draws_the_weights() -> None:
    torch.manual_seed(1)
    first = SmallResNet().build((1, 16, 16), 4).head.weight
    torch.manual_seed(1)
    again = SmallResNet().build((1, 16, 16), 4).head.weight
    other = SmallResNet().build((1, 16, 16), 4).head.weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_block_is_relu_of_two_convolutions_plus_shortcut() -> None:
    """He et al., fig. 2, written out in doubles with the batch norm's own formula."""
    block = small().stages.layer2[0].double().eval()

    def conv(images: np.ndarray, weight: torch.Tensor, stride: int, pad: int) -> np.ndarray:
        w = weight.detach().numpy()
        padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        size = (padded.shape[2] - w.shape[2]) // stride + 1
        out = np.zeros((len(images), len(w), size, size))
        for row in range(size):
            for column in range(size):
                top, left = row * stride, column * stride
                window = padded[:, :, top : top + w.shape[2], left : left + w.shape[3]]
                out[:, :, row, column] = np.einsum("bcij,ocij->bo", window, w)
        return out

    def norm(images: np.ndarray, layer: torch.nn.BatchNorm2d) -> np.ndarray:
        with torch.no_grad():
            layer.running_mean.uniform_(-1, 1), layer.running_var.uniform_(0.5, 2)
            layer.weight.uniform_(0.5, 2), layer.bias.uniform_(-1, 1)
            scale = layer.weight / (layer.running_var + layer.eps).sqrt()
            shift = layer.bias - layer.running_mean * scale
        return images * scale.numpy()[:, None, None] + shift.numpy()[:, None, None]

    x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
    hidden = np.maximum(norm(conv(x.numpy(), block.conv1.weight, 2, 1), block.bn1), 0)
    out = norm(conv(hidden, block.conv2.weight, 1, 1), block.bn2)
    out += norm(conv(x.numpy(), block.shortcut[0].weight, 2, 0), block.shortcut[1])
    np.testing.assert_allclose(block(x).detach().numpy(), np.maximum(out, 0), atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_airbench_starts_with_cosine_transforms_and_passes_them_on(channels: int) -> None:
    model = Airbench(width=32).build((channels, 9, 12), 10)
    batch = torch.rand(2, channels, 9, 12, dtype=torch.float64)
    with torch.no_grad():
        found = model.double().stages.stem[0](batch)
        assert found.shape == (2, 8 * channels, 8, 11)
        for row, column in ((0, 0), (3, 7), (7, 10)):
            patch = batch[0, :, row : row + 2, column : column + 2].numpy()
            waves = dctn(patch, norm="ortho").flatten()
            both = [*waves, *-waves]
            np.testing.assert_allclose(found[0, :, row, column].numpy(), both, atol=1e-6)
        passed = model.stages.layer1[0](found)[:, : 8 * channels]
        torch.testing.assert_close(passed, found)


def test_an_airbench_for_smaller_images_cannot_be() -> None:
    with pytest.raises(ValueError, match="airbench needs images of 9x9 pixels at least, got 9x8"):
        Airbench().build((1, 9, 8), 2)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.integers(1, 255))
def test_channel_statistics_equal_numpys(channels: int, seed: int, levels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels + 1, (5, channels, 4, 3), np.uint8)
    mean, std = channel_statistics(torch.from_numpy(pixels))
    expected = pixels.astype(np.float64) / 255
    np.testing.assert_allclose(mean.numpy(), expected.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(std.numpy(), expected.std((0, 2, 3)), atol=1e-6)
