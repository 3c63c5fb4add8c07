"""Spectral Signatures: poisons stand out along one direction of the feature space."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmark import Classifier, ImageSet, Sanitizer, Share, hookimpl
from benchmark.memory import images_per_pass
from benchmark.training import mixed_precision


def spectral_scores(features: Tensor) -> Tensor:
    """Squared projection (N,) of centred features (N, D) on their top right singular vector."""
    centred = features.double() - features.double().mean(0)
    # The Gram matrix has the same right singular vectors and only D x D entries.
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    projections: Tensor = centred @ vectors[:, -1]
    return projections.square()


def features_of_all(model: Classifier, data: ImageSet) -> Tensor:
    """Penultimate features, float32 (N, D), of all images."""
    parts = []
    size = images_per_pass(model, data.pixels.shape[1:])
    for rows in torch.arange(len(data), device=data.device).split(size):
        with torch.inference_mode(), mixed_precision(data.device):
            parts.append(model.features(data.subset(rows).images).float())
    return torch.cat(parts)


@dataclass
class SpectralSignatures(Sanitizer):
    """Remove, in every class, the images with the largest spectral score.

    A model is trained on the suspicious data for its features. In each class
    1.5 * `expected` * N images go, where `expected` is the defender's guess of the poisoned
    share of all N training images, but never more than half of the class.
    """

    name, version, paper = "spectral-signatures", 1, "Tran, Li, Madry, NeurIPS 2018, Alg. 1"
    expected: Share = 0.01

    def sanitize(
        self, data: ImageSet, train: Callable[[ImageSet, Generator], Classifier], rng: Generator
    ) -> Tensor:
        features = features_of_all(train(data, rng), data)
        keep = torch.ones(len(data), dtype=torch.bool, device=data.device)
        # Rounded first: 1.5 * 0.05 * 1000 is a little more than 75 in floating point.
        removals = math.ceil(round(1.5 * self.expected * len(data), 6))
        for label in data.labels.unique():
            members = (data.labels == label).nonzero().flatten()
            scores = spectral_scores(features[members])
            worst = scores.topk(min(removals, len(members) // 2)).indices
            keep[members[worst]] = False
        return keep


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(SpectralSignatures)
