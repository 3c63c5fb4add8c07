"""The search for the smallest trigger that works: its cost, what is kept and when it ends."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor

from benchmark.triggers import Trigger

T = TypeVar("T", bound=Trigger)


class Smallest:
    """The smallest state of each of J triggers that works.

    A state works if the success rate was at least `threshold` over the steps since the last
    check.

    Attributes:
        norms: float32 (J,), infinite where nothing worked yet.
    """

    def __init__(self, trigger: Trigger, threshold: float) -> None:
        self.threshold = threshold
        self.norms = torch.full_like(trigger.norms, torch.inf)
        self._variables = [variable.clone() for variable in trigger.variables]
        self._rates = torch.zeros_like(self.norms)
        self._steps = 0

    def count(self, rates: Tensor, rows: Tensor | None = None) -> None:
        """Take in the success rates (J,) of one step, or those of some rows only."""
        self._rates[slice(None) if rows is None else rows] += rates
        self._steps += 1

    @torch.no_grad()
    def check(self, trigger: Trigger) -> Tensor:
        """Keep what works and is smaller than before; tells what works, bool (J,)."""
        works = self._rates / self._steps >= self.threshold
        better = works & (trigger.norms < self.norms)
        for kept, new in zip(self._variables, trigger.variables, strict=True):
            kept[better] = new[better]
        self.norms[better] = trigger.norms[better]
        self._rates.zero_()
        self._steps = 0
        return works

    def or_else(self, other: T) -> T:
        """What was kept, with the rows of `other` where nothing ever worked."""
        found = copy.copy(other)
        found.variables = [variable.clone() for variable in other.variables]
        worked = self.norms.isfinite()
        for variable, kept in zip(found.variables, self._variables, strict=True):
            variable[worked] = kept[worked]
        return found


class CostSchedule:
    """The weight of the norm, adapted per class to how well its trigger works.

    It is zero until a trigger has worked for `patience` checks in a row, then `initial`;
    `patience` more checks above the threshold multiply it by k, as many below divide it by
    k^1.5 (from the authors' code).

    Attributes:
        cost: float32 (K,).
        raised, lowered: bool (K,), whether a cost above zero was ever moved this way.
    """

    def __init__(self, classes: int, initial: float, multiplier: float, patience: int) -> None:
        self.initial, self.multiplier, self.patience = initial, multiplier, patience
        self.cost = torch.zeros(classes)
        self.raised, self.lowered = torch.zeros(2, classes, dtype=torch.bool)
        self._up, self._down = torch.zeros(2, classes, dtype=torch.int64)

    def check(self, works: Tensor) -> None:
        """Take in, as bool (K,), whose trigger works."""
        self._up = torch.where(works, self._up + 1, 0)
        self._down = torch.where(works, 0, self._down + 1)
        up, down = self._up >= self.patience, self._down >= self.patience
        costs = self.cost > 0
        self.raised |= up & costs
        self.lowered |= down & costs
        higher = torch.where(costs, self.cost * self.multiplier, self.initial)
        self.cost = torch.where(up, higher, self.cost)
        self.cost = torch.where(down, self.cost / self.multiplier**1.5, self.cost)
        self._up[up], self._down[down] = 0, 0


class Settled:
    """Which norms have stopped falling: by less than 1 % over 2 * patience checks."""

    def __init__(self, classes: int, patience: int) -> None:
        self.patience = patience
        self._mark = torch.full((classes,), torch.inf)
        self._checks = torch.zeros(classes, dtype=torch.int64)

    def check(self, norms: Tensor) -> Tensor:
        """Take in the smallest norms so far, (K,), and tell which have settled, bool (K,)."""
        lower = norms < 0.99 * self._mark
        self._mark = torch.where(lower, norms, self._mark)
        self._checks = torch.where(lower, 0, self._checks + 1)
        return self._checks >= 2 * self.patience
