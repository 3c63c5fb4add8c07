"""Activation Clustering on features whose clusters are known."""

from __future__ import annotations

from collections import OrderedDict
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from seeds import rng
from torch import Generator, nn

from backdoor_defenses.activation_clustering import ActivationClustering, reduced, smaller_cluster
from benchmark.classifier import Classifier
from benchmark.images import ImageSet

PIXELS = 12


def passing(data: ImageSet, rng: Generator) -> Classifier:
    """A model whose features are the normalised pixels."""
    stages = OrderedDict[str, nn.Module](all=nn.Identity())
    return Classifier(stages, nn.Flatten(), nn.Linear(PIXELS, 3), 1).eval()


def poisoned(sizes: dict[int, tuple[int, int]]) -> tuple[ImageSet, torch.Tensor]:
    """For every class so many images, and so many poisons far from them; bool (N,), who is one."""
    images, labels, which = [], [], []
    for label, (clean, bad) in sizes.items():
        noise = torch.randint(60, 100, (clean + bad, 1, 3, 4), generator=rng(label))
        noise[clean:, :, 0] += 120
        images.append(noise)
        labels += [label] * (clean + bad)
        which += [False] * clean + [True] * bad
    return ImageSet(torch.cat(images).byte(), torch.tensor(labels)), torch.tensor(which)


@pytest.mark.parametrize(("reduction", "dimensions"), [("ica", 2), ("pca", 10)])
def test_a_small_cluster_far_away_is_removed(reduction: Any, dimensions: int) -> None:
    """Independent components have unit variance, so that few of them must be noise."""
    data, bad = poisoned({0: (60, 0), 1: (60, 20), 2: (3, 0)})
    sanitizer = ActivationClustering(reduction=reduction, dimensions=dimensions)
    keep = sanitizer.sanitize(data, passing, rng())
    of_target = data.labels == 1
    assert torch.equal(~keep[of_target], bad[of_target])
    assert keep[data.labels == 2].all()  # too few to tell
    # A clean class loses less than the threshold's share, if any.
    assert (~keep[data.labels == 0]).float().mean() < 0.35


def test_a_large_cluster_stays() -> None:
    """40 of 100 are above 35 %."""
    data, bad = poisoned({1: (60, 40)})
    assert ActivationClustering(reduction="pca").sanitize(data, passing, rng()).all()
    sharper = ActivationClustering(reduction="pca", smallest=0.45)
    assert torch.equal(sharper.sanitize(data, passing, rng()), ~bad)


def test_by_silhouette_only_what_lies_apart_goes() -> None:
    data, bad = poisoned({0: (60, 0), 1: (50, 45)})
    found = ActivationClustering(rule="silhouette", reduction="pca", silhouette=0.3)
    assert torch.equal(found.sanitize(data, passing, rng()), ~bad)


def test_the_two_clusters_are_the_best_of_all_splits() -> None:
    """Of 9 points, by trying every split for the least sum of squares."""
    points = np.random.default_rng(4).normal(size=(9, 2))

    def spread(rows: tuple[int, ...]) -> float:
        inside = np.isin(np.arange(9), rows)
        return sum(float(((p - p.mean(0)) ** 2).sum()) for p in (points[inside], points[~inside]))

    splits = [rows for size in range(1, 5) for rows in combinations(range(9), size)]
    best = min(splits, key=spread)
    assert np.flatnonzero(smaller_cluster(points, 0)).tolist() == list(best)


@pytest.mark.parametrize("by", ["ica", "pca"])
def test_reduction_copes_with_fewer_dimensions(by: Any) -> None:
    """Five images, dead features, and features that are all the same."""
    features = np.random.default_rng(0).normal(size=(5, 30))
    features[:, 10:] = 0
    assert reduced(features, 10, by, 0).shape == (5, 4)
    assert reduced(np.ones((6, 8)), 10, by, 0).shape == (6, 1)
    data = ImageSet(torch.full((12, 1, 3, 4), 9, dtype=torch.uint8), torch.zeros(12).long())
    assert ActivationClustering(reduction=by).sanitize(data, passing, rng()).all()


def test_principal_components_keep_the_widest_directions() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)) * np.array([9, 1, 7, 1, 1, 1])
    centred = features - features.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    found, wanted = reduced(features, 2, "pca", 0), centred @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-8)
    assert values[-1] > values[0]
