"""The robustness game (Pick your Poison, Alg. 1), from a trained victim on: repair, deploy.

The curve's first point is the undefended victim. Every later point belongs to a stage of
the defense, and both readings walk it until clean accuracy leaves the budget: the paper's on
test images, the deployable one on trusted images that the defender holds out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from benchmark import clock
from benchmark.api import Deployment, Repair
from benchmark.classifier import Classifier
from benchmark.games import checks
from benchmark.games.answers import Answers, Labels
from benchmark.games.evaluation import EvaluationSet, narrow, predictor
from benchmark.games.experiment import Experiment, Progress
from benchmark.games.robustness import curve as curves
from benchmark.games.robustness.curve import Point
from benchmark.images import TrustedData, to_unit
from benchmark.records.cell import Cell

if TYPE_CHECKING:
    from benchmark.runs.context import RunContext


@dataclass
class Outcome:
    """All that was measured in one cell.

    Attributes:
        curve: points in the order of measuring.
        answers: the predictions behind each point.
        model: the last one within the budget on the held-out images.
        seconds: what the defense took, without the measuring.
        suspicion: scores of a deployed guard for the test and the triggered images.
    """

    labels: Labels
    model: Classifier
    curve: list[Point] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    seconds: float = 0.0
    suspicion: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def add(self, answers: Answers, stage: str, step: int) -> None:
        self.answers.append(answers)
        self.curve.append(Point.of(self.labels, answers, stage, step, self.answers[0]))

    def spend(self, seconds: float) -> None:
        self.seconds += seconds


def defend(context: RunContext, cell: Cell, progress: Progress) -> Outcome:
    """Play a cell of a run."""
    experiment, seed, sanitized = context.experiment, cell.victim.seed, cell.sanitized_victim
    torch.manual_seed(experiment.protocol.seed("global", cell.key))
    trusted, held_out = None, None
    if cell.trusted_share is not None:
        rng = Generator().manual_seed(experiment.protocol.seed("held out", seed))
        # What judges the defense counts towards what the defender trusts.
        whole = experiment.trusted(cell.trusted_share, seed)
        trusted, held_out = whole.split(experiment.protocol.robustness.held_out, rng)
    repair, deployment = context.stage(cell, "repair"), context.stage(cell, "deploy")
    assert repair is None or isinstance(repair, Repair)
    assert deployment is None or isinstance(deployment, Deployment)
    attack = cell.victim.attack
    return play(
        experiment,
        context.evaluation_set(cell.victim, held_out),
        context.load(cell.victim),
        sanitized=None if sanitized is None else context.load(sanitized),
        repair=repair,
        deployment=deployment,
        trusted=trusted,
        seed_parts=(attack.label, attack.m, cell.defense.name, cell.trusted_share, seed),
        progress=progress,
    )


def play(
    experiment: Experiment,
    evaluation_set: EvaluationSet,
    victim: Classifier,
    *,
    sanitized: Classifier | None = None,
    repair: Repair | None = None,
    deployment: Deployment | None = None,
    trusted: TrustedData | None = None,
    seed_parts: tuple[object, ...] = (),
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Play on; an absent stage is the identity.

    What is measured is a freshly built classifier with the weights that a repair left, so
    that nothing else a plugin does to its model counts.

    Args:
        victim: the undefended model, whose accuracy the budget is measured against.
        sanitized: the model trained after a sanitizer, which the later stages start from.
        trusted: what `repair` and `deployment` work with; held-out images are others.
        seed_parts: names that seed the defender's randomness.
        progress: called with (step, 0) at every measurement.

    Raises:
        RuleViolation: a stage returned what the rules do not allow.
    """
    budget, precision = experiment.protocol.budget, experiment.recipe.precision
    outcome = Outcome(evaluation_set.labels, victim)
    outcome.add(evaluation_set.predict(predictor(victim, precision)), "victim", 0)

    def measure(model: Classifier, stage: str, step: int) -> None:
        fresh = experiment.rebuilt(model, "a repair" if repair is None else f"{repair.name}.repair")
        outcome.add(evaluation_set.predict(predictor(fresh, precision)), stage, step)
        if curves.deployable(outcome.curve, budget) is outcome.curve[-1]:
            outcome.model = fresh

    if sanitized is not None:
        measure(sanitized, "sanitize", 0)
    if repair is not None:
        assert trusted is not None
        model = (victim if sanitized is None else sanitized).private_copy()
        steps = measured_steps(
            repair,
            model,
            trusted.copy(),
            interval=experiment.protocol.robustness.interval,
            rng=experiment.rng("repair", *seed_parts),
            spend=outcome.spend,
        )
        for step in steps:
            measure(model, "repair", step)
            progress(step, 0)
            if curves.both_spent(outcome.curve, budget):
                break
    if deployment is not None:
        assert trusted is not None
        _deploy(experiment, evaluation_set, deployment, outcome, trusted.copy(), seed_parts)
    return outcome


