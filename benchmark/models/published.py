"""torchvision's networks as classifiers: cut into stages, and fitted to small images.

Images up to 64 pixels get a network that subsamples later, and a narrow neck where the original
has fully connected layers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from benchmark.api import Architecture
from benchmark.classifier import Classifier

#: Images up to this side get a stem without early subsampling.
SMALL = 64


def torchvision_models() -> Any:
    # It takes seconds, and most protocols do without.
    import torchvision

    return torchvision.models


def is_small(shape: tuple[int, int, int]) -> bool:
    """Whether images (C, H, W) are too small for the original network."""
    return max(shape[1:]) <= SMALL


class LibraryModel(Architecture):
    """Base of architectures cut out of a library's model; not registered itself."""

    @abstractmethod
    def original(self, shape: tuple[int, int, int]) -> nn.Module:
        """The library's untrained model for images (C, H, W)."""

    @abstractmethod
    def cut(self, model: Any, shape: tuple[int, int, int], classes: int) -> Classifier:
        """Make a classifier of its parts; parts that are new take their place in `model`, too."""

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        return self.cut(self.original(shape), shape, classes)

    def names(self, shape: tuple[int, int, int], classes: int) -> dict[str, str]:
        model = self.original(shape)
        own = self.cut(model, shape, classes).state_dict(keep_vars=True)
        known = {id(tensor): name for name, tensor in own.items()}
        return {name: known[id(one)] for name, one in model.state_dict(keep_vars=True).items()}


def _first(
    shape: tuple[int, int, int], width: int, how: tuple[int, int, int], *, bias: bool
) -> nn.Conv2d:
    """A first convolution; `how` are side, stride and padding."""
    conv = nn.Conv2d(shape[0], width, *how, bias=bias)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class _Torchvision(LibraryModel):
    """Base of torchvision's models: `library` is its name there."""

    library: ClassVar[str]

    def original(self, shape: tuple[int, int, int]) -> nn.Module:
        model: nn.Module = torchvision_models().get_model(self.library, weights=None)
        return model


class _ResNet(_Torchvision):
    """Base of torchvision's ResNets; small images skip the early subsampling."""

    def cut(self, model: Any, shape: tuple[int, int, int], classes: int) -> Classifier:
        small, width = is_small(shape), model.conv1.out_channels
        model.conv1 = _first(shape, width, (3, 1, 1) if small else (7, 2, 3), bias=False)
        pool = nn.Identity() if small else model.maxpool
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        stages["stem"] = nn.Sequential(model.conv1, model.bn1, nn.ReLU(), pool)
        for number in range(1, 5):
            stages[f"layer{number}"] = getattr(model, f"layer{number}")
        neck = nn.Sequential(model.avgpool, nn.Flatten())
        model.fc = nn.Linear(model.fc.in_features, classes)
        return Classifier(stages, neck, model.fc, shape[0])


@dataclass
class ResNet18(_ResNet):
    """torchvision's ResNet-18; images up to 64 pixels get a 3x3 stem."""

    name, version, paper = "resnet18", 1, "He et al., CVPR 2016"
    library = "resnet18"


@dataclass
class ResNet50(_ResNet):
    """torchvision's ResNet-50; images up to 64 pixels get a 3x3 stem."""

    name, version, paper = "resnet50", 1, "He et al., CVPR 2016"
    library = "resnet50"


@dataclass
class WideResNet50(_ResNet):
    """torchvision's WideResNet-50-2; images up to 64 pixels get a 3x3 stem."""

    name, version, paper = "wide-resnet50-2", 1, "Zagoruyko and Komodakis, BMVC 2016"
    library = "wide_resnet50_2"


def _neck(model: Any, width: int, shape: tuple[int, int, int]) -> tuple[nn.Sequential, int]:
    """What turns a map of `width` channels into features, and how many these are."""
    if is_small(shape):
        narrow = (nn.Linear(width, width), nn.ReLU(), nn.Dropout())
        # In the places of torchvision's own, which has another layer there.
        model.classifier = nn.Sequential(*narrow, model.classifier[-1])
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *narrow), width
    own = model.classifier[:-1]
    return nn.Sequential(model.avgpool, nn.Flatten(), *own), model.classifier[-1].in_features


class _VGG(_Torchvision):
    """Base of torchvision's VGGs with batch norm: a stage up to every pooling."""

    def cut(self, model: Any, shape: tuple[int, int, int], classes: int) -> Classifier:
        model.features[0] = _first(shape, 64, (3, 1, 1), bias=True)
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        block: list[nn.Module] = []
        side = min(shape[1:])
        for layer in model.features:
            if isinstance(layer, nn.MaxPool2d):
                # A map of one pixel cannot be halved again.
                block.append(layer if side > 1 else nn.Identity())
                side = max(side // 2, 1)
                stages[f"block{len(stages) + 1}"] = nn.Sequential(*block)
                block = []
            else:
                block.append(layer)
        neck, width = _neck(model, 512, shape)
        model.classifier[-1] = nn.Linear(width, classes)
        return Classifier(stages, neck, model.classifier[-1], shape[0])


@dataclass
class VGG11(_VGG):
    """torchvision's VGG-11 with batch norm; small images pool to 1x1 and get a narrow neck."""

    name, version, paper = "vgg11", 1, "Simonyan and Zisserman, ICLR 2015"
    library = "vgg11_bn"


@dataclass
class VGG16(_VGG):
    """torchvision's VGG-16 with batch norm; small images pool to 1x1 and get a narrow neck."""

    name, version, paper = "vgg16", 1, "Simonyan and Zisserman, ICLR 2015"
    library = "vgg16_bn"


@dataclass
class AlexNet(_Torchvision):
    """torchvision's AlexNet; images up to 64 pixels get a 3x3 stem and a narrow neck."""

    name, version, paper = "alexnet", 1, "Krizhevsky, arXiv:1404.5997, 2014"
    library = "alexnet"

    def cut(self, model: Any, shape: tuple[int, int, int], classes: int) -> Classifier:
        small, side = is_small(shape), min(shape[1:])
        if small or shape[0] != 3:
            model.features[0] = _first(shape, 64, (3, 1, 1) if small else (11, 4, 2), bias=True)
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        block: list[nn.Module] = []
        for layer in model.features:
            if isinstance(layer, nn.Conv2d) and block:
                stages[f"block{len(stages) + 1}"] = nn.Sequential(*block)
                block = []
            if small and isinstance(layer, nn.MaxPool2d):
                # Three pixels are what it looks at.
                layer = layer if side >= 3 else nn.Identity()
                side = (side - 1) // 2 if side >= 3 else side
            block.append(layer)
        stages[f"block{len(stages) + 1}"] = nn.Sequential(*block)
        neck, width = _neck(model, 256, shape)
        model.classifier[-1] = nn.Linear(width, classes)
        return Classifier(stages, neck, model.classifier[-1], shape[0])
