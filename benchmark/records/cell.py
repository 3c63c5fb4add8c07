"""The units of work: victims to train, cells to play, searches to make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmark.protocol import digest
from benchmark.records.record import NONE, AttackRef, DefenseRef, Record, StageRef

#: Part of every key; raise it when the meaning of a record changes.
KEY_VERSION = 2
#: Letters of a file's name before its ending, of which .sha256 is the longest: 255 in all.
LONGEST = 248


@dataclass(frozen=True)
class Victim:
    """A model to be trained.

    Attributes:
        sanitizer: what cleaned its training data, None for the undefended model.
        attack: the attack, of name "none" for a clean model.
        init: digest of the weights that it starts from, None where they are drawn.
    """

    protocol_sha256: str
    recipe: str
    attack: AttackRef
    sanitizer: StageRef | None
    seed: int
    init: str | None = None

    @cached_property
    def key(self) -> str:
        parts = [self.attack.model_dump(exclude={"label"}), self.seed, self.recipe]
        parts += [] if self.init is None else [self.init]
        cleaned = self.sanitizer.model_dump(exclude={"label"}) if self.sanitizer else None
        return digest([KEY_VERSION, self.protocol_sha256, *parts, cleaned])

    @property
    def clean(self) -> Victim:
        """The clean model of the same repetition."""
        return replace(self, attack=CLEAN, sanitizer=None)

    def __str__(self) -> str:
        cleaned = f" after {self.sanitizer.label}" if self.sanitizer else ""
        return f"train {self.attack}{cleaned}, seed {self.seed}"


@dataclass(frozen=True)
class Cell:
    """The smallest unit of work with a result of its own.

    Attributes:
        game: name of the game that is played; that of undefended models without a defense.
    """

    game: str
    victim: Victim
    defense: DefenseRef
    trusted_share: float | None

    @classmethod
    def of(cls, record: Record) -> Cell:
        """The cell that a record is of, built from what it says."""
        named = record.protocol
        victim = Victim(named.sha256, named.recipe, record.attack, None, record.seed, named.init)
        return cls(record.game, victim, record.defense, record.trusted_share)

    @cached_property
    def key(self) -> str:
        stages = [stage.model_dump(exclude={"label"}) for stage in self.defense.stages]
        return digest([KEY_VERSION, self.game, self.victim.key, stages, self.trusted_share])

    @property
    def row(self) -> str:
        """What all repetitions of a cell have in common."""
        return replace(self, victim=replace(self.victim, seed=0)).key

    @property
    def name(self) -> str:
        """File name without ending: readable, and unique through the key.

        Names of many long plugins are cut.
        """
        share = "" if self.trusted_share is None else f"-r{self.trusted_share:g}"
        defense = self.defense.name.replace("+", "-")
        attack = f"{self.victim.attack.name}-m{self.victim.attack.m}"
        readable = f"{self.game}-{attack}-{defense}{share}-s{self.victim.seed}"
        return f"{readable[: LONGEST - 13]}-{self.key[:12]}"

    def stage(self, stage: str) -> StageRef | None:
        return next((ref for ref in self.defense.stages if ref.stage == stage), None)

    @property
    def sanitized_victim(self) -> Victim | None:
        sanitizer = self.stage("sanitize")
        return replace(self.victim, sanitizer=sanitizer) if sanitizer else None

    @property
    def defended(self) -> Victim:
        """The victim that later stages meet: trained on what a sanitizer left, if there is one."""
        return self.sanitized_victim or self.victim

    def needs(self) -> list[Victim]:
        """Victims in the order in which they must be trained."""
        needed = [self.victim.clean, self.victim]
        if self.sanitized_victim:
            needed.append(self.sanitized_victim)
        return list({victim.key: victim for victim in needed}.values())

    def __str__(self) -> str:
        share = "" if self.trusted_share is None else f", r={self.trusted_share:.1%}"
        return f"{self.victim.attack} vs {self.defense.name}{share}, seed {self.victim.seed}"


@dataclass(frozen=True)
class Tune:
    """A defender's search for the settings of one repair with one trusted share.

    Attributes:
        suspect: a clean model that no board reports, which the defender poisons himself.
        path: where the search is kept once it is complete.
    """

    suspect: Victim
    repair: StageRef
    trusted_share: float
    path: Path

    @property
    def key(self) -> str:
        repair = self.repair.model_dump(exclude={"label"})
        return digest(["tune", self.suspect.key, repair, self.trusted_share])

    def needs(self) -> list[Victim]:
        return [self.suspect]

    def __str__(self) -> str:
        return f"tune {self.repair.name}, r={self.trusted_share:.1%}"


CLEAN = AttackRef(label=NONE, name=NONE, version=1, params={}, threat="none", m=0, boost=1)
NO_DEFENSE = DefenseRef(name=NONE, stages=())
