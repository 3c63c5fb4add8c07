"""From a protocol and what was asked for to the list of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from benchmark.api import Attack, CodePoisoningAttack, Defense, Repair, Stage
from benchmark.games.detectability.settings import Population
from benchmark.games.inversion.settings import Inversion
from benchmark.games.robustness.searches import Chosen, file_name
from benchmark.games.settings import AttackEntry, Setting
from benchmark.protocol import Protocol
from benchmark.records.cell import CLEAN, NO_DEFENSE, Cell, Tune, Victim
from benchmark.records.record import STAGES, AttackRef, DefenseRef, StageRef
from benchmark.registry import Registry
from benchmark.specs import RegistryError, identity, label, parameters, parse


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
        ValueError: an unknown recipe, or no repetitions.
    """
    chosen = _recipe(protocol, recipe)
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    planner = _Planner(protocol, registry, chosen, seeds, tuned or {})
    specs = list(defenses) or list(planner.known_defenses)
    detectors = [spec for spec in specs if planner.first_stage(spec) == "detect"]
    inverters = [spec for spec in specs if planner.first_stage(spec) == "invert"]
    others = [spec for spec in specs if spec not in detectors + inverters]
    cells: list[Cell] = []
    if others or not detectors + inverters:
        cells += planner.robustness(attacks, others)
    if inverters:
        cells += planner.inversion(attacks, inverters)
    if detectors:
        cells += planner.detectability(attacks, detectors)
    return _by_worth(protocol, list({cell.key: cell for cell in cells}.values()))


def _by_worth(protocol: Protocol, cells: Sequence[Cell]) -> list[Cell]:
    """Sort cells so that a run that is stopped early says as much as it can.

    First come all attacks against the repairs that trust the share of images that detectors get
    too: one axis of the fronts. Then the populations, the other axis. Then all the rest. Within
    each, attacks follow one another with all repetitions, so that whole rows are done; what
    repairs cost clean models comes after them. A victim's own cell comes before the first one
    that needs the victim.
    """
    share = _shares(protocol)[0]

    def turn(cell: Cell) -> int:
        if cell.game == "robustness" and cell.stage("repair") and cell.trusted_share == share:
            return 0
        return 1 if cell.game == "detectability" else 2

    turns: dict[str, int] = {}
    for cell in cells:
        if cell.defense.stages:
            for victim in cell.needs():
                turns[victim.key] = min(turns.get(victim.key, 2), turn(cell))
    attacks = list(dict.fromkeys(str(cell.victim.attack) for cell in cells))

    def worth(cell: Cell) -> tuple[int, int]:
        when = turn(cell) if cell.defense.stages else turns.get(cell.victim.key, 0)
        if cell.victim.attack == CLEAN and cell.defense.stages and cell.game == "robustness":
            return when, len(attacks)
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
    planner = _Planner(protocol, registry, _recipe(protocol, recipe), None, {})
    return [
        Tune(
            planner.victim(CLEAN, settings.suspect),
            planner.defense(name).stages[0],
            share,
            folder / file_name(name, share),
        )
        for share in _shares(protocol)
        for name in defenses or grids
    ]


def _shares(protocol: Protocol) -> list[float]:
    """All trusted shares of repairs; the one that detectors get too is played first."""
    detectors = [] if protocol.detectability is None else [protocol.detectability.share]
    return list(dict.fromkeys([*detectors, *protocol.robustness.shares]))


def _recipe(protocol: Protocol, recipe: str | None) -> str:
    chosen = recipe or protocol.recipe
    if chosen not in protocol.recipes:
        raise ValueError(f"unknown recipe {chosen!r}; there are {', '.join(protocol.recipes)}")
    return chosen


