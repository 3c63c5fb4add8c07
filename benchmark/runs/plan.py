"""From a protocol and what was asked for to the list of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pydantic import ValidationError

from benchmark.api import Attack, CodePoisoningAttack, Defense
from benchmark.protocol import AttackEntry, Protocol, digest
from benchmark.registry import Registry
from benchmark.runs.record import NONE, AttackRef, DefenseRef, StageRef
from benchmark.specs import RegistryError, identity, label, parse

GAME = "robustness"
#: Part of every key; raise it when the meaning of a record changes.
KEY_VERSION = 1
_ORDER = ("sanitize", "repair", "deploy")


@dataclass(frozen=True)
class Victim:
    """A model to be trained.

    Attributes:
        sanitizer: what cleaned its training data, None for the undefended model.
        attack: the attack, of name "none" for a clean model.
    """

    protocol_sha256: str
    recipe: str
    attack: AttackRef
    sanitizer: StageRef | None
    seed: int

    @cached_property
    def key(self) -> str:
        parts = [self.attack.model_dump(exclude={"label"}), self.seed, self.recipe]
        cleaned = self.sanitizer.model_dump(exclude={"label"}) if self.sanitizer else None
        return digest([KEY_VERSION, self.protocol_sha256, *parts, cleaned])

    @property
    def clean(self) -> Victim:
        """The clean model of the same repetition."""
        return replace(self, attack=CLEAN, sanitizer=None)

    def __str__(self) -> str:
        cleaned = f" after {self.sanitizer.label}" if self.sanitizer else ""
        return f"train {self.attack.label}{cleaned}, seed {self.seed}"


@dataclass(frozen=True)
class Cell:
    """The smallest unit of work with a result of its own."""

    victim: Victim
    defense: DefenseRef
    trusted_share: float | None

    @cached_property
    def key(self) -> str:
        stages = [stage.model_dump(exclude={"label"}) for stage in self.defense.stages]
        return digest([KEY_VERSION, GAME, self.victim.key, stages, self.trusted_share])

    @property
    def name(self) -> str:
        """File name without ending: readable, and unique through the key."""
        share = "" if self.trusted_share is None else f"-r{self.trusted_share:g}"
        defense = self.defense.name.replace("+", "-")
        attack = f"{self.victim.attack.name}-m{self.victim.attack.m}"
        return f"{GAME}-{attack}-{defense}{share}-s{self.victim.seed}-{self.key[:12]}"

    def stage(self, stage: str) -> StageRef | None:
        return next((ref for ref in self.defense.stages if ref.stage == stage), None)

    @property
    def sanitized_victim(self) -> Victim | None:
        sanitizer = self.stage("sanitize")
        return replace(self.victim, sanitizer=sanitizer) if sanitizer else None

    def needs(self) -> list[Victim]:
        """Victims in the order in which they must be trained."""
        needed = [self.victim.clean, self.victim]
        if self.sanitized_victim:
            needed.append(self.sanitized_victim)
        return list({victim.key: victim for victim in needed}.values())

    def __str__(self) -> str:
        share = "" if self.trusted_share is None else f", r={self.trusted_share:.1%}"
        attack = f"{self.victim.attack.label} (m={self.victim.attack.m})"
        return f"{attack} vs {self.defense.name}{share}, seed {self.victim.seed}"


CLEAN = AttackRef(label=NONE, name=NONE, version=1, params={}, threat="none", m=0, boost=1)
NO_DEFENSE = DefenseRef(name=NONE, stages=())


def plan(
    protocol: Protocol,
    registry: Registry,
    *,
    attacks: Sequence[str] = (),
    defenses: Sequence[str] = (),
    seeds: int | None = None,
    recipe: str | None = None,
) -> list[Cell]:
    """List the cells to play, every seed's most basic ones first.

    Args:
        attacks: specs as in `Registry.create`; the protocol's grid by default. Settings
            are laid over the protocol's own entry of that name, where it has one; m and
            boost set the number of poisoned images and their boosting.
        defenses: likewise; stages joined by "+" make one pipeline.
        seeds: number of repetitions; the protocol's by default.

    Raises:
        RegistryError: an unknown plugin or parameter.
        ValueError: an unknown recipe, or no repetitions.
    """
    game = protocol.robustness
    chosen = recipe or protocol.recipe
    if chosen not in protocol.recipes:
        raise ValueError(f"unknown recipe {chosen!r}; there are {', '.join(protocol.recipes)}")
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    entries = [_entry(protocol, spec) for spec in attacks] or list(game.attacks)
    attack_refs = [_attack(registry, protocol, entry) for entry in entries]
    pipelines = [_over(game.defenses, spec) for spec in defenses] or list(game.defenses)
    defense_refs = [_defense(registry, pipeline) for pipeline in pipelines]

    cells: list[Cell] = []
    for seed in range(seeds or game.seeds):

        def victim(attack: AttackRef, seed: int = seed) -> Victim:
            return Victim(protocol.sha256, chosen, attack, None, seed)

        cells.append(Cell(victim(CLEAN), NO_DEFENSE, None))
        cells += [Cell(victim(attack), NO_DEFENSE, None) for attack in attack_refs]
        for attack in attack_refs:
            for defense in defense_refs:
                stages = {ref.stage for ref in defense.stages}
                # Whoever owns the training also decides what is trained on.
                if attack.threat == "code" and "sanitize" in stages:
                    continue
                shares = game.shares if stages - {"sanitize"} else (None,)
                cells += [Cell(victim(attack), defense, share) for share in shares]
    return list({cell.key: cell for cell in cells}.values())


def _merge(base: str, spec: str) -> str:
    """Lay the settings of `spec` over those of `base`."""
    name, settings = parse(base)
    new = parse(spec)[1]
    # Another inner plugin does not inherit the settings of the one it replaces.
    kept = {key: value for key, value in settings.items() if key.split(".")[0] not in new}
    return _join(name, kept | new)


def _join(name: str, settings: dict[str, str]) -> str:
    joined = ",".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}:{joined}" if joined else name


def _over(known: Sequence[str], spec: str) -> str:
    """Fill a pipeline's stages with the protocol's settings for them."""
    by_name = {parse(stage)[0]: stage for entry in known for stage in entry.split("+")}
    stages = spec.split("+")
    return "+".join(_merge(by_name.get(parse(stage)[0], stage), stage) for stage in stages)


def _entry(protocol: Protocol, spec: str) -> AttackEntry:
    name, settings = parse(spec)
    numbers = {key: settings.pop(key) for key in ("m", "boost") if key in settings}
    own = _join(name, settings)
    fields: dict[str, object] = {"attack": own}
    for entry in protocol.robustness.attacks:
        if parse(entry.attack)[0] == name:
            fields = entry.model_dump() | {"attack": _merge(entry.attack, own)}
            break
    try:
        return AttackEntry.model_validate(fields | numbers)
    except ValidationError as error:
        first = error.errors()[0]
        raise RegistryError(f"{spec!r}: {first['loc'][0]}: {first['msg'].lower()}") from None


def _attack(registry: Registry, protocol: Protocol, entry: AttackEntry) -> AttackRef:
    attack = registry.create(Attack, entry.attack)
    m = protocol.robustness.default_m[attack.threat] if entry.m is None else entry.m
    if isinstance(attack, CodePoisoningAttack):
        if entry.m:
            raise RegistryError(
                f"{attack.name} owns the training, it poisons no files: m must be 0"
            )
        m = 0
    return AttackRef(
        label=label(attack), threat=attack.threat, m=m, boost=entry.boost, **identity(attack)
    )


def _defense(registry: Registry, pipeline: str) -> DefenseRef:
    found = [registry.create(Defense, spec) for spec in pipeline.split("+")]
    found.sort(key=lambda defense: _ORDER.index(defense.stage))
    if len({defense.stage for defense in found}) < len(found):
        raise RegistryError(f"{pipeline!r}: a pipeline takes one defense per stage")
    stages = tuple(
        StageRef(label=label(defense), stage=defense.stage, **identity(defense))
        for defense in found
    )
    return DefenseRef(name="+".join(stage.name for stage in stages), stages=stages)
