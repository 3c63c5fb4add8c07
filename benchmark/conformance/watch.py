"""Stands between a game and a plugin: lends copies, and notes what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmark.api import AttackerView, Plugin, Starts
from benchmark.classifier import Classifier
from benchmark.images import ImageSet

#: How many steps of a repair or an inversion are taken.
STEPS = 3

#: Nobody seeds with this himself, so that a seeding shows.
UNUSUAL = 0x5EED_5EED


@dataclass
class Watch:
    """One round of a game, as it is seen by the suite.

    Attributes:
        seed: what torch's global random state is seeded with whenever the plugin begins.
        decoy: whether what the plugin must not know is something else than usual.
        lent: who was lent a tensor, as it was then, and the tensor itself.
        moved: methods that drew from torch's global random state, or seeded it.
        models: the private copies that were handed out.
    """

    seed: int = 0
    decoy: bool = False
    lent: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    models: list[Classifier] = field(default_factory=list)

    @property
    def written(self) -> list[str]:
        """Methods that wrote into what they were lent."""
        return [who for who, before, after in self.lent if not torch.equal(before, after)]

    def over(self, plugin: Plugin, *methods: str) -> None:
        """Watch these methods of `plugin` from now on."""
        for method in methods:
            vars(plugin)[method] = self._watched(method, getattr(plugin, method))

    def _watched(self, who: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self._seeded(who):
                returned = method(*(self._lend(who, argument) for argument in arguments))
            if isinstance(returned, Iterator):
                return self._first_steps(who, returned)
            # Only a guard or a smoothed classifier is a function.
            return self._watched(who, returned) if callable(returned) else returned

        return call

    def _first_steps(self, who: str, steps: Iterator[Any]) -> Iterator[Any]:
        for _ in range(STEPS):
            with self._seeded(who):
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step

    @contextmanager
    def _seeded(self, who: str) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(UNUSUAL + self.seed)
            before = torch.get_rng_state()
            yield
            if not torch.equal(before, torch.get_rng_state()):
                self.moved.append(who)

    def _lend(self, who: str, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            copy = argument.clone()
            self.lent.append((who, argument.clone(), copy))
            return copy
        if isinstance(argument, ImageSet):
            pixels, labels = self._lend(who, argument.pixels), self._lend(who, argument.labels)
            return replace(argument, pixels=pixels, labels=labels)
        if isinstance(argument, Starts):
            images, targets = self._lend(who, argument.images), self._lend(who, argument.targets)
            return replace(argument, images=images, targets=targets)
        if isinstance(argument, AttackerView):
            return replace(argument, auxiliary=self._lend(who, argument.auxiliary))
        if isinstance(argument, Classifier):
            self.models.append(argument)
        return argument
