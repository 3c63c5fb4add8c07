"""The network of the fastest known trainings on CIFAR-10, narrowed for a CPU."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.api import Architecture
from benchmark.classifier import Classifier
from benchmark.models.residual import convolution


def cosines(size: int) -> Tensor:
    """The discrete cosine transform of `size` numbers, an orthonormal matrix, mean first."""
    places = torch.arange(size)
    waves = torch.cos(math.pi / size * (places + 0.5) * places[:, None])
    waves[0] /= math.sqrt(2)
    return waves * math.sqrt(2 / size)


def _stem(channels: int) -> nn.Sequential:
    """Cosine transforms of all 2x2 patches, each with both signs; their weights are trained too.

    The transform takes the place of a whitening by training images, which it nearly is on
    natural ones: batch norm gives its parts one scale.
    """
    colours, sides = cosines(channels), cosines(2)
    waves = torch.einsum("kc,ui,vj->kuvcij", colours, sides, sides).flatten(0, 2)
    patches = nn.Conv2d(channels, 2 * len(waves), 2, bias=False)
    with torch.no_grad():
        patches.weight.copy_(torch.cat([waves, -waves]))
    return nn.Sequential(patches, nn.BatchNorm2d(2 * len(waves)), nn.ReLU(inplace=True))


def _identity(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
    """A `convolution` that starts as the identity of its inputs."""
    layers = convolution(inputs, outputs, pool)
    with torch.no_grad():
        nn.init.dirac_(layers[0].get_parameter("weight")[:inputs])
    return layers


@dataclass
class Airbench(Architecture):
    """Seven convolutions without shortcuts, halved in side three times: accurate in few epochs.

    The published one, of width 64, whitens its stem by training images and has GELU instead of
    ReLU. Images have 9x9 pixels at least.
    """

    name, version, paper = "airbench", 1, "Jordan, 94% on CIFAR-10 in 3.29 Seconds, 2024, Sec. 3"
    width: Annotated[int, Field(ge=8, description="at least 8")] = 32

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        channels, height, width = shape
        if min(height, width) < 9:
            raise ValueError(f"airbench needs images of 9x9 pixels at least, got {height}x{width}")
        stages: OrderedDict[str, nn.Module] = OrderedDict(stem=_stem(channels))
        inputs = 8 * channels
        for number, outputs in enumerate((self.width, 4 * self.width, 4 * self.width), start=1):
            stages[f"layer{number}"] = nn.Sequential(
                *_identity(inputs, outputs, pool=True), *_identity(outputs, outputs, pool=False)
            )
            inputs = outputs
        neck = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
        return Classifier(stages, neck, nn.Linear(inputs, classes), channels)
