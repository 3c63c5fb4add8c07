"""Residual networks for small images, in a few lines of their own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.api import Architecture, Count
from benchmark.classifier import Classifier

#: Training 1x1 stride-2 convolutions on fewer channels corrupts memory on torch 2.15 CPUs.
Width = Annotated[int, Field(ge=16, description="at least 16")]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, hidden: Tensor) -> Tensor:
        out = torch.relu_(self.bn1(self.conv1(hidden)))
        return torch.relu_(self.bn2(self.conv2(out)) + self.shortcut(hidden))


def _resnet(
    shape: tuple[int, int, int], classes: int, widths: list[int], blocks: int
) -> Classifier:
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    stages["stem"] = nn.Sequential(
        nn.Conv2d(shape[0], widths[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
    )
    inputs = widths[0]
    for number, width in enumerate(widths, start=1):
        layers = []
        for block in range(blocks):
            stride = 2 if number > 1 and block == 0 else 1
            layers.append(BasicBlock(inputs, width, stride))
            inputs = width
        stages[f"layer{number}"] = nn.Sequential(*layers)
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(stages, neck, nn.Linear(inputs, classes), shape[0])


@dataclass
class SmallResNet(Architecture):
    """Three stages of basic blocks, as wide as `width`, twice and four times that."""

    name, version, paper = "resnet-small", 1, "He et al., CVPR 2016"
    width: Width = 16
    blocks: Count = 1

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        return _resnet(shape, classes, [self.width, 2 * self.width, 4 * self.width], self.blocks)


def convolution(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    """A 3x3 convolution, halved in side where asked, batch norm and ReLU."""
    # Batch norm costs a quarter behind the pooling.
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)]
    layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ResidualPair(nn.Module):
    """Two convolutions whose rectified output is added to what went in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pair = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        added: Tensor = self.pair(hidden)
        return hidden + added


@dataclass
class ResNet9(Architecture):
    """Convolutions with pooling, two residual pairs and a max-pooled head: quick on a CPU."""

    name, version, paper = "resnet9", 1, "after Page, How to train your ResNet, 2018"
    width: Annotated[int, Field(ge=8, description="at least 8")] = 16

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        width = self.width
        stages: OrderedDict[str, nn.Module] = OrderedDict(
            stem=convolution(shape[0], width),
            layer1=nn.Sequential(convolution(width, 2 * width, pool=True), ResidualPair(2 * width)),
            layer2=convolution(2 * width, 4 * width, pool=True),
            layer3=nn.Sequential(
                convolution(4 * width, 8 * width, pool=True), ResidualPair(8 * width)
            ),
        )
        neck = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
        return Classifier(stages, neck, nn.Linear(8 * width, classes), shape[0])


@dataclass
class CifarResNet18(Architecture):
    """ResNet-18 with a 3x3 stem and no early pooling, as used on CIFAR-10."""

    name, version, paper = "resnet18-cifar", 1, "He et al., CVPR 2016"

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        return _resnet(shape, classes, [64, 128, 256, 512], 2)
