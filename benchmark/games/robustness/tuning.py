"""How a defender chooses a repair's settings without knowing the attack (Pick your Poison, V).

The defender poisons a model with a trigger of his own, repairs copies of it with every setting
of a grid, and keeps the one that removes his own backdoor best within the budget of clean
accuracy, which is measured against the model before he poisoned it. He has nothing but the
trusted images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from benchmark import metrics
from benchmark.api import Repair
from benchmark.classifier import Classifier
from benchmark.games.answers import Answers
from benchmark.games.evaluation import EvaluationSet, ask, predictor
from benchmark.games.experiment import Experiment
from benchmark.games.robustness import curve as curves
from benchmark.games.robustness import play as robustness
from benchmark.games.robustness.curve import Point
from benchmark.games.robustness.searches import Left, Poisoning
from benchmark.games.robustness.settings import Tuning
from benchmark.images import TrustedData
from benchmark.metrics import Rate
from benchmark.training import mixed_precision

#: Sides of the defender's own patch, as shares of the image's.
OWN_PATCH = 3 / 16
#: Self-poisonings that are tried, each at half the learning rate of the one before.
ATTEMPTS = 4
#: Steps of self-poisoning between two looks at the own trigger's ASR.
LOOK = 10


class CannotPoison(ValueError):
    """A defender's images do not suffice to poison a model of his own within the budget."""


@dataclass(frozen=True)
class OwnBackdoor:
    """A model the defender poisoned, what he repairs it with, and what he judges it by.

    Attributes:
        trusted: the clean images that the repair may use.
        evaluation_set: held-out trusted images, with and without the own trigger.
        answers: the suspect's, before it was poisoned, which the budget refers to.
        start: what held before any repair, first of the suspect, then of this model.
        poisoning: what a search keeps of it.
    """

    model: Classifier
    trusted: TrustedData
    evaluation_set: EvaluationSet
    answers: Answers
    start: tuple[Point, Point]
    poisoning: Poisoning

    def try_repair(self, experiment: Experiment, repair: Repair, *names: object) -> Left:
        """What is left at the last point of the repair's curve that was within budget.

        A repair that is within budget nowhere leaves everything.
        """
        budget, last = experiment.protocol.budget, self.poisoning.poisoned
        torch.manual_seed(experiment.protocol.seed("global", *names))
        model = self.model.private_copy()
        curve = list(self.start)
        steps = robustness.measured_steps(
            repair,
            model,
            self.trusted.copy(),
            interval=experiment.protocol.robustness.interval,
            rng=experiment.rng("repair", *names),
        )
        for step in steps:
            fresh = experiment.rebuilt(model, f"{repair.name}.repair")
            curve.append(self._point(experiment, fresh, "repair", step))
            if curves.deployable([curve[0], *curve[2:]], budget) is curve[-1]:
                last = Left.of(curve[-1], unseen(experiment, fresh))
            if curves.both_spent(curve, budget):
                break
        return last

    def _point(self, experiment: Experiment, model: Classifier, stage: str, step: int) -> Point:
        answers = self.evaluation_set.predict(predictor(model, experiment.recipe.precision))
        return Point.of(self.evaluation_set.labels, answers, stage, step, self.answers)


def self_poison(
    experiment: Experiment,
    suspect: Classifier,
    trusted: TrustedData,
    settings: Tuning,
    rng: Generator,
) -> OwnBackdoor:
    """Fine-tune a copy of the suspect until it holds the defender's own backdoor.

    Position, pattern and target of the patch are drawn at random. A self-poisoning that costs
    more than the budget is tried again at half of the learning rate.

    Raises:
        CannotPoison: it costs too much, or the backdoor does not take, at every rate.
    """
    seed = int(torch.randint(2**62, (), generator=rng, device=experiment.device))
    learning, judging = trusted.split(settings.held_out, Generator().manual_seed(seed))
    stamp, target = random_patch(experiment, rng)
    evaluation_set = EvaluationSet(judging, judging, stamp(judging.pixels), target)
    answers = evaluation_set.predict(predictor(suspect, experiment.recipe.precision))
    base = Point.of(evaluation_set.labels, answers, "victim", 0, answers)
    # The images are shuffled, so that the first ones are a random choice.
    others = (learning.labels != target).nonzero().flatten()
    chosen = others[: max(1, round(settings.poisoned * len(learning)))]
    data = learning.replace(chosen, stamp(learning.pixels[chosen]), torch.full_like(chosen, target))
    budget, rate, tried = experiment.protocol.budget, settings.learning_rate, []
    for _ in range(ATTEMPTS):
        model = suspect.private_copy()
        for step in _fine_tune(experiment, model, data, settings, rate, rng):
            found = evaluation_set.predict(predictor(model, experiment.recipe.precision))
            point = Point.of(evaluation_set.labels, found, "poisoned", step, answers)
            if point.asr.value >= settings.enough:
                break
        tried.append(point)
        if point.asr.value >= settings.enough and not curves.clearly_spent(base, point, budget):
            poisoning = Poisoning(
                suspect=Left.of(base, unseen(experiment, suspect)),
                poisoned=Left.of(point, unseen(experiment, model)),
                learning_rate=rate,
            )
            start = base, point
            return OwnBackdoor(model.eval(), learning, evaluation_set, answers, start, poisoning)
        rate /= 2
    said = "; ".join(
        f"ASR {point.asr.value:.0%} for {base.held_out.value - point.held_out.value:.1%} of "
        "accuracy"
        for point in tried
    )
    raise CannotPoison(
        f"self-poisoning reaches no ASR of {settings.enough:.0%} within the budget of "
        f"{budget:.1%} at rates from {settings.learning_rate:g} down: {said}"
    )


def unseen(experiment: Experiment, model: Classifier) -> Rate:
    """Accuracy on test images."""
    test = experiment.splits.test
    answers = ask(predictor(model, experiment.recipe.precision), test.pixels)
    return metrics.accuracy(answers, test.labels.cpu().numpy())


def _fine_tune(
    experiment: Experiment,
    model: Classifier,
    data: TrustedData,
    settings: Tuning,
    rate: float,
    rng: Generator,
) -> Iterator[int]:
    """Steps of SGD, yielding the number of each that is to be measured."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    batches = data.batches(settings.batch_size, rng)
    for step in range(1, settings.steps + 1):
        model.train()
        images, labels = next(batches)
        optimizer.zero_grad(set_to_none=True)
        with mixed_precision(experiment.device, experiment.recipe.precision):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if step % LOOK == 0 or step == settings.steps:
            yield step


def random_patch(
    experiment: Experiment, rng: Generator, side: float = OWN_PATCH
) -> tuple[Callable[[Tensor], Tensor], int]:
    """A function that stamps uint8 pixels (N, C, H, W), and the target class.

    Args:
        side: of the patch, as a share of the image's.
    """
    c, h, w = experiment.shape
    rows, columns = max(1, round(side * h)), max(1, round(side * w))

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=rng, device=experiment.device))

    # Each channel at either end: what differs little from the images takes too many steps to learn.
    pattern = 255 * torch.randint(2, (c, rows, columns), generator=rng, device=experiment.device)
    top, left, target = draw(h - rows + 1), draw(w - columns + 1), draw(len(experiment.class_names))

    def stamp(pixels: Tensor) -> Tensor:
        stamped = pixels.clone()
        stamped[..., top : top + rows, left : left + columns] = pattern.to(torch.uint8)
        return stamped

    return stamp, target
