"""What repairs share: steps of SGD on trusted images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from benchmark import TrustedData
from benchmark.models import Classifier
from benchmark.training import mixed_precision


def classification_loss(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    with mixed_precision(images.device):
        return cross_entropy(model(images), labels)


def fine_tune(
    model: Classifier,
    trusted: TrustedData,
    rng: Generator,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float = 0.0,
    loss: Callable[[Classifier, Tensor, Tensor], Tensor] = classification_loss,
) -> Iterator[None]:
    """Take `steps` steps of SGD in training mode, yielding after each.

    Args:
        loss: of (model, images, labels).
        weight_decay: coupled, that is, its gradient passes through the momentum.
    """
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum, weight_decay=weight_decay
    )
    batches = trusted.batches(batch_size, rng)
    for _ in range(steps):
        images, labels = next(batches)
        optimizer.zero_grad(set_to_none=True)
        loss(model, images, labels).backward()
        optimizer.step()
        yield
