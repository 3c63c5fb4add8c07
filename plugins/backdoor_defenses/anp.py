"""ANP: channels that a small push turns against the task hold the backdoor, and are pruned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from benchmark import Classifier, Count, Positive, Repair, Share, TrustedData, hookimpl
from benchmark.graphs import Graphed
from benchmark.training import mixed_precision


def batch_norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch norms that scale their channels, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.affine
    }


@dataclass
class ANP(Repair):
    """Learn which channels withstand adversarial pushes, then prune the others.

    Every scale of a batch norm gets a mask m in [0, 1]. Minimised, on trusted images, is
    tradeoff * L(m) + (1 - tradeoff) * max L((m + d) scale, (1 + e) shift) over |d|, |e| <= epsilon;
    the maximum is one signed step of epsilon from a uniform start, clipped. SGD on the masks,
    which are clipped after every step. All of this happens on a copy in training mode. With the
    last step the scales whose mask is below `threshold` become zero; until then the model stays
    as it is.

    Defaults are those of the authors' code; they sweep the threshold from 0 to 0.9, which is a
    defender's search here. A pruned channel keeps its shift, and layers without batch norm are
    left alone.
    """

    name, version, paper = "anp", 1, "Wu and Wang, NeurIPS 2021, arXiv:2110.14430, Alg. 1"
    steps: Count = 2000
    batch_size: Count = 128
    learning_rate: Positive = 0.2
    momentum: Share = 0.9
    epsilon: Share = 0.4
    tradeoff: Share = 0.2
    threshold: Share = 0.2

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        norms = batch_norms(model)
        if not norms:
            raise ValueError("anp prunes channels of batch norms, and this architecture has none")
        masks = [torch.ones_like(norm.weight) for norm in norms.values()]
        step = self.step(copy.deepcopy(model), masks)
        batches = trusted.batches(self.batch_size, rng)
        for number in range(1, self.steps + 1):
            step(*next(batches), *self.start(masks, rng))
            if number == self.steps:
                self.prune(norms, masks)
            yield

    def start(self, masks: list[Tensor], rng: Generator) -> list[Tensor]:
        """Uniform pushes d of all scales, then e of all shifts."""
        return [
            (2 * torch.rand(mask.shape, generator=rng, device=rng.device) - 1) * self.epsilon
            for mask in (*masks, *masks)
        ]

    def step(self, model: Classifier, masks: list[Tensor]) -> Callable[..., None]:
        """A step on the masks, in place, given images, labels and the pushes it starts from."""
        model.train().requires_grad_(False)
        norms, count = batch_norms(model), len(masks)
        for mask in masks:
            mask.requires_grad_(True)
        optimizer = torch.optim.SGD(masks, self.learning_rate, self.momentum)

        def loss(images: Tensor, labels: Tensor, pushes: list[Tensor]) -> Tensor:
            changed = {}
            for (name, norm), mask, d, e in zip(
                norms.items(), masks, pushes[:count], pushes[count:], strict=True
            ):
                changed[f"{name}.weight"] = norm.weight * (mask + d)
                changed[f"{name}.bias"] = norm.bias * (1 + e)
            with mixed_precision(images.device):
                return cross_entropy(functional_call(model, changed, (images,)), labels)

        @Graphed
        def step(images: Tensor, labels: Tensor, *start: Tensor) -> None:
            pushed = [push.detach().requires_grad_(True) for push in start]
            slopes = torch.autograd.grad(loss(images, labels, pushed), pushed)
            worst = [
                (push.detach() + self.epsilon * slope.sign()).clamp(-self.epsilon, self.epsilon)
                for push, slope in zip(pushed, slopes, strict=True)
            ]
            still = [torch.zeros_like(push) for push in worst]
            plain, pushed_loss = loss(images, labels, still), loss(images, labels, worst)
            optimizer.zero_grad(set_to_none=True)
            (self.tradeoff * plain + (1 - self.tradeoff) * pushed_loss).backward()
            optimizer.step()
            with torch.no_grad():
                for mask in masks:
                    mask.clamp_(0, 1)

        return step

    @torch.no_grad()
    def prune(self, norms: dict[str, nn.BatchNorm2d], masks: list[Tensor]) -> None:
        for norm, mask in zip(norms.values(), masks, strict=True):
            norm.weight[mask < self.threshold] = 0


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(ANP)
