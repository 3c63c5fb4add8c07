"""Weights that balance several losses: the multiple-gradient descent algorithm (MGDA)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: No task's weight falls below this (from the authors' code).
LEAST_WEIGHT = 1e-3

#: Losses times gradient norms are capped here before they divide a gradient.
LARGEST_DIVISOR = 10.0


def min_norm_weights(gram: np.ndarray) -> np.ndarray:
    """Weights (T,) of the shortest convex combination of T gradients, from their products (T, T).

    MGDA (Desideri 2012). For two tasks this is the closed form
    ((g2 - g1) g2 / |g1 - g2|^2, the rest), clipped to [0.001, 0.999].
    """
    from scipy.optimize import nnls  # here, since listing does without

    values, vectors = np.linalg.eigh(gram / max(float(np.trace(gram)), 1e-30))
    root = np.sqrt(values.clip(0))[:, None] * vectors.T
    # |root a|^2 + (sum a - 1)^2 is least in the direction of the shortest combination.
    found, _ = nnls(np.vstack([root, np.ones(len(gram))]), np.append(np.zeros(len(gram)), 1.0))
    weights: np.ndarray = (found / found.sum()).clip(LEAST_WEIGHT)
    weights[weights.argmax()] -= weights.sum() - 1
    return weights


def balanced(
    losses: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[np.ndarray, list[Tensor]]:
    """MGDA weights of the losses, and the gradient of their weighted sum.

    Every gradient is first divided by min(L |g|, 10), which the authors call "loss+". The
    gradients that the weights are computed from are summed again, so that no further backward
    pass is needed.
    """
    gradients = [
        torch.autograd.grad(
            loss,
            parameters,
            retain_graph=number < len(losses),
            materialize_grads=True,  # a loss need not depend on all, such as CLIP's text tower
        )
        for number, loss in enumerate(losses, start=1)
    ]
    products = [torch.stack([_product(g, h) for h in gradients]) for g in gradients]
    # One transfer to the host for everything.
    flat = torch.cat([*products, torch.stack([loss.detach() for loss in losses])])
    numbers = flat.double().cpu().numpy()
    tasks = len(losses)
    gram, values = numbers[: tasks**2].reshape(tasks, tasks), numbers[tasks**2 :]
    divisors = np.minimum(values * np.sqrt(gram.diagonal()), LARGEST_DIVISOR).clip(1e-12)
    weights = min_norm_weights(gram / np.outer(divisors, divisors))
    scaled = [[float(w) * g for g in part] for w, part in zip(weights, gradients, strict=True)]
    return weights, [torch.stack(parts).sum(0) for parts in zip(*scaled, strict=True)]


def _product(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
