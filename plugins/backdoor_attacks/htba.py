"""Hidden Trigger Backdoor Attack: poisons that look like the target, with features of a trigger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from backdoor_attacks.badnets import patch_size
from backdoor_attacks.tsb import stamp
from benchmark import Classifier, Count, Images, PoisoningAttack, Positive, Share, hookimpl
from benchmark.metrics import attacked, source_class
from benchmark.training import mixed_precision

#: Side of the matrix of random colours that is enlarged to the patch.
MATRIX = 4
#: Poisons that are made side by side, and steps after which a step is halved (Saha et al.).
BATCH, HALVED_AFTER = 100, 1000


def paired(distances: Tensor) -> Tensor:
    """A partner for each row, every column at most once: the closest pair first, and so on.

    Args:
        distances: (N, M) with N at most M.

    Returns:
        int64 (N,), columns.
    """
    left, found = distances.detach().clone(), torch.empty(len(distances), dtype=torch.int64)
    for _ in range(len(left)):
        row, column = divmod(int(left.argmin()), left.shape[1])
        found[row] = column
        left[row], left[:, column] = torch.inf, torch.inf
    return found.to(distances.device)


@dataclass
class HTBA(PoisoningAttack):
    """Move images of the target, in features, to triggered images of another class; labels stay.

    The trigger is a 4x4 matrix of random colours, enlarged to `side` of the image, at a random
    place. A poison starts as an image of the target and makes up to `steps` steps of `step`
    against the squared distance of its features to those of a triggered image of the source
    class, within `epsilon`; pairs are found anew before every step. The trigger itself is in no
    training image. Its source class is (target + `source`) mod K.

    It is made for victims that train no more than their last layer on known features: the
    recipe's `init` and `trains=["head"]`. There, the features are those of the victim's own
    checkpoint. Otherwise they are a surrogate's, which is trained on auxiliary images. Triggered
    images are auxiliary ones of the source class.

    Of 200 images a class the original adds those with the lowest loss; here the game says which
    m images become poisons, and all of them do. The original makes up to 5,000 steps, and ends
    sooner where all pairs are close by the measure of AlexNet's features.
    """

    name, version, paper = "htba", 1, "Saha, Subramanya, Pirsiavash, AAAI 2020"
    clean_label = True
    source: Count = 1
    side: Share = 30 / 224
    epsilon: Positive = 16 / 255
    step: Positive = 0.01
    steps: Count = 1000

    def prepare(self, rng: Generator) -> None:
        channels, height, width = self.view.shape
        sides = patch_size(self.side, height, width)
        colours = torch.rand(1, channels, MATRIX, MATRIX, generator=rng, device=rng.device)
        self.state["patch"] = torch.nn.functional.interpolate(
            colours, sides, mode="bilinear", align_corners=False, antialias=True
        )[0]
        extractor = self.view.new_model(rng)
        if self.view.trainer.recipe.init is None:
            self.view.trainer.fit(extractor, self.view.auxiliary, rng)
        self.state.update(
            {f"extractor.{name}": value for name, value in extractor.state_dict().items()}
        )

    def trigger(self, images: Images, rng: Generator) -> Images:
        patch = self.state["patch"].to(images)
        rows, columns = (
            torch.randint(whole - part + 1, (len(images),), generator=rng, device=rng.device)
            for whole, part in zip(images.shape[-2:], patch.shape[-2:], strict=True)
        )
        stamped = stamp(images, patch.expand(len(images), -1, -1, -1), rows, columns)
        return stamped.clamp(0, 1)

    def poison(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        auxiliary = self.view.auxiliary
        source = source_class(self.source, self.view.target, self.view.classes)
        there = attacked(auxiliary.labels, self.view.target, source).nonzero().flatten()
        if not len(there):
            raise ValueError(
                f"htba: the auxiliary images have none of source class {source}; choose a "
                "protocol with more of them"
            )
        made = []
        for part in images.split(BATCH):
            draw = torch.rand(len(there), generator=rng, device=rng.device)
            rows = there[draw.argsort()].repeat(-(-len(part) // len(there)))[: len(part)]
            with torch.no_grad():
                aims = self._features(self.trigger(auxiliary.subset(rows).images, rng))
            made.append(self._moved(part, aims))
        return torch.cat(made), labels

    def _moved(self, images: Images, aims: Tensor) -> Images:
        """Images whose features were led to `aims`, (N, F), one each."""
        noise = torch.zeros_like(images)
        for number in range(self.steps):
            moved = (images + noise).requires_grad_(True)
            features = self._features(moved)
            gap = (features - aims[paired(torch.cdist(features, aims))]).square().sum()
            slope = torch.autograd.grad(gap, moved)[0]
            noise = noise - self.step / 2 ** (number // HALVED_AFTER) * slope
            noise = (images + noise.clamp(-self.epsilon, self.epsilon)).clamp(0, 1) - images
        return images + noise

    @cached_property
    def _extractor(self) -> Classifier:
        model = self.view.new_model(Generator(self.view.auxiliary.device))
        prefix = "extractor."
        model.load_state_dict(
            {n.removeprefix(prefix): v for n, v in self.state.items() if n.startswith(prefix)}
        )
        return model.requires_grad_(False).eval()

    def _features(self, images: Images) -> Tensor:
        with mixed_precision(images.device):
            found: Tensor = self._extractor.features(images).float()
        return found


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(HTBA)
