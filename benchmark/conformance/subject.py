"""The plugin under examination, and the rounds that it plays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from benchmark.api import Plugin
from benchmark.conformance.watch import Watch
from benchmark.errors import UserError
from benchmark.registry import Entry, Registry

#: Plays one round of a plugin's game, and returns what came out of it, by name.
Play = Callable[[Any, Watch], Mapping[str, Tensor]]


class ConformanceError(UserError, AssertionError):
    """A plugin that breaks a rule, in one sentence that says what to do."""


class DoesNotApply(SkipTest):
    """A check that says nothing about this plugin, and why; pytest shows it as skipped."""


@dataclass(frozen=True)
class Round:
    """What came out of a round, and what the plugin did to what it was lent."""

    plugin: Any
    outputs: Mapping[str, Tensor]
    watch: Watch

    def differs_from(self, other: Round) -> str | None:
        """The first output that is not bit for bit the same, None where all are."""
        names = [*self.outputs, *(name for name in other.outputs if name not in self.outputs)]
        for name in names:
            both = self.outputs.get(name), other.outputs.get(name)
            if both[0] is None or both[1] is None or not same(both[0], both[1]):
                return name
        return None


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, NaN being equal to itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_floating_point():
        return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return torch.equal(a, b)


@dataclass(frozen=True, eq=False)
class Subject:
    """A plugin with its settings; rounds are played once and kept.

    Attributes:
        spec: name and settings, as on the command line.
    """

    spec: str
    entry: Entry
    registry: Registry
    play: Play
    _rounds: dict[tuple[int, int, bool], Round | Exception] = field(default_factory=dict)

    def create(self) -> Any:
        """A new plugin with these settings."""
        return self.registry.create(self.entry.kind, self.spec)

    def attempt(self, again: int = 0, seed: int = 0, decoy: bool = False) -> Round:
        """Play a round, or return the one that was played with the same arguments.

        Args:
            again: number of the repetition; nothing depends on it.
            seed: of torch's global random state.

        Raises:
            Exception: whatever the plugin or the rules of its game raised.
        """
        key = (again, seed, decoy)
        if key not in self._rounds:
            self._rounds[key] = self._attempt(Watch(seed, decoy))
        found = self._rounds[key]
        if isinstance(found, Exception):
            raise found
        return found

    def _attempt(self, watch: Watch) -> Round | Exception:
        plugin: Plugin = self.create()
        try:
            return Round(plugin, dict(self.play(plugin, watch)), watch)
        except (Exception, SkipTest) as error:
            return error

    def round(self, again: int = 0, seed: int = 0, decoy: bool = False) -> Round:
        """As `attempt`, for checks that need a round that was played to its end.

        Raises:
            DoesNotApply: the round could not be played.
        """
        try:
            return self.attempt(again, seed, decoy)
        except DoesNotApply:
            raise
        except Exception:
            raise DoesNotApply("it cannot play a round, see there") from None

    def repeatable(self) -> Round:
        """A round whose outputs mean something when compared.

        Raises:
            DoesNotApply: another round of the same seeds came out differently.
        """
        first = self.round()
        if first.differs_from(self.round(again=1)):
            raise DoesNotApply("equal seeds give different results already, see there")
        return first
