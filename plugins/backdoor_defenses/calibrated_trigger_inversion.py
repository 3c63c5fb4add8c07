"""Calibrated Trigger Inversion: look for a trigger that a repair takes away."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor

from backdoor_defenses.pivotal_tuning import PivotalTuning
from backdoor_defenses.stimulation import Part
from benchmark import (
    Classifier,
    Count,
    Detection,
    Detector,
    Positive,
    Repair,
    Share,
    TrustedData,
    Weight,
    hookimpl,
)
from benchmark.inversion import (
    FrozenClassifier,
    cross_entropy_to,
    logits_of,
    minimise,
    success,
    true_answers,
)
from benchmark.triggers import Additive, Patch


@dataclass
class CalibratedTriggerInversion(Detector):
    """Reverse triggers that work on the suspect and no longer on its repaired copy.

    The trusted images are split first. The suspect is repaired on one part, and on the same
    part the trigger T of each class c minimises
    CE(suspect(x + T), c) + repaired_weight * CE(repaired(x + T), y) + norm_weight * |T|_1
    over images x of other classes (Pick your Poison, Alg. 4). A class's score is the share of
    images in the other, held-out part that T puts into c before the repair, minus the share
    after it. Neither the repair nor the trigger has seen those.

    Optimiser and start are those of the authors' later code, which weighs the repaired term by
    0.5 and mirrors images at random; here images are augmented as the protocol says.

    The paper's trigger is additive, image-shaped and free of a norm. Then universal
    perturbations of clean models score high too; a mask with a norm term keeps them small.

    The listing's formula, success before minus accuracy after, is reported apart as
    "printed": it puts a perfect backdoor below a universal perturbation (C20).
    """

    name, version, paper = "calibrated-trigger-inversion", 2, "Lukas and Kerschbaum 2023, Alg. 4"
    repair: Repair = field(default_factory=PivotalTuning)
    trigger: Literal["additive", "mask"] = "additive"
    steps: Count = 100
    batch_size: Count = 32
    learning_rate: Positive = 0.01
    repaired_weight: Share = 1.0
    norm_weight: Weight = 0.0
    held_out: Part = 0.5

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        learning, judging = trusted.split(self.held_out, rng)
        repaired = copy.deepcopy(model)
        for _ in self.repair.repair(repaired, learning, rng):
            pass
        before, after = FrozenClassifier(model), FrozenClassifier(repaired)
        classes = torch.arange(model.classes, device=trusted.device)
        batches = learning.batches(self.batch_size, rng)
        kind: type[Additive | Patch] = Patch if self.trigger == "mask" else Additive
        trigger = kind.random(len(classes), trusted.pixels.shape[1:], rng)

        def losses() -> Tensor:
            images, labels = next(batches)
            others = labels[None] != classes[:, None]
            triggered = trigger.apply(images)
            reached = cross_entropy_to(logits_of(before, triggered), classes, others)
            true = labels.expand(len(classes), -1)
            undone = cross_entropy_to(logits_of(after, triggered), true, others)
            return reached + self.repaired_weight * undone + self.norm_weight * trigger.norms

        minimise(trigger, losses, steps=self.steps, learning_rate=self.learning_rate)
        reached = success(before, trigger, classes, judging)
        scores = reached - success(after, trigger, classes, judging)
        printed = reached - true_answers(after, trigger, classes, judging)
        also = {"printed": printed.max().item()}
        return Detection(scores.max().item(), scores, trigger=trigger, also=also)


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(CalibratedTriggerInversion)
