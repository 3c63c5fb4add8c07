"""Label-consistent attack: images of the target made hard to learn, and a patch that is easy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from backdoor_attacks.advclean import Perturbing
from backdoor_attacks.badnets import BadNets
from benchmark import Count, Images, Positive, Share, hookimpl


@dataclass
class LabelConsistent(BadNets, Perturbing):
    """Hide the target's own features under adversarial noise and stamp a patch; labels stay true.

    A poisoned image is first moved away from its true class on a surrogate, `steps` steps of
    `step` within `epsilon` in L-infinity, then stamped; `adversarial=False` stamps only, which
    is how the LSP framework describes it. At test there is the patch and no noise. Patch and
    place are those of badnets; the original's patch is 3x3 pixels of black and white, in one
    corner or in all four, and its surrogate is adversarially trained, which this one, trained
    on auxiliary images, is not. Of the original's three radii, 8, 16 and 32 of 255, the middle
    one is the default; number and size of steps are ours.
    """

    name, version, paper = "lc", 1, "Turner, Tsipras, Madry 2018"
    clean_label = True
    side: Share = 3 / 32
    adversarial: bool = True
    epsilon: Positive = 16 / 255
    step: Positive = 2 / 255
    steps: Count = 20
    direction = 1

    @property
    def moved_by(self) -> int:
        """The class of all images that may be poisoned."""
        return self.view.target

    def prepare(self, rng: Generator) -> None:
        if self.adversarial:
            super().prepare(rng)

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        if self.adversarial:
            images = self.perturb(images)
        return self.trigger(images, rng), labels


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(LabelConsistent)
