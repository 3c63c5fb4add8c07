"""Architectures of classifiers, by name."""

from __future__ import annotations

from typing import Any

from benchmark.api import hookimpl
from benchmark.models.airbench import Airbench
from benchmark.models.clip import Clip
from benchmark.models.published import VGG11, VGG16, AlexNet, ResNet18, ResNet50, WideResNet50
from benchmark.models.residual import CifarResNet18, ResNet9, SmallResNet
from benchmark.models.transformer import VisionTransformer

__all__ = [
    "VGG11",
    "VGG16",
    "Airbench",
    "AlexNet",
    "CifarResNet18",
    "Clip",
    "ResNet9",
    "ResNet18",
    "ResNet50",
    "SmallResNet",
    "VisionTransformer",
    "WideResNet50",
]


@hookimpl
def register_architectures(register: Any) -> None:
    for architecture in (
        *(SmallResNet, ResNet9, Airbench, CifarResNet18),
        *(ResNet18, ResNet50, WideResNet50, AlexNet, VGG11, VGG16, VisionTransformer, Clip),
    ):
        register(architecture)
