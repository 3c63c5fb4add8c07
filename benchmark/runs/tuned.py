"""What defenders found when they searched for their settings: one file per repair and share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.runs.record import ProtocolRef, Rate
from benchmark.runs.store import StoreError, write_whole

#: The chosen settings by name of the repair and trusted share.
Chosen = Mapping[tuple[str, float], Mapping[str, float]]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Left(_Part):
    """Own trigger's ASR and clean accuracy on the held-out trusted images."""

    asr: Rate
    cda: Rate


def mean_left(models: Sequence[Left]) -> tuple[float, float]:
    """Mean ASR and clean accuracy over self-poisoned models."""
    asr = sum(left.asr.counts.value for left in models) / len(models)
    return asr, sum(left.cda.counts.value for left in models) / len(models)


class Trial(_Part):
    """What a repair with these settings left within budget, on every self-poisoned model."""

    params: dict[str, float]
    left: tuple[Left, ...]

    @property
    def asr(self) -> float:
        return mean_left(self.left)[0]

    @property
    def cda(self) -> float:
        return mean_left(self.left)[1]


class Search(_Part):
    """A whole grid and what it was tried on; see `benchmark.protocol.Tuning`."""

    protocol: ProtocolRef
    defense: str
    version: int
    trusted_share: float
    before: tuple[Left, ...]
    trials: Annotated[tuple[Trial, ...], Field(min_length=1)]

    @property
    def best(self) -> Trial:
        """The lowest ASR; of equals the most accurate, and then the first."""
        return min(self.trials, key=lambda trial: (trial.asr, -trial.cda))

    def save(self, path: Path) -> None:
        write_whole(path, (self.model_dump_json(indent=1) + "\n").encode())


def file_name(defense: str, share: float) -> str:
    return f"{defense}-r{share:g}.json"


def load(folder: Path) -> list[Search]:
    """All searches in a folder, in the order of their names; none where it does not exist.

    Raises:
        StoreError: a file is not a search.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(Search.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            first = error.errors()[0]
            raise StoreError(
                f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            ) from None
    return found


def chosen(folder: Path) -> dict[tuple[str, float], dict[str, float]]:
    """The winners of all searches in a folder."""
    return {(found.defense, found.trusted_share): found.best.params for found in load(folder)}


def copy_searches(folder: Path, run: Path) -> None:
    """Put the searches that a run's settings come from beside its records."""
    for path in sorted(folder.glob("*.json")):
        (run / "tuning").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, run / "tuning" / path.name)


def search_grid(
    grid: Mapping[str, tuple[float, ...]],
    try_point: Callable[[dict[str, float]], tuple[Left, ...]],
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
    points = 1
    for values in space.values():
        points *= len(values)

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_categorical(name, values) for name, values in space.items()}
        tried = Trial(params=params, left=try_point(params))
        trial.set_user_attr("trial", tried.model_dump_json())
        return tried.asr

    def finished() -> dict[tuple[float, ...], Trial]:
        done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        trials = [Trial.model_validate_json(trial.user_attrs["trial"]) for trial in done]
        return {tuple(trial.params.values()): trial for trial in trials}

    while len(done := finished()) < points:
        progress(len(done), points)
        study.optimize(objective, n_trials=1)
    journal.unlink()
    return tuple(done[key] for key in sorted(done))
