"""Label-consistent attack: images of the target made hard to learn, and a patch that is easy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from backdoor_attacks.badnets import patch_size
from backdoor_attacks.perturbing import Norm, Perturbing, climb, lengths, loss_gradient
from benchmark import Classifier, Count, Images, Positive, Share, hookimpl
from benchmark.training import BatchHook

#: White (1) and black (-1) pixels of the patch in the lower right corner.
PATTERN = ((-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, -1.0, 1.0))
#: Steps of the adversarial training's attack; each is a quarter of its radius (Madry et al. 2018).
ROBUST_STEPS = 7


def signs(height: int, width: int, rows: int, columns: int, everywhere: bool) -> Tensor:
    """What the trigger does to the pixels of an image: 1 whiter, -1 blacker, 0 nothing; (H, W).

    The pattern is stretched to rows x columns pixels, without mixing any; a smaller patch has its
    part next to the corner. In four corners it is mirrored, so that each holds a white pixel.
    """
    pattern = torch.tensor(PATTERN)
    row, column = (2 - (torch.arange(size) * 3 // size).flip(0) for size in (rows, columns))
    patch = pattern[row][:, column]
    whole = torch.zeros(height, width)
    whole[height - rows :, width - columns :] = patch
    if everywhere:
        whole[:rows, width - columns :] = patch.flip(0)
        whole[height - rows :, :columns] = patch.flip(1)
        whole[:rows, :columns] = patch.flip(0, 1)
    return whole


@dataclass
class LabelConsistent(Perturbing):
    """Hide the target's own features under adversarial noise and stamp a patch; labels stay true.

    A poisoned image is first moved away from its true class on a surrogate, `steps` steps of
    `step` within `epsilon` in `norm`, then stamped; `adversarial=False` stamps only, which is how
    the LSP framework describes it. At test there is the patch and no noise.

    The surrogate is trained on auxiliary images, adversarially (Madry et al. 2018: 7 steps from a
    random start) within the share `robust` of epsilon, so that the noise shows features of other
    classes instead of what fools one network; 0 trains it plainly. Without auxiliary images stamp
    only. The original's radii are 8, 16 and 32 of 255 in L-infinity, and 300, 600 and 1200 of 255
    in L2, for 32x32 pixels in colour; number and size of steps are ours. Its other way, by
    interpolation in a generative model, is left out.

    The patch is the original's black and white one: 3x3 of 32x32 pixels, in the lower right or in
    `all_corners`. Below 1, `amplitude` is added or taken off instead of overwriting, in
    training and at test; the original tries 16, 32 and 64 of 255.
    """

    name, version, paper = "lc", 2, "Turner, Tsipras, Madry 2018; Li et al., LSP Framework, Tab. 1"
    side: Share = 3 / 32
    all_corners: bool = False
    amplitude: Share = 1.0
    adversarial: bool = True
    norm: Norm = "linf"
    epsilon: Positive = 16 / 255
    step: Positive = 2 / 255
    steps: Count = 20
    robust: Share = 0.5
    direction = 1

    @property
    def moved_by(self) -> int:
        """The class of all images that may be poisoned."""
        return self.view.target

    def prepare(self, rng: Generator) -> None:
        if not self.adversarial:
            return
        if not len(self.view.auxiliary):
            raise ValueError(
                "lc: the surrogate is trained on auxiliary images, and there is none; choose a "
                "protocol with auxiliary images or adversarial=false"
            )
        super().prepare(rng)

    def harden(self, surrogate: Classifier, rng: Generator) -> BatchHook:
        radius, gradient = self.robust * self.epsilon, loss_gradient(surrogate)
        if not radius:
            return super().harden(surrogate, rng)

        def attacked(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            draw = torch.rand(images.shape, generator=rng, device=rng.device).to(images)
            start = (2 * draw - 1) * radius
            if self.norm == "l2":
                start = radius * start / lengths(start)
            surrogate.eval()
            noisy = climb(
                images,
                lambda noisy: gradient(noisy, labels),
                norm=self.norm,
                epsilon=radius,
                step=radius / 4,
                steps=ROBUST_STEPS,
                start=(images + start).clamp(0, 1) - images,
            )
            surrogate.train()
            return noisy, labels

        return attacked

    def trigger(self, images: Images, rng: Generator) -> Images:
        height, width = images.shape[-2:]
        patch = patch_size(self.side, height, width)
        change = self.amplitude * signs(height, width, *patch, self.all_corners)
        return (images + change.to(images)).clamp(0, 1)

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        if self.adversarial:
            images = self.perturb(images)
        return self.trigger(images, rng), labels


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(LabelConsistent)
