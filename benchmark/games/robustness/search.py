"""Runs a defender's search over a repair's grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Defense, Repair
from benchmark.games.experiment import Progress
from benchmark.games.robustness.searches import Left, Search, Trial
from benchmark.games.robustness.tuning import CannotPoison, self_poison
from benchmark.games.settings import Setting
from benchmark.records.cell import Tune
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

    journal = context.setup.root / "artifacts" / "tuning" / f"{tune.key[:32]}.journal"
    return found(
        poisonings=tuple(own.poisoning for own in backdoors),
        trials=search_grid(settings.grids[tune.repair.name], try_point, journal, progress),
    )


def search_grid(
    grid: Mapping[str, tuple[Setting, ...]],
    try_point: Callable[[dict[str, Setting]], tuple[Left, ...]],
    journal: Path,
    progress: Callable[[int, int], None],
) -> tuple[Trial, ...]:
    """Try every point of a grid, in the order of the grid; a killed search continues.

    Args:
        journal: where finished points are kept until all are done.
    """
    import optuna  # it takes a second, which boards need not wait for
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    space = {name: list(values) for name, values in grid.items()}
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        sampler=optuna.samplers.GridSampler(space, seed=0),
        study_name="grid",
        load_if_exists=True,
    )
    points = math.prod(map(len, space.values()))

    def objective(trial: optuna.Trial) -> float:
        params: dict[str, Any] = {
            name: trial.suggest_categorical(name, values) for name, values in space.items()
        }
        tried = Trial(params=params, left=try_point(params))
        trial.set_user_attr("trial", tried.model_dump_json())
        return tried.asr

    def finished() -> dict[tuple[Setting, ...], Trial]:
        done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        trials = [Trial.model_validate_json(trial.user_attrs["trial"]) for trial in done]
        return {tuple(trial.params.values()): trial for trial in trials}

    while len(done := finished()) < points:
        progress(len(done), points)
        study.optimize(objective, n_trials=1)
    journal.unlink()
    return tuple(done[key] for key in sorted(done, key=repr))
