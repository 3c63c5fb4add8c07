"""From a protocol and what was asked for to the list of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from benchmark.api import Attack, CodePoisoningAttack, Defense, Repair
from benchmark.games.all import GAMES, UNDEFENDED, game_of_stage
from benchmark.games.detectability.settings import Population
from benchmark.games.initial import digest
from benchmark.games.robustness.searches import Chosen, file_name
from benchmark.games.settings import AttackEntry
from benchmark.hooks import STAGES
from benchmark.protocol import Protocol
from benchmark.records.cell import CLEAN, NO_DEFENSE, Cell, Tune, Victim
from benchmark.records.record import AttackRef, DefenseRef, StageRef
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


def plan(
    protocol: Protocol,
    registry: Registry,
    *,
    attacks: Sequence[str] = (),
    defenses: Sequence[str] = (),
    seeds: int | None = None,
    recipe: str | None = None,
    tuned: Chosen | None = None,
) -> list[Cell]:
    """List the cells to play, those that say most first; see `_by_worth`.

    Args:
        attacks: specs as in `Registry.create`; the protocol's grid by default. Settings
            are laid over the protocol's own entry of that name, where it has one; m and
            boost set the number of poisoned images and their boosting.
        defenses: likewise; stages joined by "+" make one pipeline.
        seeds: number of repetitions; the protocol's by default.
        tuned: settings that searches found; they are laid over the protocol's own, and
            those of `defenses` over both.

    Raises:
        RegistryError: an unknown plugin or parameter.
        ValueError: an unknown recipe, no repetitions, a game that the protocol does not have, or
            weights to start from that cannot be read.
    """
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    chosen = _recipe(protocol, recipe)
    init = digest(protocol.recipes[chosen])
    planner = Planner(protocol, registry, chosen, bool(defenses), seeds, tuned or {}, init)
    specs = list(defenses) or list(planner.known_defenses)
    played = {spec: game_of_stage(planner.defense(spec).stages[0].stage) for spec in specs}
    cells: list[Cell] = []
    for game in GAMES.values():
        own = [spec for spec in specs if played[spec] is game]
        # Attacks alone are played undefended.
        if not own and (specs or game.name != UNDEFENDED):
            continue
        if game.settings(protocol) is None:
            raise ValueError(
                f"{protocol.name} has no {game.name} game, so {own[0].split(':')[0]} cannot be "
                "played"
            )
        cells += game.cells(planner, attacks, own)
    return _by_worth(protocol, list({cell.key: cell for cell in cells}.values()))


def _by_worth(protocol: Protocol, cells: Sequence[Cell]) -> list[Cell]:
    """Sort cells so that a run that is stopped early says as much as it can.

    Games say which of their cells have the first turn. Within a turn, attacks follow one another
    with all repetitions, so that whole rows are done; what repairs cost clean models comes after
    them. A victim's own cell comes before the first one that needs the victim.
    """

    def turn(cell: Cell) -> int:
        return GAMES[cell.game].turn(cell, protocol)

    turns: dict[str, int] = {}
    for cell in cells:
        if cell.defense.stages:
            for victim in cell.needs():
                turns[victim.key] = min(turns.get(victim.key, 2), turn(cell))
    attacks = list(dict.fromkeys(str(cell.victim.attack) for cell in cells))

    def worth(cell: Cell) -> tuple[int, int]:
        if not cell.defense.stages:
            when = turns.get(cell.victim.key, 0)
        elif cell.victim.attack == CLEAN and cell.game == UNDEFENDED:
            return turn(cell), len(attacks)
        else:
            when = turn(cell)
        return when, attacks.index(str(cell.victim.attack))

    return sorted(cells, key=worth)


def plan_tuning(
    protocol: Protocol,
    registry: Registry,
    folder: Path,
    defenses: Sequence[str] = (),
    recipe: str | None = None,
) -> list[Tune]:
    """List the searches of a protocol's repairs, one per trusted share, in the order of a run.

    Args:
        folder: where they are kept.
        defenses: names of repairs; all that the protocol has a grid for by default.

    Raises:
        ValueError: a repair without a grid, or an unknown recipe.
    """
    settings = protocol.tuning
    grids = {} if settings is None else settings.grids
    unknown = [name for name in defenses if name not in grids]
    if settings is None or unknown or not grids:
        raise ValueError(
            f"{protocol.name} has no grid for {', '.join(unknown) or 'any repair'}; "
            f"there are {', '.join(grids) or 'none'}"
        )
    chosen = _recipe(protocol, recipe)
    init = digest(protocol.recipes[chosen])
    planner = Planner(protocol, registry, chosen, False, None, {}, init)
    return [
        Tune(
            planner.victim(CLEAN, settings.suspect),
            planner.defense(name).stages[0],
            share,
            folder / file_name(name, share),
        )
        for share in protocol.shares
        for name in defenses or grids
    ]


def _recipe(protocol: Protocol, recipe: str | None) -> str:
    chosen = recipe or protocol.recipe
    if chosen not in protocol.recipes:
        raise ValueError(f"unknown recipe {chosen!r}; there are {', '.join(protocol.recipes)}")
    return chosen


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
            if entry.m:
                raise RegistryError(
                    f"{attack.name} owns the training, it poisons no files: m must be 0"
                )
            m = 0
        return AttackRef(
            label=label(attack), threat=attack.threat, m=m, boost=entry.boost, **identity(attack)
        )

    def sweep(self, spec: str, known: Sequence[Population]) -> list[AttackEntry]:
        """A population that was asked for: one number m, or the protocol's sweep of it."""
        name, settings = parse(spec)
        own = [entry for entry in known if parse(entry.attack)[0] == name]
        if "m" in settings or not own:
            return [_entry(spec, self.protocol.robustness.attacks)]
        boost = {"boost": settings.pop("boost")} if "boost" in settings else {}
        chosen = own[0].model_copy(update={"attack": merged(own[0].attack, joined(name, settings))})
        return [_validated(spec, entry.model_dump() | boost) for entry in chosen.entries()]

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
        stages = tuple(
            StageRef(label=label(defense), stage=defense.stage, **identity(defense))
            for defense in found
        )
        return DefenseRef(name="+".join(stage.name for stage in stages), stages=stages)


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
        first = error.errors()[0]
        raise RegistryError(f"{spec!r}: {first['loc'][0]}: {first['msg'].lower()}") from None
