"""What a worker does: train one victim, play one cell."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Generator

from benchmark import metrics
from benchmark.api import Defense, Deployment, Detector, Inverter, Repair
from benchmark.games.detectability import play as detectability
from benchmark.games.evaluation import predictor
from benchmark.games.experiment import Progress
from benchmark.games.inversion import play as inversion
from benchmark.games.inversion import report as inversion_report
from benchmark.games.inversion.data import scene
from benchmark.games.robustness import play as robustness
from benchmark.games.robustness import tuning
from benchmark.games.robustness.play import Outcome
from benchmark.games.robustness.searches import Left, Poisoning, Search, search_grid
from benchmark.games.settings import Setting
from benchmark.records.cell import Cell, Tune, Victim
from benchmark.records.record import NONE, Error, Record
from benchmark.records.store import StoreError
from benchmark.runs import report, victim_training
from benchmark.runs.context import RunContext
from benchmark.runs.plan import with_settings

#: Triggered images that are kept as a picture of each attack.
EXAMPLES = 4


class Worker(RunContext):
    """Trains victims and plays cells of one protocol, and saves what comes of it."""

    def train_victim(
        self, victim: Victim, progress: Progress = lambda done, total: None
    ) -> Error | None:
        """Train, save and measure a victim, unless that is done already.

        Returns:
            What the attack or the sanitizer raised.
        """
        if self.store.has_victim(victim.key):
            return None
        try:
            victim_training.train(self, victim, progress)
        except StoreError:
            raise
        except Exception as error:
            return report.describe(error)
        return None

    def play_cell(self, cell: Cell, progress: Progress = lambda done, total: None) -> Error | None:
        """Play a cell whose victims are trained, and save its record.

        Returns:
            What a plugin raised; the record then says that the cell failed.
        """
        started = time.perf_counter()
        if self.experiment.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.experiment.device)
        play = {
            "robustness": self._play,
            "detectability": self._examine,
            "inversion": self._invert,
        }[cell.game]
        try:
            record = play(cell, progress)
        except StoreError:
            raise
        except Exception as error:
            return self.fail_cell(cell, report.describe(error), time.perf_counter() - started)
        # Last, since its presence says that the cell is done.
        self.store.save_record(cell.name, record)
        return None

    def _play(self, cell: Cell, progress: Progress) -> Record:
        """The robustness game."""
        started = time.perf_counter()
        outcome = self._defend(cell, progress)
        trained = (cell.sanitized_victim or cell.victim).key
        answers = self.store.victim_tensors(trained, "answers")
        evidence = report.evidence_of(outcome, answers, self._examples(cell))
        return report.measured(
            self.about(cell),
            outcome,
            self.store.save_evidence(cell.name, evidence),
            undefended=self.store.victim_facts(cell.victim.key),
            trained=self.store.victim_facts(trained),
            seconds=time.perf_counter() - started,
        )

    def about(self, cell: Cell) -> report.About:
        target = self.experiment.target(cell.victim.seed)
        return report.About(
            self.setup.protocol, cell, target, self.data_sha256, self.experiment.device
        )

    def _examples(self, cell: Cell) -> torch.Tensor | None:
        """A few images of other classes without and with the trigger, once per attack."""
        victim, test = cell.victim, self.experiment.splits.test
        if cell.defense.stages or victim.seed or victim.attack.threat == NONE:
            return None
        shown = (test.labels != self.experiment.target(victim.seed)).nonzero().flatten()[:EXAMPLES]
        if not len(shown):
            return None
        triggered = self.store.victim_tensors(victim.key, "triggered")["triggered"].to(shown.device)
        return torch.stack([test.pixels[shown], triggered[shown]])

    def _examine(self, cell: Cell, progress: Progress) -> Record:
        """The detectability game."""
        started = time.perf_counter()
        detector, share = self.stage(cell, "detect"), cell.trusted_share
        assert isinstance(detector, Detector)
        assert share is not None
        evaluation_set = self.evaluation_set(cell.victim)
        scans = detectability.examine(
            self.experiment,
            evaluation_set,
            self.load(cell.victim),
            detector,
            share=share,
            seed=cell.victim.seed,
            progress=progress,
        )
        return report.examined(
            self.about(cell),
            scans,
            evaluation_set.key,
            self.store.save_evidence(
                cell.name, report.evidence_of_scans(scans, evaluation_set.key)
            ),
            facts=self.store.victim_facts(cell.victim.key),
            seconds=time.perf_counter() - started,
        )

    def _invert(self, cell: Cell, progress: Progress) -> Record:
        """The inversion game."""
        experiment, protocol, seed = self.experiment, self.setup.protocol, cell.victim.seed
        ref, game, attack = cell.stage("invert"), protocol.inversion, cell.victim.attack
        assert ref is not None
        assert game is not None
        mounted = self.attack(attack)
        assert mounted is not None
        state = self.store.victim_tensors(cell.victim.key, "state")
        here = {name: tensor.to(experiment.device) for name, tensor in state.items()}
        mounted.setup(experiment.attacker_view(seed), self.trigger_rng(cell.victim), here)

        def configure(params: Mapping[str, float]) -> Inverter:
            inverter = self.registry.create(Defense, with_settings(ref.label, params))
            assert isinstance(inverter, Inverter)
            return inverter

        suspect, evaluation_set = self.load(cell.victim), self.evaluation_set(cell.victim)
        facts = self.store.victim_facts(cell.victim.key)
        answers = evaluation_set.predict(predictor(suspect, experiment.recipe.precision))
        hits = int(np.sum(answers.triggered == evaluation_set.target))
        right = metrics.accuracy(answers.test, evaluation_set.key.test)
        outcome = inversion.play(
            experiment,
            scene(experiment, evaluation_set, mounted, game, seed),
            suspect,
            self.load(cell.victim.clean),
            configure,
            game,
            seed_parts=(attack.label, attack.m, ref.name, seed),
            progress=progress,
        )
        return inversion_report.record(
            self.about(cell).fields(outcome.seconds, facts),
            outcome,
            reason=report.distrust_victim(right, evaluation_set.key.test, hits, facts),
            uses=configure({}).uses(),
            evidence=self.store.save_evidence(cell.name, inversion_report.evidence(outcome)),
            picture=self.store.save_picture(cell.name, inversion_report.picture(outcome)),
        )

    def _defend(self, cell: Cell, progress: Progress) -> Outcome:
        experiment, seed, sanitized = self.experiment, cell.victim.seed, cell.sanitized_victim
        torch.manual_seed(experiment.protocol.seed("global", cell.key))
        trusted, held_out = None, None
        if cell.trusted_share is not None:
            rng = Generator().manual_seed(experiment.protocol.seed("held out", seed))
            trusted, held_out = robustness.hold_out(
                experiment.trusted(cell.trusted_share, seed),
                experiment.protocol.robustness.held_out,
                rng,
            )
        repair, deployment = self.stage(cell, "repair"), self.stage(cell, "deploy")
        assert repair is None or isinstance(repair, Repair)
        assert deployment is None or isinstance(deployment, Deployment)
        attack = cell.victim.attack
        return robustness.play(
            experiment,
            self.evaluation_set(cell.victim, held_out),
            self.load(cell.victim),
            sanitized=None if sanitized is None else self.load(sanitized),
            repair=repair,
            deployment=deployment,
            trusted=trusted,
            seed_parts=(attack.label, attack.m, cell.defense.name, cell.trusted_share, seed),
            progress=progress,
        )

    def tune(self, tune: Tune, progress: Progress = lambda done, total: None) -> Error | None:
        """Search a repair's grid, and save the search once it is complete.

        Returns:
            What the repair raised.
        """
        try:
            self._tune(tune, progress)
        except StoreError:
            raise
        except Exception as error:
            return report.describe(error)
        return None

    def _tune(self, tune: Tune, progress: Progress) -> None:
        experiment, protocol, share = self.experiment, self.setup.protocol, tune.trusted_share
        settings, suspect = protocol.tuning, self.load(tune.suspect)
        assert settings is not None
        backdoors = [
            tuning.self_poison(
                experiment,
                suspect,
                experiment.trusted(share, settings.suspect, draw),
                settings,
                experiment.rng("self-poison", share, draw),
            )
            for draw in range(settings.draws)
        ]

        def try_point(params: dict[str, Setting]) -> tuple[Left, ...]:
            repair = self.registry.create(Defense, with_settings(tune.repair.label, params))
            assert isinstance(repair, Repair)
            return tuple(
                Left.of(own.try_repair(experiment, repair, "tune", repair.name, share, draw))
                for draw, own in enumerate(backdoors)
            )

        journal = self.setup.root / "artifacts" / "tuning" / f"{tune.key[:32]}.journal"
        grid = settings.grids[tune.repair.name]
        Search(
            protocol=report.protocol_ref(protocol, tune.suspect.recipe),
            defense=tune.repair.name,
            version=tune.repair.version,
            trusted_share=share,
            suspect=settings.suspect,
            poisonings=tuple(map(Poisoning.of, backdoors)),
            trials=search_grid(grid, try_point, journal, progress),
        ).save(tune.path)

    def fail_cell(self, cell: Cell, error: Error, seconds: float = 0.0) -> Error:
        """Record that a cell could not be played, and why."""
        record = report.failed(self.about(cell), error, seconds)
        self.store.save_record(cell.name, record)
        return error
