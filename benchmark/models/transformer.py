"""A vision transformer as a classifier: tokens are the pixels of its stages' maps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.api import Count
from benchmark.classifier import Classifier
from benchmark.models.published import LibraryModel, is_small, torchvision_models

#: Layers are put into so many stages, at most.
STAGES = 4
#: Patches of small images are so many times smaller: 8 x 8 of them in 32 pixels, as 7 x 7 in 224.
FINER = 8


def as_map(tokens: Tensor) -> Tensor:
    """Tokens (B, T, D) as a map (B, D, T, 1): features are channels, tokens a column of pixels."""
    return tokens.transpose(1, 2).unsqueeze(3)


def as_tokens(maps: Tensor) -> Tensor:
    """The tokens (B, T, D) of a map (B, D, T, 1)."""
    return maps.squeeze(3).transpose(1, 2)


def in_stages(layers: Sequence[nn.Module], *behind: nn.Module) -> OrderedDict[str, nn.Module]:
    """Up to `STAGES` stages of as many layers each, from `layer1` on; `behind` ends the last."""
    groups = min(STAGES, len(layers))
    edges = [len(layers) * number // groups for number in range(groups + 1)]
    parts = [list(layers[start:end]) for start, end in pairwise(edges)]
    parts[-1] += behind
    return OrderedDict((f"layer{n}", Layers(*part)) for n, part in enumerate(parts, start=1))


class Tokens(nn.Module):
    """Images to tokens: the class token, then the patches row by row, each with its position."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.patches = model.conv_proj
        self.class_token = model.class_token
        self.positions = model.encoder.pos_embedding

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        first = self.class_token.expand(images.shape[0], -1, -1)
        return as_map(torch.cat([first, patches], 1) + self.positions)


class Layers(nn.Module):
    """Some of the transformer's layers, from map to map."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        return as_map(self.layers(as_tokens(maps)))


class ClassToken(nn.Module):
    """What the head sees: the features (B, D) of the class token."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps[:, :, 0, 0]


@dataclass
class VisionTransformer(LibraryModel):
    """torchvision's vision transformer, by default ViT-B/32, with tokens as pixels of the maps.

    Images up to 64 pixels get patches of an eighth of `patch`. A stage's map (B, D, 1 + n, 1)
    holds the class token and the n patches. The last norm belongs to the last stage, so that the
    head reads channels of the last map.

    Args:
        patch: side of a patch; the images' side must be a multiple.
        layers: number of layers, put into four stages.
        width: features D of a token; the layers' inner maps have four times as many.
        heads: of the attention; they share the width.
    """

    name, version, paper = "vit", 1, "Dosovitskiy et al., ICLR 2021"
    patch: Annotated[int, Field(ge=FINER, multiple_of=FINER, description="8, 16, 24, …")] = 32
    layers: Count = 12
    width: Count = 768
    heads: Count = 12

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"heads={self.heads} do not share width={self.width} evenly; choose a divisor"
            )

    def original(self, shape: tuple[int, int, int]) -> nn.Module:
        patch = self.patch // FINER if is_small(shape) else self.patch
        if shape[1] != shape[2] or shape[1] % patch:
            raise ValueError(
                f"{self.name} cannot cut images of {shape[1]}x{shape[2]} pixels into patches of "
                f"{patch}x{patch}; resize them to a square whose side is a multiple of {patch}"
            )
        transformer = torchvision_models().VisionTransformer
        model: nn.Module = transformer(
            shape[1], patch, self.layers, self.heads, self.width, 4 * self.width
        )
        return model

    def cut(self, model: Any, shape: tuple[int, int, int], classes: int) -> Classifier:
        if shape[0] != 3:
            model.conv_proj = _projection(shape[0], model.conv_proj)
        stages: OrderedDict[str, nn.Module] = OrderedDict(stem=Tokens(model))
        stages |= in_stages([*model.encoder.layers], model.encoder.ln)
        model.heads.head = nn.Linear(self.width, classes)
        return Classifier(stages, ClassToken(), model.heads.head, shape[0])


def _projection(channels: int, like: nn.Conv2d) -> nn.Conv2d:
    """A projection of patches with other colour channels, drawn as torchvision draws it."""
    side = like.kernel_size[0]
    conv = nn.Conv2d(channels, like.out_channels, side, side)
    nn.init.trunc_normal_(conv.weight, std=(channels * side**2) ** -0.5)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
