"""Target identification: only the true target's inverted trigger works on other images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator

from backdoor_defenses.smoothinv.inverters import SmoothInv
from benchmark import (
    Classifier,
    Count,
    Detection,
    Detector,
    Inverter,
    Starts,
    TrustedData,
    hookimpl,
)
from benchmark.images import to_unit
from benchmark.inversion import FrozenClassifier, success


@dataclass
class TargetIdentification(Detector):
    """Invert a trigger for every class from single images; one that transfers is a backdoor's.

    For each of `starts` trusted images and each class, `inverter` reverses a trigger. A class
    scores the mean share of the other trusted images that its triggers put there, over the
    start images of other classes; the model scores its largest. The paper publishes no
    threshold, so nothing is flagged. The inverter has one radius; a sweep is as many detectors.
    The triggers of the first start image are reported.
    """

    name, version, paper = "target-identification", 2, "Sun and Kolter, CVPR 2023, Sec. 4"
    inverter: Inverter = field(default_factory=SmoothInv)
    starts: Count = 3

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        classes = torch.arange(model.classes, device=trusted.device)
        rows = torch.randperm(len(trusted), generator=rng, device=rng.device)
        judged, frozen = trusted.subset(rows[self.starts :]), FrozenClassifier(model)
        if self.starts >= len(trusted):
            raise ValueError(f"{self.starts} start images leave none of {len(trusted)} to judge by")
        found = []
        for row in rows[: self.starts]:
            image = to_unit(trusted.pixels[row : row + 1])
            starts = Starts(image.repeat(len(classes), 1, 1, 1), classes)
            for trigger in self.inverter.invert(model, starts, rng):
                last = trigger
            found.append((last, success(frozen, last, classes, judged)))
        # From an image of the class itself there is nothing to reverse.
        others = trusted.labels[rows[: self.starts], None] != classes
        rates = torch.stack([rates for _, rates in found])
        scores = (rates * others).sum(0) / others.sum(0).clamp(min=1)
        return Detection(scores.max().item(), scores, trigger=found[0][0])


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(TargetIdentification)
