"""The plugin under examination, the rounds that it plays, and what it does in them."""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch
from torch import Generator, Tensor

from benchmark.api import AttackerView, Plugin, Starts
from benchmark.classifier import Classifier
from benchmark.conformance import tiny
from benchmark.errors import UserError
from benchmark.images import ImageSet
from benchmark.registry import Entry, Registry

#: How many steps of a repair or an inversion are taken.
STEPS = 3

#: An unlikely seed: if a plugin calls torch.manual_seed, the state differs from it.
UNUSUAL = 0x5EED_5EED

#: Sums in another order are no dependence: so much of a batch may differ by so little.
AGREEING, TOLERANCE = 0.99, 1 / 255


class ConformanceError(UserError, AssertionError):
    """A plugin that breaks a rule, in one sentence that says what to do."""


class DoesNotApply(SkipTest):
    """A check that says nothing about this plugin, and why; pytest shows it as skipped."""


@dataclass
class Watch:
    """Stands between a game and a plugin: lends copies, and notes what becomes of them.

    Attributes:
        seed: what torch's global random state is seeded with whenever the plugin begins.
        decoy: whether what the plugin must not know is something else than usual.
        lent: who was lent a tensor, as it was then, and the tensor itself.
        moved: methods that drew from torch's global random state, or seeded it.
        models: the private copies that were handed out.
        begun: what takes steps; kept, since what nobody holds any more is stopped.
        printed: what came out of the round as text.
    """

    seed: int = 0
    decoy: bool = False
    lent: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    models: list[Classifier] = field(default_factory=list)
    begun: list[Iterator[Any]] = field(default_factory=list)
    printed: str = ""

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
        self.begun.append(steps)
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
        for kind, names in _LENT.items():
            if isinstance(argument, kind):
                copies = {name: self._lend(who, getattr(argument, name)) for name in names}
                return replace(argument, **copies)
        if isinstance(argument, Classifier):
            self.models.append(argument)
        return argument


#: What has tensors in it that a plugin must not write into.
_LENT: dict[type[Any], tuple[str, ...]] = {
    ImageSet: ("pixels", "labels"),
    Starts: ("images", "targets"),
    AttackerView: ("auxiliary",),
}

#: Plays one round of a plugin's game, and returns what came out of it, by name.
Play = Callable[[Any, Watch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Round:
    """What came out of a round, and what the plugin did to what it was lent."""

    plugin: Any
    outputs: dict[str, Tensor]
    watch: Watch

    def differs_from(self, other: Round) -> str | None:
        """The first output that is not bit for bit the same, None where all are."""
        for name in self.outputs | other.outputs:
            one, another = self.outputs.get(name), other.outputs.get(name)
            if one is None or another is None or not same(one, another):
                return name
        return None


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
            plugin, watch, out = self.create(), Watch(seed, decoy), io.StringIO()
            try:
                # A warning is none of its words.
                with (
                    warnings.catch_warnings(action="ignore"),
                    redirect_stdout(out),
                    redirect_stderr(out),
                ):
                    outputs = dict(self.play(plugin, watch))
                watch.printed = out.getvalue()
                self._rounds[key] = Round(plugin, outputs, watch)
            except Exception as error:
                self._rounds[key] = error
        found = self._rounds[key]
        if isinstance(found, Exception):
            raise found
        return found

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

    def told(self, error: Exception) -> str:
        """What was raised, with the last line of the plugin's own files that it came through."""
        module, place = sys.modules[self.entry.plugin.__module__], ""
        package = (module.__package__ or "").partition(".")[0]
        # A single file may lie beside anything, such as this package or an environment.
        own = Path(sys.modules[package or module.__name__].__file__ or "")
        for frame in traceback.extract_tb(error.__traceback__):
            file = Path(frame.filename)
            if file == own or (package and file.is_relative_to(own.parent)):
                place = f" ({file.name}, line {frame.lineno})"
        return f"{type(error).__name__}: {error}{place}"

    def repeatable(self) -> Round:
        """A round whose outputs mean something when compared.

        Raises:
            DoesNotApply: another round of the same seeds came out differently.
        """
        first = self.round()
        if first.differs_from(self.round(again=1)):
            raise DoesNotApply("equal seeds give different results already, see there")
        return first


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, NaN being equal to itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_floating_point():
        return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return torch.equal(a, b)


def depends_on_others(
    begin: Callable[[Generator], Callable[[Tensor], Tensor]], images: Tensor, alone: bool = True
) -> bool:
    """Whether the results of one half of the images change with the other half.

    The other half is exchanged, which takes no random number more or less and so must not
    change a bit; and, where nothing is drawn, each half is asked for alone.

    Args:
        begin: is called with equal seeds every time, and returns what turns images
            (B, C, H, W) into results (B, …).
        alone: whether a half can be asked for alone at all.
    """
    drew = not alone

    def ask(images: Tensor) -> Tensor:
        nonlocal drew
        rng = tiny.experiment().rng("batches")
        method, before = begin(rng), rng.get_state()
        results = method(images).detach()
        drew |= not torch.equal(before, rng.get_state())
        return results

    first, second = images.chunk(2)
    whole, exchanged = ask(images), ask(torch.cat([first, 1 - second]))
    if not same(whole[: len(first)], exchanged[: len(first)]):
        return True
    if drew:
        return False
    halves = torch.cat([ask(first), ask(second)])
    return torch.isclose(whole, halves, rtol=0, atol=TOLERANCE).float().mean().item() < AGREEING
