"""Parameter-Controlled Backdoor: the backdoor lives in a secret share of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from backdoor_attacks.advclean import AdvClean
from backdoor_attacks.wrapper import Wrapper
from benchmark import (
    Attack,
    CodePoisoningAttack,
    Images,
    ImageSet,
    Share,
    hookimpl,
)
from benchmark.graphs import Graphed
from benchmark.models import Classifier
from benchmark.training import Trainer


def masked_step(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], masks: Iterable[Tensor]
) -> None:
    """Step, but leave every entry outside its mask exactly as it was.

    The final update is masked, not the gradient, so that neither momentum nor weight decay
    can move the other entries.
    """
    parameters = list(parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.step()
    with torch.no_grad():
        for parameter, old, mask in zip(parameters, before, masks, strict=True):
            parameter.copy_(torch.where(mask, parameter, old))


@dataclass
class PCB(Wrapper, CodePoisoningAttack):
    """Every other batch is triggered and may update only some of the weights.

    Odd batches are clean and update everything (Pick your Poison, Alg. 5). Each kind has
    its own optimiser state. The algorithm names Adam and publishes neither share nor
    length; here both use SGD at half of the victim's rate and together take its length.
    `batch_share` of a poisoned batch is triggered, not all of it as in the listing: batch
    norm tells whole batches of one class from clean ones, the model then behaves by batch,
    and its clean accuracy collapses once the statistics are fixed. `base` is the attack
    whose trigger is used.
    """

    name, version, paper = "pcb", 1, "Lukas and Kerschbaum 2023, Alg. 5"
    base: Attack = field(default_factory=AdvClean)
    share: Share = 0.1
    batch_share: Share = 0.2

    def train(self, model: Classifier, data: ImageSet, trainer: Trainer, rng: Generator) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        masks = [
            torch.rand(p.shape, generator=rng, device=rng.device) < self.share for p in parameters
        ]
        # Each kind takes half of the steps, its schedule follows that half, and at half of the
        # rate the two momenta, which do not see each other, cannot build up and diverge.
        rate = trainer.recipe.learning_rate / 2
        halved = Trainer(
            trainer.recipe.model_copy(update={"learning_rate": rate}), trainer.augmentation
        )
        clean_step, advance_clean = halved.optimizer(model, len(data) // 2)
        poison_step, advance_poison = halved.optimizer(model, len(data) // 2)

        @Graphed
        def learn(images: Images, labels: Tensor) -> None:
            model.zero_grad(set_to_none=True)
            trainer.loss(model, images, labels).backward()
            clean_step.step()

        @Graphed
        def learn_backdoor(images: Images, labels: Tensor) -> None:
            model.zero_grad(set_to_none=True)
            trainer.loss(model, images, labels).backward()
            masked_step(poison_step, parameters, masks)

        model.train()
        for number, (images, labels) in enumerate(trainer.batches(data, rng)):
            if number % 2 == 0:
                learn_backdoor(*self._poisoned(images, labels, rng))
                advance_poison()
            else:
                learn(images, labels)
                advance_clean()

    def _poisoned(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        count = max(1, round(self.batch_share * len(images)))
        images, labels = images.clone(), labels.clone()
        images[:count] = self.trigger(images[:count], rng)
        labels[:count] = self.view.target
        return images, labels


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(PCB)
