"""Color Backdoor: one shift of all colours as the trigger."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from backdoor_attacks.colour import SPACES, Space, shifted
from backdoor_defenses.similarity import structural_similarity
from benchmark import (
    Classifier,
    Count,
    Images,
    ImageSet,
    PoisoningAttack,
    Positive,
    Share,
    hookimpl,
)

#: How far the search shifts a channel, at most.
REACH = 0.3
#: As many auxiliary images, at most, are what a shift is judged by.
JUDGED = 500
#: How a trial's copy of the surrogate learns a shift: SGD on batches with poisoned images.
BATCH, POISONED, RATE, MOMENTUM = 64, 0.1, 0.01, 0.9
#: What a shift scores at least that breaks a limit; no cross-entropy is that large.
REFUSED = 1e6

Level = Annotated[float, Field(ge=-1, le=1, description="from -1 to 1")]


@dataclass
class FixedColorBD(PoisoningAttack):
    """Add one fixed vector to all colours, and relabel; no search is run.

    The vector is added to every pixel in a colour space: hue wraps around, everything else is
    clipped. Lab is taken over 100. The default is a public reimplementation's. On images of one
    channel it changes the brightness only.
    """

    name, version = "colorbd-fixed", 1
    paper = "Jiang et al., CVPR 2023, Color Backdoor; Li et al., LSP Framework, Tab. 1"
    space: Space = "hsv"
    first: Level = 0.131
    second: Level = 0.109
    third: Level = 0.121

    def trigger(self, images: Images, rng: Generator) -> Images:
        return shifted(images, self.space, torch.tensor([self.first, self.second, self.third]))


@dataclass
class ColorBD(PoisoningAttack):
    """Add a vector to all colours that a search found to be natural and quick to learn; relabel.

    The search picks the colour space (HSV, Lab, YUV) and the vector. A candidate is natural where
    auxiliary images of other classes keep a mean PSNR of `least_psnr` decibels and a mean
    structural similarity of `least_ssim`. Among natural ones the best is what a surrogate learns
    best: a copy of a model trained on auxiliary images takes `steps` steps on batches of which a
    tenth is triggered and relabelled, and scores its cross-entropy to the target on triggered
    images of other classes.

    The original searches by particle swarm and limits LPIPS, too, whose networks are not at hand;
    its limits are not published here. This is optuna's TPE sampler, with
    `trials` trials in each space.
    """

    name, version = "colorbd", 1
    paper = "Jiang et al., CVPR 2023, Color Backdoor; Li et al., LSP Framework, Tab. 1"
    trials: Count = 20
    steps: Count = 30
    least_psnr: Positive = 20.0
    least_ssim: Share = 0.9

    def prepare(self, rng: Generator) -> None:
        view = self.view
        data = view.auxiliary
        rows = torch.randperm(len(data), generator=rng, device=rng.device)
        rows = rows[data.labels[rows] != view.target][:JUDGED]
        if not len(rows):
            raise ValueError(
                "colorbd: the shift is searched for on auxiliary images of other classes than the "
                "target, and there are none; use colorbd-fixed"
            )
        others = data.subset(rows).images
        surrogate = view.new_model(rng)
        view.trainer.fit(surrogate, data, rng)
        draws = torch.randint(len(data), (self.steps, BATCH), generator=rng, device=rng.device)
        seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))

        def unnatural(space: Space, shift: Tensor) -> float:
            triggered = shifted(others, space, shift)
            return unnaturalness(others, triggered, self.least_psnr, self.least_ssim)

        def cost(space: Space, shift: Tensor) -> float:
            return self.difficulty(surrogate, data, others, draws, space, shift)

        space, shift = search(cost, unnatural, self.trials, seed)
        self.state["space"] = torch.tensor([*SPACES].index(space))
        self.state["shift"] = shift

    def difficulty(
        self,
        surrogate: Classifier,
        data: ImageSet,
        others: Images,
        draws: Tensor,
        space: Space,
        shift: Tensor,
    ) -> float:
        """Cross-entropy to the target after a step on each row of `draws`, int64 (steps, B)."""
        model, trainer = copy.deepcopy(surrogate).train(), self.view.trainer
        optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
        payload = round(POISONED * draws.shape[1])
        for rows in draws:
            batch = data.subset(rows)
            images, labels = batch.images, batch.labels.clone()
            images[:payload] = shifted(images[:payload], space, shift)
            labels[:payload] = self.view.target
            optimizer.zero_grad(set_to_none=True)
            trainer.loss(model, images, labels).backward()
            optimizer.step()
        model.eval().settle()
        with torch.no_grad():
            logits = model(shifted(others, space, shift))
        wanted = torch.full((len(others),), self.view.target, device=logits.device)
        return cross_entropy(logits, wanted).item()

    def trigger(self, images: Images, rng: Generator) -> Images:
        return shifted(images, [*SPACES][int(self.state["space"])], self.state["shift"])


def unnaturalness(images: Images, triggered: Images, least_psnr: float, least_ssim: float) -> float:
    """By how much the limits are missed, in parts of them; 0 where they are kept."""
    errors = (triggered - images).square().flatten(1).mean(1).clamp(min=1e-10)
    psnr = (-10 * errors.log10()).mean().item()
    ssim = structural_similarity(images, triggered).mean().item()
    return max(0.0, 1 - psnr / least_psnr) + max(0.0, least_ssim - ssim)


def search(
    cost: Callable[[Space, Tensor], float],
    unnatural: Callable[[Space, Tensor], float],
    trials: int,
    seed: int,
) -> tuple[Space, Tensor]:
    """The space and the vector (3,) of the least cost among those that are natural.

    Raises:
        ValueError: none of the trials was natural.
    """
    import optuna  # it takes a second, which a listing need not wait for

    names = ("first", "second", "third")
    found: list[tuple[float, Space, Tensor]] = []
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        # One study for each: in a common one the first space to succeed draws all trials.
        for number, space in enumerate(SPACES):

            def objective(trial: optuna.Trial, space: Space = space) -> float:
                shift = torch.tensor([trial.suggest_float(name, -REACH, REACH) for name in names])
                missed = unnatural(space, shift)
                # What breaks a limit is only told how far off it is, and need not be learnt.
                return REFUSED * (1 + missed) if missed else cost(space, shift)

            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed + number))
            study.optimize(objective, n_trials=trials)
            shift = torch.tensor([study.best_params[name] for name in names])
            found.append((study.best_value, space, shift))
    finally:
        optuna.logging.set_verbosity(verbosity)
    least, space, shift = min(found, key=lambda one: one[0])
    if not least < REFUSED:
        raise ValueError(
            f"colorbd: none of {trials} shifts in each space kept the limits; lower least_psnr or "
            "least_ssim, or raise trials"
        )
    return space, shift


@hookimpl
def register_attacks(register: Callable[[type], None]) -> None:
    register(FixedColorBD)
    register(ColorBD)
