"""What a plugin author imports: base classes, and from `benchmark.views` what they are handed.

A plugin is a dataclass. Its fields are its hyper-parameters; they are printed, checked,
hashed into every result and set from the command line as ``name:field=value``. The class
attributes `name`, `version` and `paper` identify it, and the first line of its docstring is
its summary. Raise `version` whenever results may change.

Randomness comes only from the generator that is passed in: it lives on the device of the
images and is seeded from the names of the cell that is being played.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from benchmark.classifier import Classifier
from benchmark.hooks import Stage, hookimpl
from benchmark.hooks import Threat as Threat
from benchmark.images import ImageSet, TrustedData
from benchmark.training import Trainer
from benchmark.triggers import Trigger
from benchmark.views import AttackerView, Detection, Images, Source, Starts, Verdict

__all__ = [
    "Architecture",
    "Attack",
    "AttackerView",
    "Classifier",
    "CodePoisoningAttack",
    "Count",
    "Dataset",
    "Defense",
    "Deployment",
    "Detection",
    "Detector",
    "ImageSet",
    "Images",
    "Inverter",
    "PoisoningAttack",
    "Positive",
    "Repair",
    "Sanitizer",
    "Share",
    "Source",
    "Starts",
    "Trainer",
    "Trigger",
    "TrustedData",
    "Verdict",
    "Weight",
    "hookimpl",
]


Share = Annotated[float, Field(ge=0, le=1, description="from 0 to 1")]
Weight = Annotated[float, Field(ge=0, description="at least 0")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="above 0")]
Count = Annotated[int, Field(ge=1, description="at least 1")]


class Plugin(ABC):
    """What all plugins have in common: an identity and hyper-parameters."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""


class Attack(Plugin):
    """Base of all attacks: a trigger, and what had to be learnt for it."""

    threat: Threat
    view: AttackerView
    #: A parameter of this name makes an attack source-specific: the source class is (target +
    #: source) mod K. Its images alone may be poisoned, and they alone count for the ASR.
    source: int | None = None

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """What was learnt in `prepare`; it is saved beside the victim and loaded again."""
        return {}

    def setup(
        self, view: AttackerView, rng: Generator, state: dict[str, Tensor] | None = None
    ) -> None:
        """Bind the attack to what it may know, and prepare it unless `state` is given."""
        self.view = view
        if state is None:
            self.prepare(rng)
        else:
            self.state = state

    def prepare(self, rng: Generator) -> None:
        """Learn what the trigger needs from `self.view` and put it into `self.state`."""

    @abstractmethod
    def trigger(self, images: Images, rng: Generator) -> Images:
        """Return triggered copies of `images`; this exploits the backdoor at test time."""


class PoisoningAttack(Attack):
    """An attack that changes m training images; the victim trains on its own.

    Set `clean_label` where labels must stay true: then images of the target class are
    offered, otherwise images of all other classes, or of the source class where there is one.
    """

    clean_label: bool = False

    @property
    def threat(self) -> Threat:  # type: ignore[override]
        return "clean-label" if self.clean_label else "poison-label"

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        """Return the images and labels to inject in place of the m given ones.

        Labels are int64 (m,), each the true one or the target. Only an attack whose threat
        is "code" may return probabilities, float32 (m, K).
        """
        if not self.clean_label:
            labels = torch.full_like(labels, self.view.target)
        return self.trigger(images, rng), labels


class CodePoisoningAttack(Attack):
    """An attack that owns the training code."""

    threat: Threat = "code"

    @abstractmethod
    def train(self, model: Classifier, data: ImageSet, trainer: Trainer, rng: Generator) -> None:
        """Train the untrained `model` in place on clean `data`."""


class Defense(Plugin):
    """Base of all defenses; derive from one of the stages below."""

    stage: ClassVar[Stage]


class Sanitizer(Defense):
    """Removes suspicious training images before the victim is trained."""

    stage = "sanitize"

    @abstractmethod
    def sanitize(
        self, data: ImageSet, train: Callable[[ImageSet, Generator], Classifier], rng: Generator
    ) -> Tensor:
        """Return bool (N,), True for what may stay. `train` fits a model of the victim's kind."""


class Repair(Defense):
    """Changes the weights of a suspect model."""

    stage = "repair"

    @abstractmethod
    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        """Repair `model` in place, yielding after every optimisation step.

        The harness measures between steps and stops asking for more once the budget of
        clean accuracy is spent, so a repair contains no evaluation and no early stop.
        """


class Deployment(Defense):
    """Guards a model while it answers."""

    stage = "deploy"

    @abstractmethod
    def deploy(
        self, model: Classifier, trusted: TrustedData, rng: Generator
    ) -> Callable[[Images], Verdict]:
        """Return the guarded model."""


class Detector(Defense):
    """Tells from a model and clean images whether it holds a backdoor, and for which class."""

    stage = "detect"

    @abstractmethod
    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        """Examine `model`, a private copy; it does not have to stay as it is."""


class Inverter(Defense):
    """Reverses a trigger from a single clean image."""

    stage = "invert"

    @abstractmethod
    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        """Yield the J triggers after every optimisation step; the last ones are the result.

        Each time it is one `Patch` or `Additive` of `benchmark.triggers`. Run all J inversions
        in one batch; `model` is a private copy.
        """

    def uses(self) -> dict[str, str]:
        """SHA-256 by name of what the result depends on besides the model, such as weights."""
        return {}

    def smoothed(
        self, model: Classifier, sigma: float
    ) -> Callable[[Images, Generator], Tensor] | None:
        """Probabilities (B, K) of the smoothed classifier that is inverted, None without one.

        At noise level 0 it answers as the model does, unless `uses` names what else it has.
        """
        return None


#: What a defense may be, in the order of their stages.
DEFENSES = (Sanitizer, Repair, Deployment, Detector, Inverter)


class Dataset(Plugin):
    """A named data set. What it decodes is cached and mapped into memory from then on."""

    def files(self, folders: Sequence[Path]) -> Sequence[Path] | None:
        """Return the files to decode from the first folder that holds the set, or None.

        An empty sequence means that the set needs no files; None, that it is to be downloaded.
        """
        return ()

    @abstractmethod
    def decode(self, files: Sequence[Path]) -> Source:
        """Read the files; raise `benchmark.data.DataError` where they are damaged."""

    def download(self, folder: Path) -> Source:
        """Fetch and decode the set, with `folder`, which is deleted afterwards, to work in.

        Called only where `files` returns None; raise `benchmark.data.DataError` on failure.
        """
        raise NotImplementedError(f"{self.name} cannot be downloaded")


class Architecture(Plugin):
    """A family of classifiers."""

    @abstractmethod
    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        """Return an untrained classifier for (C, H, W) images, drawn from torch's global seed."""

    def names(self, shape: tuple[int, int, int], classes: int) -> dict[str, str]:
        """Names of tensors in published weights, and what they are called in what `build` gives."""
        return {}
