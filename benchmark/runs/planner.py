"""Makes the cells that games list, from what was asked for and what the protocol says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from benchmark.api import Attack, CodePoisoningAttack, Defense, Repair
from benchmark.games.all import GAMES, UNDEFENDED, game_of_stage
from benchmark.games.detectability.settings import Population
from benchmark.games.robustness.searches import Chosen
from benchmark.games.settings import AttackEntry
from benchmark.hooks import STAGES
from benchmark.protocol import Protocol
from benchmark.records.cell import CLEAN, NO_DEFENSE, Cell, Victim
from benchmark.records.record import AttackRef, DefenseRef, StageRef
from benchmark.records.strict import Refused, check_part
from benchmark.registry import Registry
from benchmark.specs import (
    RegistryError,
    identity,
    joined,
    label,
    merged,
    parameters,
    parse,
    split_at,
    with_settings,
)
from benchmark.texts import first_error

Ref = TypeVar("Ref", AttackRef, DefenseRef)


@dataclass(frozen=True)
class Planner:
    """Makes cells of what was asked for; games list which.

    Attributes:
        typed: whether somebody named the defenses, instead of taking a protocol's own.
        repetitions: how many were asked for; None for a protocol's own.
        tuned: settings that searches found.
        init: digest of the weights that victims start from, None where they are drawn.
    """

    protocol: Protocol
    registry: Registry
    recipe: str
    typed: bool
    repetitions: int | None
    tuned: Chosen
    init: str | None

    @property
    def known_defenses(self) -> tuple[str, ...]:
        """Specs of all defenses that the protocol plays."""
        return tuple(spec for game in GAMES.values() for spec in game.defenses(self.protocol))

    def seeds(self, own: int) -> range:
        """Repetitions to play; a game has `own` of them."""
        return range(self.repetitions or own)

    def victim(self, attack: AttackRef, seed: int) -> Victim:
        return Victim(self.protocol.sha256, self.recipe, attack, None, seed, self.init)

    def undefended(self, attacks: Sequence[AttackRef], seed: int) -> list[Cell]:
        """The clean model's own cell and those of attacks, which all else is compared with."""
        return [
            Cell(UNDEFENDED, self.victim(attack, seed), NO_DEFENSE, None)
            for attack in (CLEAN, *attacks)
        ]

    def attacks(
        self,
        specs: Sequence[str],
        known: Sequence[AttackEntry],
        default: Sequence[AttackEntry] | None = None,
    ) -> list[AttackRef]:
        """Attacks that were asked for, over the protocol's own entries of their names.

        Args:
            default: what is played where nothing was asked for; `known` itself by default.
        """
        entries = [_entry(spec, known) for spec in specs]
        return [self.attack(entry) for entry in entries or (known if default is None else default)]

    def attack(self, entry: AttackEntry) -> AttackRef:
        attack = self.registry.create(Attack, entry.attack)
        m = self.protocol.robustness.default_m[attack.threat] if entry.m is None else entry.m
        if isinstance(attack, CodePoisoningAttack):
            if entry.m or entry.boost != 1:
                raise RegistryError(
                    f"{attack.name} owns the training, it poisons no files: m must be 0, and boost "
                    "1"
                )
            m = 0
        self.registry.build_again(Attack, attack)
        ref = AttackRef(
            label=label(attack), threat=attack.threat, m=m, boost=entry.boost, **identity(attack)
        )
        return _recordable(ref, "attack")

    def sweep(self, spec: str, known: Sequence[Population]) -> list[AttackEntry]:
        """Populations that were asked for: one number m, or the protocol's sweep of it.

        The boost is that of the protocol's own population of m images, or of its grid's attack.
        """
        name, settings = parse(spec)
        own = [population for population in known if parse(population.attack)[0] == name]
        grid = self.protocol.robustness.attacks
        if "m" in settings or not own:
            m = _entry(spec, grid).m
            listed = [entry for population in own for entry in population.entries()]
            return [_entry(spec, [*(entry for entry in listed if entry.m == m), *grid])]
        swept = [population for population in own if population.attack == own[0].attack]
        return [_entry(spec, [entry]) for population in swept for entry in population.entries()]

    def defense(self, spec: str, share: float | None = None) -> DefenseRef:
        """A pipeline, with the protocol's settings under the searches' under those of `spec`.

        Of several entries of one name the first counts; the others are asked for as they stand.
        """
        known = [stage for entry in self.known_defenses for stage in split_at("+", entry)]
        stages = []
        for stage in split_at("+", spec):
            name, asked = parse(stage)
            base = next((one for one in known if parse(one)[0] == name), name)
            over = stage if stage in known else merged(base, stage)
            own = stage == base and not self.typed
            stages.append(self._with_search(over, share, set() if own else set(asked)))
        return self._pipeline("+".join(stages))

    def _with_search(self, spec: str, share: float | None, asked: set[str]) -> str:
        """Lay what a search found over a repair, or over the repair inside a detector.

        Args:
            asked: settings that are left as they are.
        """
        plugin = self.registry.create(Defense, spec)
        inner = {
            f"{field}.": value
            for field in parameters(type(plugin))
            if isinstance(value := getattr(plugin, field), Repair)
        }
        for prefix, repair in {"": plugin, **inner}.items():
            found = {} if share is None else self.tuned.get((repair.name, share), {})
            new = {f"{prefix}{key}": value for key, value in found.items()}
            spec = with_settings(spec, {k: v for k, v in new.items() if k not in asked})
        return spec

    def _pipeline(self, spec: str) -> DefenseRef:
        found = [self.registry.create(Defense, stage) for stage in split_at("+", spec)]
        found.sort(key=lambda defense: STAGES.index(defense.stage))
        if len({defense.stage for defense in found}) < len(found):
            raise RegistryError(f"{spec!r}: a pipeline takes one defense per stage")
        if len({game_of_stage(defense.stage).name for defense in found}) > 1:
            alone = found[-1].name
            raise RegistryError(f"{spec!r}: {alone} plays a game of its own, not in a pipeline")
        for defense in found:
            self.registry.build_again(Defense, defense)
        stages = tuple(
            StageRef(label=label(defense), stage=defense.stage, **identity(defense))
            for defense in found
        )
        ref = DefenseRef(name="+".join(stage.name for stage in stages), stages=stages)
        return _recordable(ref, "defense")


def _recordable(ref: Ref, what: str) -> Ref:
    """Refuse a plugin whose settings no record may hold, before it is played."""
    try:
        check_part(ref, what)
    except Refused as error:
        raise RegistryError(
            f"{ref.name} cannot be recorded: {error.field} {error.reason}"
        ) from None
    return ref


def _entry(spec: str, known: Sequence[AttackEntry]) -> AttackEntry:
    """What `spec` says of an attack, over the game's own entry of that name."""
    name, settings = parse(spec)
    numbers = {key: settings.pop(key) for key in ("m", "boost") if key in settings}
    own = joined(name, settings)
    fields: dict[str, object] = {"attack": own}
    for entry in known:
        if parse(entry.attack)[0] == name:
            fields = entry.model_dump() | {"attack": merged(entry.attack, own)}
            break
    return _validated(spec, fields | numbers)


def _validated(spec: str, fields: dict[str, object]) -> AttackEntry:
    try:
        return AttackEntry.model_validate(fields)
    except ValidationError as error:
        raise RegistryError(
            "{!r}: {}: {}".format(spec, *first_error(error, whole="attack"))
        ) from None