def measured_steps(
    repair: Repair,
    model: Classifier,
    trusted: TrustedData,
    *,
    interval: int,
    rng: Generator,
    spend: Callable[[float], None] = lambda seconds: None,
) -> Iterator[int]:
    """Run the repair and stop at each step that is to be measured, the last one included.

    Args:
        interval: steps between two measurements.
        spend: told the seconds that every step took.

    Raises:
        RuleViolation: it takes no step, or another number of them than its `steps` say, or
            changes the model after its last one.
    """
    promised, left = checks.steps(repair), model.state_dict()
    steps = repair.repair(model, trusted, rng)
    if not hasattr(steps, "__next__"):
        raise checks.RuleViolation(f"{repair.name}.repair must yield after every step")
    device = trusted.device
    step, started = 0, clock.seconds(device)
    for step, _ in enumerate(steps, start=1):
        if promised is not None and step > promised:
            break
        if promised is None or step == promised:  # it may be the last
            spend(clock.seconds(device) - started)
            left = copy.deepcopy(model.state_dict())
            started = clock.seconds(device)
        if step == promised or step % interval == 0:
            spend(clock.seconds(device) - started)
            yield step
            started = clock.seconds(device)
    if not step or step != (promised or step):
        said = "" if promised is None else f", its steps are {promised}"
        raise checks.RuleViolation(f"{repair.name}.repair yields after {step} steps{said}")
    if not _same(left, model.state_dict()):
        raise checks.RuleViolation(
            f"{repair.name}.repair changes the model after its last yield, where it is not "
            "measured any more; yield after every change"
        )
    if promised is None and step % interval:
        spend(clock.seconds(device) - started)
        yield step


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether these are the same weights; what is no number equals itself.

    Somebody's own model may keep what is no tensor beside them.
    """
    return one.keys() == other.keys() and all(
        (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in ((one[name], other[name]) for name in one)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
    )


def _deploy(
    experiment: Experiment,
    evaluation_set: EvaluationSet,
    deployment: Deployment,
    outcome: Outcome,
    trusted: TrustedData,
    seed_parts: tuple[object, ...],
) -> None:
    """Ask the guarded model; clean and triggered images come mixed, batch by batch."""
    started = clock.seconds(experiment.device)
    model = outcome.model.private_copy()
    returned = deployment.deploy(model, trusted, experiment.rng("deploy", *seed_parts))
    guarded = checks.guarded(returned, deployment)
    pixels, sort = evaluation_set.mixed(experiment.rng("order", *seed_parts))
    predictions, suspicions = [], []
    for part in pixels.split(experiment.images_per_pass):
        with torch.no_grad():
            answer = guarded(to_unit(part))
        verdict = checks.verdict(answer, len(part), len(experiment.class_names), deployment)
        predictions.append(verdict.predictions.cpu())
        suspicions.append(verdict.suspicion.cpu())
    outcome.spend(clock.seconds(experiment.device) - started)
    answers = Answers(*map(narrow, sort(torch.cat(predictions))))
    outcome.add(answers, "deploy", outcome.curve[-1].step)
    _, test, triggered = sort(torch.cat(suspicions))
    outcome.suspicion = (test.numpy(), triggered.numpy())
