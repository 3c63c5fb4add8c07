"""The rules that every plugin is held to, as checks that can be run one by one.

In a plugin's own tests::

    @pytest.mark.parametrize("check", checks("my-attack:steps=20"), ids=str)
    def test_conformance(check: Check) -> None:
        check()

Plugins play on a tiny embedded protocol, through the very code of the games.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

import torch

from benchmark import api
from benchmark.conformance import attacks, defenses, materials, plugins
from benchmark.conformance.subject import ConformanceError, DoesNotApply, Play, Subject
from benchmark.registry import Registry
from benchmark.specs import RegistryError, parse
from benchmark.texts import did_you_mean

__all__ = ["Check", "ConformanceError", "DoesNotApply", "checks"]

Examine = Callable[[Subject], None]

_ALL: tuple[Examine, ...] = (
    plugins.version, plugins.summary, plugins.settings, plugins.round_trip, plugins.cheap_to_list,
    plugins.plays, plugins.quiet, plugins.deterministic,
)  # fmt: skip
_METHODS: tuple[Examine, ...] = (plugins.source, plugins.inputs, plugins.own_randomness)
_ATTACKS: tuple[Examine, ...] = (attacks.state, attacks.batches, attacks.eight_bits)
_REPAIRS: tuple[Examine, ...] = (defenses.finite, defenses.changes, defenses.stops, defenses.ends)
_DETECTORS: tuple[Examine, ...] = (defenses.told_nothing, defenses.same_readings)
_INVERTERS: tuple[Examine, ...] = (defenses.inverts_one_by_one, defenses.hashes)

#: How each kind plays a round, and what it has to hold besides.
_KINDS: dict[type[api.Plugin], tuple[Play, tuple[Examine, ...]]] = {
    api.PoisoningAttack: (attacks.play, _METHODS + _ATTACKS),
    api.CodePoisoningAttack: (attacks.play, (*_METHODS, *_ATTACKS, attacks.trains)),
    api.Sanitizer: (defenses.play_sanitizer, _METHODS),
    api.Repair: (defenses.play_repair, _METHODS + _REPAIRS),
    api.Deployment: (defenses.play_deployment, (*_METHODS, defenses.guards_one_by_one)),
    api.Detector: (defenses.play_detector, _METHODS + _DETECTORS),
    api.Inverter: (defenses.play_inverter, _METHODS + _INVERTERS),
    api.Dataset: (materials.play_dataset, ()),
    api.Architecture: (materials.play_architecture, ()),
}


@dataclass(frozen=True)
class Check:
    """One rule, to be held by one plugin."""

    subject: Subject
    examine: Examine

    def __str__(self) -> str:
        return self.examine.__name__.replace("_", "-")

    @property
    def rule(self) -> str:
        """The rule in one sentence."""
        return inspect.getdoc(self.examine) or ""

    def __call__(self) -> None:
        """Examine the plugin, on one thread of the CPU.

        Raises:
            ConformanceError: the plugin breaks the rule; one sentence that says what to do.
            DoesNotApply: the rule says nothing about this plugin; a `unittest.SkipTest`.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self.examine(self.subject)
        except (ConformanceError, SkipTest):
            raise
        except Exception as error:
            raise ConformanceError(
                f"{self.subject.told(error)}; the plugin raised this, where it should not"
            ) from error
        finally:
            torch.set_num_threads(threads)


def checks(spec: str, registry: Registry | None = None) -> list[Check]:
    """All checks that apply to a plugin.

    Args:
        spec: its name, or ``name:field=value,…`` with settings, such as fewer steps.
        registry: where it is looked up; what is installed by default.

    Raises:
        RegistryError: no such plugin or setting, two plugins of that name, or a file of the
            registry that could not be loaded.
    """
    registry = Registry() if registry is None else registry
    for failure in registry.failures:
        if Path(failure.origin) in registry.paths:  # else one that is installed might be examined
            raise RegistryError(f"{failure.origin} could not be loaded: {failure.error}")
    name, _ = parse(spec)
    entries = {entry.kind: entry for entry in registry.entries if entry.plugin.name == name}
    if not entries:
        names = {entry.plugin.name for entry in registry.entries}
        broken = "".join(f"; {f.name} could not be loaded: {f.error}" for f in registry.failures)
        hint = did_you_mean(name, names) or "; see poisongames plugins"
        raise RegistryError(f"no plugin is named {name!r}{hint}{broken}")
    found = []
    for kind, entry in entries.items():
        registry.create(kind, spec)  # which refuses a name that two have
        play, special = next(how for base, how in _KINDS.items() if issubclass(entry.plugin, base))
        subject = Subject(spec, entry, registry, play)
        found += [Check(subject, examine) for examine in (*_ALL, *special)]
    return found
