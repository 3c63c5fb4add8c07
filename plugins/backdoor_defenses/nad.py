"""Neural Attention Distillation: a fine-tuned teacher shows the suspect where to look."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, mse_loss, normalize

from backdoor_defenses.fine_tuning import FineTuning
from benchmark import Classifier, Count, Positive, TrustedData, Weight, hookimpl
from benchmark.training import mixed_precision

Power = Annotated[float, Field(ge=1, le=4, description="from 1 to 4")]
Stages = Literal["last", "all"]

#: How many stages are the last ones.
GROUPS = 3


def attention(maps: Tensor, p: float) -> Tensor:
    """Where a stage looks: sum_c |F_c|^p over its L2 norm, float32 (B, H * W).

    Args:
        maps: activations F, (B, C, H, W); their scale does not matter, and zeros stay zeros.
        p: up to 4. The norm squares the sums, and single precision ends at 3.4e38: at p = 4 so do
            activations of some 10,000, at p = 8 those of 100, at p = 40 those of 3.
    """
    return normalize(maps.float().abs().pow(p).sum(1).flatten(1), eps=1e-6)


def distilled(maps: Iterable[Tensor], stages: Stages = "last") -> list[Tensor]:
    """The last or all maps, without those of a single pixel, whose attention is always 1."""
    found = [stage for stage in maps if stage.shape[2:].numel() > 1]
    return found[-GROUPS:] if stages == "last" else found


@dataclass
class NAD(FineTuning):
    """Fine-tune on trusted images while attention maps follow those of a fine-tuned teacher.

    The teacher is the suspect after `teacher_steps` of plain fine-tuning, then frozen in
    evaluation mode; it is trained on a copy before the first step of the repair. The student
    minimises CE + lambda_at * sum over stages of MSE(A(student), A(teacher)).

    Defaults are Pick your Poison's (Tab. V, CIFAR-10, r = 1 %), with one weight and one
    learning rate for everything. The original weighs its groups by 500, 1000 and 1000, and
    takes 10 epochs for the teacher and 20 for the student, at a rate of 0.1 for two epochs
    and 0.01 from then on, with a weight decay of 1e-4.

    The original distils all three groups of a WideResNet. Of any architecture the last three
    stages are taken: that is the same where there are three, leaves out the stem of every
    ResNet, and keeps the sum of the weights from growing with the depth. Pick your Poison
    distils "on each neural network layer": `stages` "all" takes every stage, the stem included.
    """

    name, version, paper = "nad", 1, "Li et al., ICLR 2021"
    steps: Count = 2000
    learning_rate: Positive = 0.01
    teacher_steps: Count = 1000
    p: Power = 2.0
    lambda_at: Weight = 1000.0
    stages: Stages = "last"

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        teacher = copy.deepcopy(model)
        for _ in replace(self, steps=self.teacher_steps).fine_tune(teacher, trusted, rng):
            pass
        teacher.eval().requires_grad_(False)

        def loss(student: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            with mixed_precision(images.device):
                shown = teacher.stage_maps(images)
                maps = student.stage_maps(images)
                last = next(reversed(maps.values()))
                error = cross_entropy(student.head(student.neck(last)), labels)
            own, wanted = (distilled(m.values(), self.stages) for m in (maps, shown))
            apart = sum(
                mse_loss(attention(a, self.p), attention(b, self.p))
                for a, b in zip(own, wanted, strict=True)
            )
            return error + self.lambda_at * apart

        yield from self.fine_tune(model, trusted, rng, loss=loss)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(NAD)
