"""The robustness game (Pick your Poison, Alg. 1), from a trained victim on: repair, deploy.

The curve's first point is the undefended victim. Every later point belongs to a stage of
the defense, and both readings walk it until clean accuracy leaves the budget.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import metrics
from benchmark.api import Deployment, Repair
from benchmark.games import checks
from benchmark.games.arena import Arena, Progress
from benchmark.games.exam import AnswerKey, Answers, Exam, predictor
from benchmark.images import TrustedData
from benchmark.metrics import Point
from benchmark.models import Classifier


@dataclass
class Outcome:
    """All that was measured in one cell.

    Attributes:
        curve: points in the order of measuring.
        answers: the predictions behind each point.
        model: the last model whose accuracy on validation was in budget.
        suspicion: scores of a deployed guard for the test and the triggered images.
    """

    key: AnswerKey
    model: Classifier
    curve: list[Point] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    suspicion: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def add(self, answers: Answers, stage: str, step: int) -> None:
        self.curve.append(self.key.point(answers, stage, step))
        self.answers.append(answers)


def play(
    arena: Arena,
    exam: Exam,
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

    Args:
        victim: the undefended model, whose accuracy the budget is measured against.
        sanitized: the model trained after a sanitizer, which the later stages start from.
        trusted: the defender's images; needed by `repair` and `deployment`.
        seed_parts: names that seed the defender's randomness.
        progress: called with (step, 0) at every measurement.

    Raises:
        RuleViolation: a stage returned what the rules do not allow.
    """
    budget, precision = arena.protocol.robustness.budget, arena.recipe.precision
    outcome = Outcome(exam.key, victim)
    outcome.add(exam.sit(predictor(victim, precision)), "victim", 0)

    def still_affordable() -> bool:
        return metrics.last_affordable(outcome.curve, budget) is outcome.curve[-1]

    if sanitized is not None:
        outcome.add(exam.sit(predictor(sanitized, precision)), "sanitize", 0)
        if still_affordable():
            outcome.model = sanitized
    if repair is not None:
        model = _private_copy(outcome.model)
        for step in _measured_steps(arena, repair, model, _lend(trusted), seed_parts):
            outcome.add(exam.sit(predictor(model, precision)), "repair", step)
            progress(step, 0)
            if still_affordable():
                outcome.model = _private_copy(model)
            if metrics.both_spent(outcome.curve, budget):
                break
    if deployment is not None:
        _deploy(arena, exam, deployment, outcome, _lend(trusted), seed_parts)
    return outcome


def _private_copy(model: Classifier) -> Classifier:
    return copy.deepcopy(model).requires_grad_(True)


def _lend(trusted: TrustedData | None) -> TrustedData:
    if trusted is None:
        raise ValueError("a repair or deployment needs trusted images, none were given")
    return TrustedData(trusted.pixels.clone(), trusted.labels.clone(), trusted.pad, trusted.flip)


def _measured_steps(
    arena: Arena,
    repair: Repair,
    model: Classifier,
    trusted: TrustedData,
    seed_parts: tuple[object, ...],
) -> Iterator[int]:
    """Run the repair and stop at each step that is to be measured, the last one included."""
    interval = arena.protocol.robustness.interval
    steps = repair.repair(model, trusted, arena.rng("repair", *seed_parts))
    if not hasattr(steps, "__next__"):
        raise checks.RuleViolation(f"{repair.name}.repair must yield after every step")
    step = 0
    for step, _ in enumerate(steps, start=1):
        if step % interval == 0:
            yield step
    if step % interval:
        yield step


def _deploy(
    arena: Arena,
    exam: Exam,
    deployment: Deployment,
    outcome: Outcome,
    trusted: TrustedData,
    seed_parts: tuple[object, ...],
) -> None:
    model = _private_copy(outcome.model).eval()
    guarded = deployment.deploy(model, trusted, arena.rng("deploy", *seed_parts))
    suspicions: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        with torch.no_grad():
            answer = guarded(images)
        checks.verdict(answer, len(images), len(arena.class_names), deployment)
        suspicions.append(answer.suspicion.detach().float().cpu())
        return answer.predictions

    answers = exam.sit(predict)
    outcome.add(answers, "deploy", outcome.curve[-1].step)
    scores = torch.cat(suspicions).numpy()[len(answers.validation) :]
    outcome.suspicion = (scores[: len(answers.test)], scores[len(answers.test) :])
