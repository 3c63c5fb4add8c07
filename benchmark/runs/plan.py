"""From a protocol and what was asked for to the list of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.games.all import GAMES, UNDEFENDED, game_of_stage
from benchmark.games.base import Game
from benchmark.games.initial import digest
from benchmark.games.robustness.searches import Chosen, Search, file_name, result
from benchmark.protocol import Protocol, ProtocolError
from benchmark.records.cell import CLEAN, Cell, Tune
from benchmark.registry import Registry
from benchmark.runs.planner import Planner

#: Repetitions; more are a slip of the pen.
MOST_SEEDS = 10_000


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
        ProtocolError: an unknown recipe, no repetitions, a game that the protocol does not have, a
            defense in the section of another game, or weights to start from that cannot be read.
    """
    # The model that defenders search on is reported nowhere.
    most = MOST_SEEDS if protocol.tuning is None else min(MOST_SEEDS, protocol.tuning.suspect)
    if seeds is not None and not 1 <= seeds <= most:
        raise ProtocolError(f"seeds must be from 1 to {most:,} here, got {seeds:,}")
    chosen = _recipe(protocol, recipe)
    init = digest(protocol.recipes[chosen])
    planner = Planner(protocol, registry, chosen, bool(defenses), seeds, tuned or {}, init)
    specs = list(defenses) or list(planner.known_defenses)
    played = {spec: game_of_stage(planner.defense(spec).stages[0].stage) for spec in specs}
    for game in () if defenses else GAMES.values():
        _refuse_misplaced(game, protocol, played)
    cells: list[Cell] = []
    for game in GAMES.values():
        own = [spec for spec in specs if played[spec] is game]
        # Attacks alone are played undefended.
        if not own and (specs or game.name != UNDEFENDED):
            continue
        if game.settings(protocol) is None:
            raise ProtocolError(
                f"{protocol.name} has no {game.name} game, so {own[0].split(':')[0]} cannot be "
                "played"
            )
        cells += game.cells(planner, attacks, own)
    return _by_worth(protocol, list({cell.key: cell for cell in cells}.values()))


def _refuse_misplaced(game: Game[Any], protocol: Protocol, played: Mapping[str, Game[Any]]) -> None:
    """A defense that a protocol names in the section of a game that it does not play."""
    for spec in game.defenses(protocol):
        if (other := played[spec]) is not game:
            raise ProtocolError(
                f"{protocol.name}: {spec} in section {game.name} plays the {other.name} game; move "
                f"it to section {other.name}"
            )


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
        ProtocolError: a repair without a grid, or an unknown recipe.
    """
    settings = protocol.tuning
    grids = {} if settings is None else settings.grids
    unknown = [name for name in defenses if name not in grids]
    if settings is None or unknown or not grids:
        raise ProtocolError(
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


def searched(
    protocol: Protocol, registry: Registry, folder: Path, recipe: str | None = None
) -> list[Search]:
    """The searches in a folder that belong to a protocol and its repairs as they are now.

    Those of repairs that are not installed are left out, as nobody plays them.

    Raises:
        StoreError: a file is not a search.
        ProtocolError: an unknown recipe.
    """
    installed = {entry.plugin.name for entry in registry.entries}
    names = [] if protocol.tuning is None else [n for n in protocol.tuning.grids if n in installed]
    tasks = plan_tuning(protocol, registry, folder, names, recipe) if names else []
    return [found for task in tasks if (found := result(task)) is not None]


def _recipe(protocol: Protocol, recipe: str | None) -> str:
    chosen = recipe or protocol.recipe
    if chosen not in protocol.recipes:
        raise ProtocolError(f"unknown recipe {chosen!r}; there are {', '.join(protocol.recipes)}")
    return chosen
