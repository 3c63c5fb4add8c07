"""Parameter-Controlled Backdoor: the backdoor lives in a secret share of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from backdoor_attacks.advclean import AdvClean
from backdoor_attacks.wrapper import Wrapper
from benchmark import (
    Attack,
    Classifier,
    CodePoisoningAttack,
    Images,
    ImageSet,
    Positive,
    Share,
    hookimpl,
)
from benchmark.graphs import Graphed
from benchmark.training import Trainer, rate_on


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

    Odd batches are clean and update everything (Pick your Poison, Alg. 5). Every trainable
    scalar belongs to the secret `share` by a coin of its own. Each kind of batch has its own
    optimiser state, and both together take the victim's length. The paper publishes neither
    share, length nor rate; its Adam starts at `adam_rate` and follows the victim's schedule
    without weight decay. `optimizer=sgd` is the victim's optimiser at half of its rate, at which
    some networks diverge, since neither of the two momenta sees the other.
    `batch_share` of a poisoned batch is triggered; the listing's whole batches are
    `batch_share=1`. By default it is less: batch norm tells whole batches of one class from
    clean ones, the model then behaves by batch, and its clean accuracy collapses once the
    statistics are fixed. `base` is the attack whose trigger is used (C13).
    """

    name, version, paper = "pcb", 2, "Lukas and Kerschbaum 2023, Alg. 5"
    base: Attack = field(default_factory=AdvClean)
    share: Share = 0.1
    batch_share: Share = 0.2
    optimizer: Literal["adam", "sgd"] = "adam"
    adam_rate: Positive = 1e-3

    def train(self, model: Classifier, data: ImageSet, trainer: Trainer, rng: Generator) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        masks = [
            torch.rand(p.shape, generator=rng, device=rng.device) < self.share for p in parameters
        ]
        # Each kind takes half of the steps, and its schedule follows that half.
        clean_step, advance_clean = self._optimizer(model, trainer, len(data) // 2)
        poison_step, advance_poison = self._optimizer(model, trainer, len(data) // 2)

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
        batches = trainer.batches(data, rng, after_epoch=model.settle)
        for number, (images, labels) in enumerate(batches):
            if number % 2 == 0:
                learn_backdoor(*self._poisoned(images, labels, rng))
                advance_poison()
            else:
                learn(images, labels)
                advance_clean()

    def _optimizer(
        self, model: Classifier, trainer: Trainer, images: int
    ) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
        """As `Trainer.optimizer`, for one of the two kinds of batches."""
        recipe = trainer.recipe
        if self.optimizer == "sgd":
            # At the whole rate the two momenta build up sooner still.
            halved = recipe.model_copy(update={"learning_rate": recipe.learning_rate / 2})
            return Trainer(halved, trainer.augmentation).optimizer(model, images)
        device = next(model.parameters()).device
        adam = torch.optim.Adam(
            model.parameters(),
            lr=rate_on(device, self.adam_rate),
            capturable=device.type == "cuda",
        )
        return adam, trainer.schedule(adam, images)

    def _poisoned(self, images: Images, labels: Tensor, rng: Generator) -> tuple[Images, Tensor]:
        count = max(1, round(self.batch_share * len(images)))
        images, labels = images.clone(), labels.clone()
        images[:count] = self.trigger(images[:count], rng)
        labels[:count] = self.view.target
        return images, labels


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(PCB)
