"""Any network that ends in a linear layer becomes a classifier that answers as it did."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision.models as models
from torch import Tensor, nn
from torchvision.models import convnext, regnet, resnet

from benchmark import scan
from benchmark.inversion import FrozenClassifier
from benchmark.suspect.adapter import ModelError, adapt

CHEAP = ["neural-cleanse:steps=2,batch_size=2,check=1,patience=1"]

#: Thin members of ten families: their own code, few weights. All take 32x32 colour images.
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: models.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=4),
    "densenet": lambda: models.DenseNet(8, (2, 2), 16, num_classes=4),
    "mobilenet_v2": lambda: models.MobileNetV2(
        4, inverted_residual_setting=[[1, 8, 1, 1], [6, 16, 2, 2], [6, 24, 2, 2]]
    ),
    "mobilenet_v3": lambda: models.mobilenet_v3_small(num_classes=4, width_mult=0.25),
    "shufflenet": lambda: models.ShuffleNetV2([1, 1, 1], [8, 16, 24, 32, 64], num_classes=4),
    "mnasnet": lambda: models.MNASNet(0.25, num_classes=4),
    "regnet": lambda: models.RegNet(
        regnet.BlockParams([1, 2], [16, 32], [8, 8], [1.0, 1.0], [2, 2]), num_classes=4
    ),
    "convnext": lambda: models.ConvNeXt(
        [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)], num_classes=4
    ),
    "vit": lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4),
    "swin": lambda: models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=4),
}


def varied(model: nn.Module) -> nn.Module:
    """Statistics and affine layers as after training, so that leaving one out shows."""
    rng = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
        elif name.endswith((".weight", "class_token")):
            tensor.copy_(torch.randn(tensor.shape, generator=rng) / tensor[0].numel() ** 0.5)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_families_answer_as_before_and_can_be_scanned(family: str) -> None:
    model = varied(FAMILIES[family]())
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    with torch.no_grad():
        wanted = model((images - mean[:, None, None]) / std[:, None, None])
        adapted = adapt(model, (3, 32, 32))
        adapted.normalise_by(mean, std)
        close = {"rtol": 1e-3, "atol": 1e-3 * float(wanted.abs().max())}
        torch.testing.assert_close(adapted(images), wanted, **close)
        folded = FrozenClassifier(adapted, "float32")(images)
        torch.testing.assert_close(folded, wanted, **close)
        maps = adapted.stage_maps(images)
    assert all(shown.ndim == 4 for shown in maps.values())
    assert len(maps) >= (1 if family == "vit" else 2)
    own = adapted.own_state()
    assert list(own) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(own[name], tensor)

    pixels = (images * 255).byte().repeat(2, 1, 1, 1)
    found = scan(model, pixels, [0, 1, 2, 3, 0, 1], detectors=CHEAP, anyway=True)
    assert [finding.error for finding in found.findings] == [""]
    assert set(found.findings[0].class_scores) == {"0", "1", "2", "3"}


class Around(nn.Module):
    """What it adds to the last part's output comes from the first one's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.a(images)
        hidden = self.c(self.b(hidden)) + hidden
        return self.head(hidden.mean((2, 3)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.second.weight = self.first.weight
        self.head = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, str]:
        return self.head(self.second(self.first(images)).mean((2, 3))), "beside the logits"


@pytest.mark.parametrize("build", [Around, Tied])
def test_a_shortcut_around_parts_and_shared_weights_are_kept(
    build: Callable[[], nn.Module],
) -> None:
    model, images = build(), torch.rand(2, 3, 8, 8)
    adapted = adapt(model, (3, 8, 8))
    wanted = model(images)
    torch.testing.assert_close(adapted(images), wanted[0] if isinstance(wanted, tuple) else wanted)
    assert adapted.own_state().keys() == model.state_dict().keys()


def test_the_model_stays_as_it_is() -> None:
    model = Around().train()
    before = copy.deepcopy(model.state_dict())
    adapted = adapt(model, (3, 8, 8))
    adapted.head.weight.data.zero_()
    assert model.training
    assert [type(part) for part in model.children()] == [nn.Conv2d] * 3 + [nn.Linear]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def _broken() -> nn.Module:
    model = Around()
    model.b.weight.data[0, 0, 0, 0] = torch.nan
    return model


class Alone(nn.Module):
    """Its squeeze takes the batch away, too, where that is one image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).mean((2, 3), keepdim=True).squeeze())


class Noisy(Around):
    def forward(self, images: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.a(images), 0.5, training=True)
        return self.head(hidden.mean((2, 3)))


class Soft(Around):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)


class Two(Around):
    """A second head is called after the first, whose logits are returned."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.a(images).mean((2, 3))
        logits = self.head(features)
        self.other(features)
        return logits


def _negative() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.running_var.fill_(-1)  # type: ignore[union-attr]
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, *POOLED[1:], nn.Linear(4, 4))


def _weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        part = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    part(torch.rand(1, 3, 8, 8))
    return nn.Sequential(part, *POOLED[1:], nn.Linear(4, 4))


def test_a_second_head_need_not_be_the_logits() -> None:
    model, images = Two(), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(adapt(model, (3, 8, 8))(images), model(images))


POOLED = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
WRONG = {
    "ends in Flatten 2, not in a linear layer": POOLED,
    "goes on behind its last linear layer 3, to LogSoftmax": nn.Sequential(
        *POOLED, nn.Linear(4, 4), nn.LogSoftmax(1)
    ),
    "weights b.weight are not all finite": _broken(),
    "does not take images of 3 colour channels and 8x8 pixels": nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    ),
    "expected logits": nn.Conv2d(3, 4, 3),
    "takes two images and not one": Alone(),
    "gives other logits when it is asked again": Noisy(),
    "last linear layer head, to what its forward does then": Soft(),
    "logits are not finite; give the model of an earlier epoch": _negative(),
    "cannot be copied .*weight_norm": _weight_norm(),
    "cannot be copied": nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyLinear(4)),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_cannot_be_adapted_is_refused(sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        adapt(WRONG[sentence], (3, 8, 8))


WHOLE = ["resnet18", "vgg11_bn", "densenet121", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf"]
WHOLE += ["convnext_tiny", "shufflenet_v2_x0_5", "mnasnet0_5", "swin_t", "alexnet", "googlenet"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks_answer_as_before(name: str) -> None:
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = varied(models.get_model(name, weights=None, num_classes=7, **extra))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = model(images)
        found = adapt(model, (3, 64, 64))(images)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
