"""What a worker does: train one victim, play one cell, make one search."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmark.games.all import GAMES
from benchmark.games.experiment import Progress
from benchmark.games.robustness.search import kept_points, search
from benchmark.records.cell import Cell, Tune, Victim
from benchmark.records.files import StoreError, remove
from benchmark.records.record import Cost, Error, ProtocolRef
from benchmark.records.saved_victims import DamagedVictim
from benchmark.runs import report, victim_training
from benchmark.runs.context import RunContext
from benchmark.runs.executor import Ended, Job


class Worker(RunContext):
    """Trains victims and plays cells of one protocol, and saves what comes of it."""

    def work(self, job: Job, progress: Progress) -> Ended:
        """Play a task, or record why it cannot be played."""
        task = job.task
        try:
            if isinstance(task, Victim):
                return Ended(self.train_victim(task, progress))
            if isinstance(task, Tune):
                return Ended(self.tune(task, progress))
            if job.error is not None:
                return Ended(self.fail_cell(task, job.error))
            return Ended(self.play_cell(task, progress))
        except StoreError as error:
            return Ended(trouble=str(error), unwritten=error.size)
        except DamagedVictim as error:
            return Ended(damaged=error.key)

    def train_victim(
        self, victim: Victim, progress: Progress = lambda done, total: None
    ) -> Error | None:
        """Train, save and measure a victim, unless that is done already.

        Returns:
            What the attack or the sanitizer raised.
        """
        if self.store.victims.has(victim.key):
            return None
        return _failure(lambda: victim_training.train(self, victim, progress))

    def play_cell(self, cell: Cell, progress: Progress = lambda done, total: None) -> Error | None:
        """Play a cell whose victims are trained, and save its record.

        Returns:
            What a plugin raised; the record then says that the cell failed.
        """
        started = time.perf_counter()
        if self.experiment.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.experiment.device)
        error = _failure(lambda: self._play(cell, progress, started))
        return error and self.fail_cell(cell, error, time.perf_counter() - started)

    def _play(self, cell: Cell, progress: Progress, started: float) -> None:
        """Play, score, save; the record comes last, since it says that the cell is done."""
        game = GAMES[cell.game]
        played = game.play(self, cell, progress)
        numbers = game.score(played.evidence, played.extra, self.setup.protocol)
        files = {"evidence": self.store.save_evidence(cell.name, played.evidence)}
        if played.picture is not None:
            files["picture"] = self.store.save_picture(cell.name, played.picture)
        facts = self.store.victims.facts(cell.defended.key)
        record = game.record(
            **self._common(cell, time.perf_counter() - started, facts, played.seconds),
            **{"victim_sha256": facts["model_sha256"], **numbers, **played.fields, **files},
            status="invalid" if played.reason else "ok",
            reason=played.reason,
        )
        self.store.save_record(cell.name, record)

    def fail_cell(self, cell: Cell, error: Error, seconds: float = 0.0) -> Error:
        """Record that a cell could not be played, and why."""
        common = self._common(cell, seconds)
        record = GAMES[cell.game].record(**common, status="failed", error=error)
        self.store.save_record(cell.name, record)
        return error

    def _common(
        self,
        cell: Cell,
        seconds: float,
        facts: dict[str, Any] | None = None,
        defense_seconds: float | None = None,
    ) -> dict[str, Any]:
        """What the records of all games say.

        Args:
            seconds: wall-clock time of the cell.
            facts: those that were saved with the victim, where it could be trained.
            defense_seconds: what the defense took of them.
        """
        victim, device = cell.victim, self.experiment.device
        return {
            "key": cell.key,
            "protocol": ProtocolRef.of(self.setup.protocol, victim),
            "attack": victim.attack,
            "defense": cell.defense,
            "trusted_share": cell.trusted_share,
            "seed": victim.seed,
            "target": self.experiment.target(victim.seed),
            "data_sha256": self.data_sha256,
            "cost": Cost(
                seconds=round(seconds, 3),
                defense_seconds=None if defense_seconds is None else round(defense_seconds, 3),
                victim_seconds=None if facts is None else round(facts["seconds"], 3),
                peak_memory_mb=round(report.peak_memory_mb(device), 1),
                device=report.device_name(device),
            ),
            "env": report.environment(),
        }

    def tune(self, tune: Tune, progress: Progress = lambda done, total: None) -> Error | None:
        """Search a repair's grid, and save the search once it is complete.

        Returns:
            What the repair raised.
        """

        def play() -> None:
            search(self, tune, progress).save(tune.path)
            remove(kept_points(self.setup.root, tune))

        return _failure(play)


def _failure(play: Callable[[], None]) -> Error | None:
    """What a plugin raised, `SystemExit` included; trouble with the run's files passes."""
    try:
        play()
    except (StoreError, DamagedVictim):
        raise
    except BaseException as error:
        return report.describe(error)
    return None
