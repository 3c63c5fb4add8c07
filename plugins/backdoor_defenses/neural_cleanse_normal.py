"""Neural Cleanse of Pick your Poison with a decision: is one norm too small to be normal?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Generator, Tensor

from backdoor_defenses.neural_cleanse import AdditiveNeuralCleanse
from benchmark import Classifier, Detection, Share, TrustedData, hookimpl


def smallest_p(norms: Tensor) -> float:
    """How likely the smallest of K norms (K,) is so small if all come from one normal, in [0, 1].

    Mean and deviation are fitted to the norms themselves, so the fitted normal's own tail is too
    kind; this is the exact bound for one outlier (Grubbs 1950): K times the tail of Student's t
    with K - 2 degrees of freedom, 1 at most. 1 for fewer than three norms, and for equal ones.
    """
    from scipy.stats import t as student  # here, since listing does without

    count, values = len(norms), norms.double()
    if count < 3 or not values.std() > 1e-9 * values.abs().max():
        return 1.0
    lead = float((values.mean() - values.min()) / values.std())
    left = (count - 1) ** 2 - count * lead**2
    if left <= 0:  # all others are equal
        return 0.0
    tail = student.sf(lead * math.sqrt(count * (count - 2) / left), count - 2)
    return min(1.0, count * float(tail))


@dataclass
class NormalNeuralCleanse(AdditiveNeuralCleanse):
    """Neural Cleanse with additive triggers that flags a norm no normal distribution explains.

    The triggers and the score are those of neural-cleanse-additive. Where no AUC over many models
    is asked for, Pick your Poison fits a normal distribution to the norms of all classes and tests
    the smallest; the test is not specified, and this is Grubbs' at the level `level`. Its
    p-value is reported apart. With two classes there is no verdict.
    """

    name, version = "neural-cleanse-normal", 1
    paper = "Lukas and Kerschbaum 2023, Alg. 6 and its normal fit"
    level: Share = 0.05

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        found = super().detect(model, trusted, rng)
        p_value = smallest_p(-found.class_scores)
        flagged = None if len(found.class_scores) < 3 else p_value < self.level
        return replace(found, flagged=flagged, also={"normal p value": p_value})


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(NormalNeuralCleanse)
