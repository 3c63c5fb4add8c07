"""Batched trigger inversion against the usual loop over classes.

All take the same number of Adam steps on the same number of images per class:

- ours: all classes' patches in one batch, on a frozen copy with folded batch norms, in
  bfloat16, where the processor gains by it, and channels last;
- live: one class after the other on the model as it is, in evaluation mode, float32, NCHW,
  with weights that take gradients too, the form in which public toolkits do it;
- frozen: one class after the other on a frozen, folded copy in float32 and channels last,
  so that batching and bfloat16 are all that is left to gain.

The median ratio of runs measured in turn on one thread is what counts; `-s` shows it. It is
taken of processor time, which other programs on the machine disturb less than the clock's.
A large network fills a core with one class already, so that bfloat16 is all that is left to gain
over `frozen`, on some processors nothing: its ratio is shown, and demanded of small ones alone.

What bounds all three is shown as well: the operations per second of our loop, as a share of those
of a plain matrix product in float32. A step without gradients of weights has two thirds of the
operations of one with them, so that `live` is beaten 1.5 times where both run at full speed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from rates import share_of_a_product
from torch import Generator, Tensor, nn

from benchmark.api import Architecture
from benchmark.classifier import Classifier
from benchmark.inversion import FrozenClassifier, cross_entropy_to, hit_rate, logits_of, minimise
from benchmark.models import Airbench, CifarResNet18, SmallResNet
from benchmark.triggers import Patch

CLASSES, RATE, COST = 10, 0.1, 1e-3


@dataclass(frozen=True)
class Case:
    """What is timed: an architecture (large: one class fills a core), images, Adam steps per
    class and rounds in turn.
    """

    architecture: Architecture
    shape: tuple[int, int, int]
    batch: int
    steps: int
    rounds: int
    large: bool = False

    def __str__(self) -> str:
        c, h, w = self.shape
        return f"{self.architecture.name} {c}x{h}x{w} batch {self.batch}"

    def model(self) -> Classifier:
        torch.manual_seed(0)
        return self.architecture.build(self.shape, CLASSES).eval()

    def batches(self) -> Iterator[Tensor]:
        images = torch.rand(16 * self.batch, *self.shape, generator=Generator().manual_seed(0))
        while True:
            yield from images.split(self.batch)


CASES = [
    Case(SmallResNet(width=16), (1, 16, 16), 16, 12, 3),
    Case(Airbench(width=32), (3, 32, 32), 8, 4, 3, large=True),
    Case(CifarResNet18(), (3, 32, 32), 4, 1, 3, large=True),
]


def live(case: Case) -> Callable[[], None]:
    """As in public toolkits: a model whose weights take gradients, one class at a time."""
    model = case.model()

    def scan() -> None:
        drawn = case.batches()
        for target in range(CLASSES):
            raw = [torch.randn(1, *case.shape[1:]), torch.randn(*case.shape)]
            u, v = (value.requires_grad_(True) for value in raw)
            optimizer = torch.optim.Adam([u, v], RATE, (0.5, 0.9))
            labels = torch.full((case.batch,), target)
            for _ in range(case.steps):
                images = next(drawn)
                mask, pattern = torch.tanh(u) / 2 + 0.5, torch.tanh(v) / 2 + 0.5
                logits = model((1 - mask) * images + mask * pattern)
                loss = nn.functional.cross_entropy(logits, labels) + COST * mask.sum()
                logits.argmax(1).eq(labels).float().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model.zero_grad()

    return scan


def batched(case: Case, precision: str, groups: list[Tensor]) -> Callable[[], None]:
    """Our inversion, for the classes of one group after the other."""
    model = case.model()

    def scan() -> None:
        frozen = FrozenClassifier(model, precision)
        drawn = case.batches()
        for classes in groups:
            trigger = Patch.random(len(classes), case.shape, Generator().manual_seed(0))

            def losses(trigger: Patch = trigger, classes: Tensor = classes) -> Tensor:
                logits = logits_of(frozen, trigger.apply(next(drawn)))
                hit_rate(logits.detach(), classes)
                return cross_entropy_to(logits, classes) + COST * trigger.norms

            minimise(trigger, losses, steps=case.steps, learning_rate=RATE)

    return scan


def ours(case: Case) -> Callable[[], None]:
    return batched(case, "bfloat16", [torch.arange(CLASSES)])


def frozen(case: Case) -> Callable[[], None]:
    return batched(case, "float32", list(torch.arange(CLASSES).split(1)))


@pytest.mark.parametrize(
    "case",
    [pytest.param(one, marks=pytest.mark.nightly if one.large else ()) for one in CASES],
    ids=str,
)
def test_a_scan_of_all_classes(benchmark: Callable[..., None], case: Case) -> None:
    """Its seconds, with the ratios to both loops beside them."""
    ways = {"ours": ours(case), "live": live(case), "frozen": frozen(case)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for warm_up in [True] + [False] * case.rounds:
        for name, scan in ways.items():
            started = time.process_time()
            scan()
            if not warm_up:
                seconds[name].append(time.process_time() - started)
    ratios = {}
    for name in ("live", "frozen"):
        pairs = [slow / fast for slow, fast in zip(seconds[name], seconds["ours"], strict=True)]
        ratios[name] = statistics.median(pairs)
        shown = ", ".join(f"{one:.2f}" for one in sorted(pairs))
        print(f"\n{case}: {ratios[name]:.2f}x the {name} loop, the median of {shown}", end="")
    share = share_of_a_product(ways["ours"], min(seconds["ours"]), time.process_time)
    print(f"\n{case}: {share:.0%} of the operations per second of a matrix product")
    benchmark.extra_info |= {
        f"ratio to the {name} loop": round(ratio, 2) for name, ratio in ratios.items()
    }
    benchmark.extra_info["share of a matrix product"] = round(share, 2)
    benchmark.pedantic(ways["ours"], rounds=1)
    assert ratios["live"] > 1
    assert case.large or ratios["frozen"] > 1
