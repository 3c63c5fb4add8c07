"""AdvClean: adversarial noise as the trigger of a clean-label attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator

from backdoor_attacks.perturbing import Perturbing
from benchmark import Count, Images, Positive, hookimpl


@dataclass
class AdvClean(Perturbing):
    """Push images of the target class towards another class of a surrogate model.

    A(x) moves x towards the class after the target. A(x) with its true label is trained on,
    A(x) of any image is the trigger. Pick your Poison takes an ImageNet surrogate and publishes
    neither step size nor start; here the surrogate is trained on auxiliary images, and noise
    starts at zero: `steps` steps of `step` within `epsilon`, in L-infinity. Part of the success
    is plain transfer from the surrogate, which a clean model shows as well.
    """

    name, version, paper = "advclean", 1, "Turner, Tsipras, Madry 2018; Lukas and Kerschbaum 2023"
    epsilon: Positive = 8 / 255
    step: Positive = 5 / 255
    steps: Count = 4
    direction = -1

    @property
    def moved_by(self) -> int:
        return (self.view.target + 1) % self.view.classes

    def trigger(self, images: Images, rng: Generator) -> Images:
        return self.perturb(images)


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(AdvClean)
