"""What each side of a game may see, and what it answers; imported from `benchmark.api`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Generator, Tensor

from benchmark.classifier import Classifier
from benchmark.images import ImageSet
from benchmark.training import Trainer
from benchmark.triggers import Trigger

#: float32 (B, C, H, W) with values in [0, 1].
Images = Tensor


@dataclass(frozen=True)
class AttackerView:
    """What an attacker knows before the victim is trained.

    Attributes:
        target: class that triggered images shall be given.
        class_names: names of the K classes.
        shape: (C, H, W) of the images.
        auxiliary: clean images that are in no other split, for a surrogate model.
        trainer: the benchmark's training loop, with the victim's recipe.
        new_model: builds an untrained classifier of the victim's architecture.
    """

    target: int
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    auxiliary: ImageSet
    trainer: Trainer
    new_model: Callable[[Generator], Classifier]

    @property
    def classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class Verdict:
    """A guarded model's answer to B images.

    Attributes:
        predictions: int64 (B,), -1 for an input that is rejected.
        suspicion: float32 (B,), higher is more suspicious.
    """

    predictions: Tensor
    suspicion: Tensor


@dataclass(frozen=True)
class Detection:
    """What a detector found in one model.

    Attributes:
        score: higher is more suspicious.
        class_scores: float32 (K,), likewise for every class as the target; the largest is
            the detector's guess.
        flagged: the method's own yes or no, None where it has none.
        trigger: the reversed triggers of all K classes, None where none are reversed.
        also: other published readings of the same scan, by name, likewise higher where the model
            is more suspicious; they are reported apart.
    """

    score: float
    class_scores: Tensor
    flagged: bool | None = None
    trigger: Trigger | None = None
    also: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Starts:
    """What J inversions begin from: one clean image and one class each.

    Attributes:
        images: float32 (J, C, H, W) in [0, 1].
        targets: int64 (J,), the class that each image shall be put into.
        restart: 0 for the start that the method prescribes; from 1 on every run begins
            somewhere else, drawn from the generator.
    """

    images: Images
    targets: Tensor
    restart: int = 0


@dataclass(frozen=True)
class Source:
    """A decoded data set, before a protocol splits it.

    Attributes:
        train: the images that training, trusted and auxiliary splits are drawn from.
        test: the images that validation and test splits are drawn from; None where the
            data set has no such part, then all splits are drawn from `train`.
        class_names: names of the K classes, by label.
        notes: sentences on what was found and left out, which are printed before a run.
    """

    train: ImageSet
    test: ImageSet | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
