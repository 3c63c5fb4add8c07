"""Runs a defender's search over a repair's grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.api import Defense, Repair
from benchmark.games.experiment import Progress
from benchmark.games.robustness.searches import Left, Search, Trial
from benchmark.games.robustness.tuning import CannotPoison, self_poison
from benchmark.games.settings import Setting
from benchmark.records.cell import Tune
from benchmark.records.files import sha256, write_whole
from benchmark.records.record import ProtocolRef
from benchmark.specs import with_settings

if TYPE_CHECKING:
    from benchmark.runs.context import RunContext


def search(context: RunContext, tune: Tune, progress: Progress) -> Search:
    """Try a repair with every setting of its grid on models that the defender poisons himself.

    Args:
        progress: called with (points done, points in all).

    Where self-poisoning costs too much, or the backdoor does not take, the search says so.
    """
    experiment, protocol, share = context.experiment, context.setup.protocol, tune.trusted_share
    settings, suspect = protocol.tuning, context.load(tune.suspect)
    assert settings is not None
    found = partial(
        Search,
        protocol=ProtocolRef.of(protocol, tune.suspect),
        defense=tune.repair.name,
        version=tune.repair.version,
        trusted_share=share,
        suspect=settings.suspect,
    )
    try:
        backdoors = [
            self_poison(
                experiment,
                suspect,
                experiment.trusted(share, settings.suspect, draw),
                settings,
                experiment.rng("self-poison", share, draw),
            )
            for draw in range(settings.draws)
        ]
    except CannotPoison as error:
        return found(poisonings=(), trials=(), impossible=str(error))

    def try_point(params: dict[str, Setting]) -> tuple[Left, ...]:
        repair = context.registry.create(Defense, with_settings(tune.repair.label, params))
        assert isinstance(repair, Repair)
        return tuple(
            own.try_repair(experiment, repair, "tune", repair.name, share, draw)
            for draw, own in enumerate(backdoors)
        )

    kept = kept_points(context.setup.root, tune)
    return found(
        poisonings=tuple(own.poisoning for own in backdoors),
        trials=search_grid(settings.grids[tune.repair.name], try_point, kept, progress),
    )


def kept_points(run: Path, tune: Tune) -> Path:
    """The file of a run that keeps the points of a search until the search is saved."""
    return run / "artifacts" / "tuning" / f"{tune.key[:32]}.jsonl"


def search_grid(
    grid: Mapping[str, tuple[Setting, ...]],
    try_point: Callable[[dict[str, Setting]], tuple[Left, ...]],
    kept: Path,
    progress: Callable[[int, int], None],
) -> tuple[Trial, ...]:
    """Try every point of a grid, in the order of the grid; a killed search goes on where it was.

    Args:
        kept: where finished points are, one a line: a digest, a space, a JSON text. What follows a
            damaged line is tried again.
    """
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    lines = kept.read_text(errors="replace").splitlines() if kept.is_file() else []
    whole = takewhile(lambda line: line == _with_digest(line.partition(" ")[2]), lines)
    trials = [Trial.model_validate_json(line.partition(" ")[2]) for line in whole]
    for number in range(len(trials), len(points)):
        progress(number, len(points))
        trials.append(Trial(params=points[number], left=try_point(points[number])))
        done = (_with_digest(one.model_dump_json()) for one in trials)
        write_whole(kept, "\n".join(done).encode())
    return tuple(trials)


def _with_digest(line: str) -> str:
    return f"{sha256(line.encode())} {line}"
