"""What models answered, and the labels to judge it by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Classes as evidence keeps them.
Answer = NDArray[np.int16]


@dataclass(frozen=True)
class Labels:
    """True labels, (N,), and the target: all it takes to turn answers into rates.

    Attributes:
        source: the only class whose images the attack is for, None for all but the target.
    """

    held_out: Answer
    test: Answer
    target: int
    source: int | None = None


@dataclass(frozen=True)
class Answers:
    """Predicted classes; `metrics.REJECTED` for an input that was refused."""

    held_out: Answer
    test: Answer
    triggered: Answer