@dataclass(frozen=True)
class _Planner:
    protocol: Protocol
    registry: Registry
    recipe: str
    seeds: int | None
    tuned: Chosen

    @property
    def known_defenses(self) -> tuple[str, ...]:
        detectability, inversion = self.protocol.detectability, self.protocol.inversion
        return (
            *self.protocol.robustness.defenses,
            *(detectability.detectors if detectability else ()),
            *(inversion.inverters if inversion else ()),
        )

    def first_stage(self, spec: str) -> Stage:
        return self.defense(spec).stages[0].stage

    def defense(self, spec: str, share: float | None = None) -> DefenseRef:
        """A pipeline, with the protocol's settings under the searches' under those of `spec`.

        Of several entries of one name the first counts; the others are asked for as they stand.
        """
        known = [stage for entry in self.known_defenses for stage in entry.split("+")]
        stages = []
        for stage in spec.split("+"):
            name, asked = parse(stage)
            base = next((one for one in known if parse(one)[0] == name), name)
            merged = stage if stage in known else _merge(base, stage)
            stages.append(self._with_search(merged, share, set(asked)))
        return _defense(self.registry, "+".join(stages))

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

    def victim(self, attack: AttackRef, seed: int) -> Victim:
        return Victim(self.protocol.sha256, self.recipe, attack, None, seed)

    def attack(self, entry: AttackEntry) -> AttackRef:
        return _attack(self.registry, self.protocol, entry)

    def robustness(self, attacks: Sequence[str], defenses: Sequence[str]) -> list[Cell]:
        game = self.protocol.robustness
        entries = [_entry(spec, game.attacks) for spec in attacks] or list(game.attacks)
        refs = [self.attack(entry) for entry in entries]
        cells: list[Cell] = []
        for seed in range(self.seeds or game.seeds):
            cells += self.undefended([CLEAN, *refs], seed)
            # A clean model tells what a defense costs whoever was not attacked.
            for attack in [CLEAN, *refs]:
                for spec in defenses:
                    stages = {ref.stage for ref in self.defense(spec).stages}
                    # Whoever owns the training also decides what is trained on.
                    if attack.threat == "code" and "sanitize" in stages:
                        continue
                    shares = game.shares if stages - {"sanitize"} else (None,)
                    victim = self.victim(attack, seed)
                    cells += [Cell(victim, self.defense(spec, share), share) for share in shares]
        return cells

    def detectability(self, attacks: Sequence[str], detectors: Sequence[str]) -> list[Cell]:
        game = self.protocol.detectability
        if game is None:
            raise ValueError(
                f"{self.protocol.name} has no detectability game, so no detector can be played"
            )
        if attacks:
            entries = [entry for spec in attacks for entry in _entries(self.protocol, spec)]
        else:
            entries = [entry for population in game.attacks for entry in _sweep(population)]
        refs = [CLEAN, *map(self.attack, entries)]
        defenses = [self.defense(spec, game.share) for spec in detectors]
        cells: list[Cell] = []
        for seed in range(self.seeds or game.models):
            cells += self.undefended(refs, seed)
            cells += [
                Cell(self.victim(attack, seed), detector, game.share)
                for attack in refs
                for detector in defenses
            ]
        return cells

    def inversion(self, attacks: Sequence[str], inverters: Sequence[str]) -> list[Cell]:
        game = self.protocol.inversion
        if game is None:
            raise ValueError(
                f"{self.protocol.name} has no inversion game, so no inverter can be played"
            )
        known = (*game.attacks, *self.protocol.robustness.attacks)
        entries = [_entry(spec, known) for spec in attacks] or list(game.attacks)
        refs = [self.attack(entry) for entry in entries]
        defenses = [self._inverter(spec, game) for spec in inverters]
        cells: list[Cell] = []
        for seed in range(self.seeds or game.models):
            cells += self.undefended([CLEAN, *refs], seed)
            cells += [
                Cell(self.victim(attack, seed), inverter, None)
                for attack in refs
                for inverter in defenses
            ]
        return cells

    def _inverter(self, spec: str, game: Inversion) -> DefenseRef:
        """An inverter alone, whose configurations the protocol sets and nobody else."""
        name, asked = parse(spec)
        grid = game.configurations.get(name, {})
        swept = sorted(asked.keys() & grid.keys())
        # What the protocol itself sets there is for the run over all classes.
        if swept and spec not in game.inverters:
            raise RegistryError(
                f"{spec!r}: {swept[0]} is what {self.protocol.name} takes the best of, it cannot "
                "be set"
            )
        found = self.defense(spec)
        # A mistake in the protocol's configurations shows before anything is played.
        for key, values in grid.items():
            for value in values:
                self.registry.create(Defense, with_settings(found.stages[0].label, {key: value}))
        return found

    def undefended(self, attacks: Sequence[AttackRef], seed: int) -> list[Cell]:
        return [Cell(self.victim(attack, seed), NO_DEFENSE, None) for attack in attacks]


def _sweep(population: Population) -> list[AttackEntry]:
    return [
        AttackEntry(attack=population.attack, m=m, boost=population.boost) for m in population.m
    ]


def _entries(protocol: Protocol, spec: str) -> list[AttackEntry]:
    """What a population is asked for by `spec`: one number m, or the protocol's sweep of it."""
    name, settings = parse(spec)
    assert protocol.detectability is not None
    known = [entry for entry in protocol.detectability.attacks if parse(entry.attack)[0] == name]
    if "m" in settings or not known:
        return [_entry(spec, protocol.robustness.attacks)]
    own = _join(name, {key: value for key, value in settings.items() if key != "boost"})
    chosen = known[0].model_copy(update={"attack": _merge(known[0].attack, own)})
    return [
        _validated(spec, entry.model_dump() | {k: v for k, v in settings.items() if k == "boost"})
        for entry in _sweep(chosen)
    ]


def with_settings(spec: str, values: Mapping[str, Setting]) -> str:
    """Lay numbers and names over the settings of a spec."""
    name, settings = parse(spec)
    written = {
        key: value if isinstance(value, str) else f"{value:.12g}" for key, value in values.items()
    }
    return _join(name, settings | written)


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


def _entry(spec: str, known: Sequence[AttackEntry]) -> AttackEntry:
    """What `spec` says of an attack, over the game's own entry of that name."""
    name, settings = parse(spec)
    numbers = {key: settings.pop(key) for key in ("m", "boost") if key in settings}
    own = _join(name, settings)
    fields: dict[str, object] = {"attack": own}
    for entry in known:
        if parse(entry.attack)[0] == name:
            fields = entry.model_dump() | {"attack": _merge(entry.attack, own)}
            break
    return _validated(spec, fields | numbers)


def _validated(spec: str, fields: dict[str, object]) -> AttackEntry:
    try:
        return AttackEntry.model_validate(fields)
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
    found.sort(key=lambda defense: STAGES.index(defense.stage))
    if len({defense.stage for defense in found}) < len(found):
        raise RegistryError(f"{pipeline!r}: a pipeline takes one defense per stage")
    if len(found) > 1 and (last := found[-1].stage) in ("detect", "invert"):
        what = "a detector" if last == "detect" else "an inverter"
        raise RegistryError(f"{pipeline!r}: {what} plays alone, not in a pipeline")
    stages = tuple(
        StageRef(label=label(defense), stage=defense.stage, **identity(defense))
        for defense in found
    )
    return DefenseRef(name="+".join(stage.name for stage in stages), stages=stages)
