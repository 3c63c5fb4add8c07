"""Inversion of a smoothed classifier for all classes, batched against one pass at a time.

Both take the same normalised steps for 10 classes with N = 10 noise samples on one image:

- ours: classes and samples in one pass, frozen and folded, in bfloat16;
- loop: one class and one sample at a time on the model as it is, in float32, whose weights
  take gradients too.

The median ratio of runs measured in turn on one thread counts, in processor time; `-s` shows it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from backdoor_defenses.smoothinv.inverters import STEP, SmoothInv
from benchmark import Starts
from benchmark.classifier import Classifier
from benchmark.models import SmallResNet

CLASSES, SAMPLES, SIGMA, ROUNDS = 10, 10, 0.25, 3
SHAPE = (1, 28, 28)


def model() -> Classifier:
    torch.manual_seed(0)
    return SmallResNet(width=16).build(SHAPE, CLASSES).eval()


def start() -> Tensor:
    return torch.rand(1, *SHAPE, generator=Generator().manual_seed(0))


def batched(steps: int) -> None:
    images = start().repeat(CLASSES, 1, 1, 1)
    inverter = SmoothInv(sigma=SIGMA, samples=SAMPLES, steps=steps)
    starts = Starts(images, torch.arange(CLASSES))
    for _ in inverter.invert(model(), starts, Generator().manual_seed(1)):
        pass


def looped(steps: int) -> None:
    live, rng = model(), Generator().manual_seed(1)
    for target in range(CLASSES):
        change = torch.zeros(1, *SHAPE)
        for _ in range(steps):
            image = (start() + change).requires_grad_(True)
            total = torch.zeros(())
            for _ in range(SAMPLES):
                noisy = image + SIGMA * torch.randn(image.shape, generator=rng)
                total = total + live(noisy).softmax(1)[0, target] / SAMPLES
            (-total.clamp(min=1e-20).log()).backward()
            assert image.grad is not None
            change = change - STEP * image.grad / image.grad.norm().clamp(min=1e-30)
            change = (start() + change).clamp(0, 1) - start()
            change = change * (1 / change.norm().clamp(min=1)).item()


def test_all_classes_and_samples_in_one_pass(benchmark: Callable[..., None]) -> None:
    ways = {"ours": batched, "loop": looped}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for warm_up in [True] + [False] * ROUNDS:
        for name, run in ways.items():
            started = time.process_time()
            run(3)
            if not warm_up:
                seconds[name].append(time.process_time() - started)
    pairs = [slow / fast for slow, fast in zip(seconds["loop"], seconds["ours"], strict=True)]
    benchmark.pedantic(batched, (3,), rounds=1)  # type: ignore[attr-defined]
    ratio = statistics.median(pairs)
    benchmark.extra_info |= {"loop / ours": ratio}  # type: ignore[attr-defined]
    print(f"\n10 classes x 10 samples: {ratio:.1f} times the loop")
    assert ratio > 1
