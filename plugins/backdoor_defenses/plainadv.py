"""PlainAdv: an ordinary adversarial perturbation of one image, SmoothInv's baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Generator, Tensor

from backdoor_defenses.smoothinv.inverters import ascend
from benchmark import Classifier, Count, Inverter, Positive, Starts, Trigger, hookimpl
from benchmark.inversion import FrozenClassifier
from benchmark.memory import images_per_pass


@dataclass
class PlainAdv(Inverter):
    """Perturb one image until the model itself gives the target.

    SmoothInv's steps with the classifier in place of the smoothed one: no noise, one sample.
    `epsilon` is the radius as there, an L2 norm in [0, 1] pixels.
    """

    name, version, paper = "plainadv", 2, "Sun and Kolter, CVPR 2023, Sec. 4"
    epsilon: Positive = 4.0
    steps: Count = 400

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        frozen = FrozenClassifier(model)

        def log_probabilities(images: Tensor) -> Tensor:
            found: Tensor = frozen(images).float().log_softmax(1)
            return found

        at_once = images_per_pass(frozen, starts.images.shape[1:])
        yield from ascend(starts, self.epsilon, self.steps, log_probabilities, rng, at_once)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(PlainAdv)
