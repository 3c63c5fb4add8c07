"""Activation Clustering: poisons are a cluster of their own in the features of their class."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from backdoor_defenses.spectral_signatures import features_of_all
from benchmark import Classifier, Count, ImageSet, Sanitizer, Share, hookimpl

Features = NDArray[np.float64]
Reduction = Literal["ica", "pca"]

#: A class of fewer images is not clustered.
LEAST = 4
#: Starts of k-means, of which the best counts.
STARTS = 10


def reduced(features: Features, dimensions: int, by: Reduction, seed: int) -> Features:
    """Features (N, D) in at most so many dimensions, fewer where they span fewer."""
    from sklearn.decomposition import PCA, FastICA  # here, since listing does without
    from sklearn.exceptions import ConvergenceWarning

    centred = features - features.mean(0)
    # What lies in fewer dimensions than asked for cannot be whitened.
    dimensions = min(dimensions, int(np.linalg.matrix_rank(centred)))
    if not dimensions:
        nothing: Features = centred[:, :1]
        return nothing
    ica = FastICA(dimensions, whiten="unit-variance", random_state=seed)
    method = ica if by == "ica" else PCA(dimensions, random_state=seed)
    with warnings.catch_warnings():
        # Components that still turn a little are as good for telling clusters apart.
        warnings.simplefilter("ignore", ConvergenceWarning)
        points: Features = np.asarray(method.fit_transform(features), np.float64)
    return points


def smaller_cluster(points: Features, seed: int) -> NDArray[np.bool_]:
    """Which of the points (N, d) are in the smaller of two clusters by k-means, bool (N,)."""
    from sklearn.cluster import KMeans

    assigned = KMeans(2, n_init=STARTS, random_state=seed).fit_predict(points)
    smaller: NDArray[np.bool_] = assigned == np.bincount(assigned, minlength=2).argmin()
    return smaller


@dataclass
class ActivationClustering(Sanitizer):
    """Remove, in every class, the smaller of two clusters of features where it looks like poison.

    A model is trained on the suspicious data. In each class its penultimate features are reduced
    to `dimensions`, by independent component analysis as in the original or by principal
    components as in ports, and split in two by k-means. By `rule=size` the smaller cluster goes
    where it holds less than `smallest` of the class; by `rule=silhouette` where the clusters'
    mean silhouette is above `silhouette`. Whole classes are clustered. What goes is dropped, where
    the original may also relabel it.

    Clean classes split, too: the size alone takes part of them.
    """

    name, version, paper = "activation-clustering", 1, "Chen et al. 2018, arXiv:1811.03728, Alg. 1"
    dimensions: Count = 10
    reduction: Reduction = "pca"
    rule: Literal["size", "silhouette"] = "size"
    smallest: Share = 0.35
    silhouette: Share = 0.15

    def sanitize(
        self, data: ImageSet, train: Callable[[ImageSet, Generator], Classifier], rng: Generator
    ) -> Tensor:
        features = features_of_all(train(data, rng), data).double().cpu().numpy()
        seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        keep = torch.ones(len(data), dtype=torch.bool, device=data.device)
        for label in data.labels.unique():
            members = (data.labels == label).nonzero().flatten()
            if len(members) >= LEAST:
                gone = self.suspicious(features[members.cpu().numpy()], seed)
                keep[members] = torch.from_numpy(~gone).to(data.device)
        return keep

    def suspicious(self, features: Features, seed: int) -> NDArray[np.bool_]:
        """Which images of one class go, bool (N,), from their features (N, D)."""
        from sklearn.metrics import silhouette_score

        points = reduced(features, self.dimensions, self.reduction, seed)
        nothing = np.zeros(len(points), bool)
        if len(np.unique(points, axis=0)) < 2:
            return nothing
        smaller = smaller_cluster(points, seed)
        if self.rule == "size":
            poisonous = smaller.mean() < self.smallest
        else:
            poisonous = silhouette_score(points, smaller) > self.silhouette
        return smaller if poisonous else nothing


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(ActivationClustering)
