"""What repairs share: steps of SGD or Adam on trusted images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from benchmark import Classifier, Count, Positive, Repair, Share, TrustedData
from benchmark.graphs import Graphed
from benchmark.training import mixed_precision


def classification_loss(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    with mixed_precision(images.device):
        return cross_entropy(model(images), labels)


@dataclass
class FineTuning(Repair):
    """Base of repairs that fine-tune by SGD with momentum, or by Adam; not registered itself.

    Defaults are those of Pick your Poison, Tab. V (CIFAR-10, r = 1 %), where a subclass
    does not say otherwise. The paper searches over SGD and Adam and chose SGD everywhere; its
    momentum is not published; later code of its authors takes Nesterov's. Adam has its usual
    betas, 0.9 and 0.999, and no `momentum`.
    """

    steps: Count = 1000
    batch_size: Count = 128
    learning_rate: Positive = 0.001
    momentum: Share = 0.9
    optimizer: Literal["sgd", "adam"] = "sgd"

    def fine_tune(
        self,
        model: Classifier,
        trusted: TrustedData,
        rng: Generator,
        *,
        weight_decay: float = 0.0,
        loss: Callable[[Classifier, Tensor, Tensor], Tensor] = classification_loss,
        after_backward: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Take all steps in training mode, yielding after each.

        A step is recorded on a GPU, so `loss` and `after_backward` keep to the rules of
        `benchmark.graphs.Graphed`.

        Args:
            weight_decay: weight_decay * theta is added to the gradient; it is coupled, that
                is, it passes through the momentum of SGD and the moments of Adam.
            loss: of (model, images, labels).
            after_backward: may change the gradients before they are used.
        """
        model.train()
        optimizer = self._optimizer(model, weight_decay)

        @Graphed
        def step(images: Tensor, labels: Tensor) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss(model, images, labels).backward()
            after_backward()
            optimizer.step()

        batches = trusted.batches(self.batch_size, rng)
        for _ in range(self.steps):
            step(*next(batches))
            yield

    def _optimizer(self, model: Classifier, weight_decay: float) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                model.parameters(), self.learning_rate, self.momentum, weight_decay=weight_decay
            )
        # Adam counts its steps; in a recording the count has to be on the GPU as well.
        recorded = model.mean.device.type == "cuda"
        return torch.optim.Adam(
            model.parameters(),
            self.learning_rate,
            weight_decay=weight_decay,
            capturable=recorded,
        )
