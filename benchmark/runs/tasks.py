"""What a worker does: train one victim, play one cell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmark import data, metrics
from benchmark.api import (
    Attack,
    Dataset,
    Defense,
    Deployment,
    Detector,
    Inverter,
    Repair,
    Sanitizer,
)
from benchmark.games import detectability, inversion, robustness, tuning, victims
from benchmark.games.arena import Arena, Progress
from benchmark.games.exam import Exam, ask, predictor
from benchmark.games.robustness import Outcome
from benchmark.images import to_unit
from benchmark.models import Classifier
from benchmark.protocol import Protocol
from benchmark.registry import Registry
from benchmark.runs import inverted, report
from benchmark.runs.cells import Cell, Tune, Victim
from benchmark.runs.plan import with_settings
from benchmark.runs.record import AttackRef, Error, Rate, Record, StageRef
from benchmark.runs.store import Store, StoreError, tensors_sha256
from benchmark.runs.tuned import Left, Search, search_grid
from benchmark.training import mixed_precision


def _left(point: metrics.Point) -> Left:
    return Left(asr=Rate.of(point.asr), cda=Rate.of(point.cda))


@dataclass(frozen=True)
class Setup:
    """What a worker needs to begin; it travels to the worker's process."""

    protocol: Protocol
    recipe: str
    device: str
    plugin_files: tuple[Path, ...]
    data_dir: Path | None
    root: Path


class Worker:
    """Trains victims and plays cells of one protocol, and saves what comes of it."""

    def __init__(self, setup: Setup) -> None:
        if setup.device == "cpu":
            # One thread each, whatever their number: then results do not depend on it.
            torch.set_num_threads(1)
        self.setup = setup
        self.store = Store(setup.root)
        self.registry = Registry(setup.plugin_files)
        dataset = self.registry.create(Dataset, setup.protocol.splits.dataset)
        source = data.load(dataset, setup.data_dir)
        self.arena = Arena(setup.protocol, source, self.registry, setup.device, setup.recipe)

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
            self._train_victim(victim, progress)
        except StoreError:
            raise
        except Exception as error:
            return report.describe(error)
        return None

    def _train_victim(self, victim: Victim, progress: Progress) -> None:
        started = time.perf_counter()
        arena = self.arena
        attack = self._attack(victim.attack)
        # The trigger is fixed per experiment; what is drawn with it differs by repetition.
        names = (victim.attack.label, victim.attack.m, victim.attack.boost)
        torch.manual_seed(arena.protocol.seed("global", *names, victim.seed))
        if attack is not None:
            attack.setup(arena.attacker_view(), arena.rng("trigger", victim.attack.label))
        rng = arena.rng("collect", *names, victim.seed)
        training = victims.collect(arena, attack, victim.attack.m, victim.attack.boost, rng)
        removed: dict[str, int] = {}
        if victim.sanitizer is not None:
            sanitizer = self.registry.create(Defense, victim.sanitizer.label)
            assert isinstance(sanitizer, Sanitizer)
            before = training
            rng = arena.rng("sanitize", *names, victim.sanitizer.label, victim.seed)
            training = victims.sanitize(arena, sanitizer, before, rng)
            removed = {
                "removed": len(before.data) - len(training.data),
                "removed_poisons": int(before.poisoned.sum() - training.poisoned.sum()),
            }
        model = victims.train(
            arena, attack, training, arena.rng("train", *names, victim.seed), progress
        )
        triggered = victims.trigger_test_images(arena, attack, arena.rng("test", *names))
        predict = predictor(model, arena.recipe.precision)
        facts = {
            "victim": str(victim),
            "model_sha256": tensors_sha256(model.state_dict()),
            "test_hits": int(np.sum(ask(predict, arena.splits.test.pixels) == self._labels)),
            "target_hits": int(np.sum(ask(predict, triggered) == arena.target)),
            "target_confidence": self._target_confidence(model, triggered),
            "asr_clean_model": None if attack is None else self._clean_hits(victim, triggered),
            "seconds": time.perf_counter() - started,
            **removed,
        }
        state = {} if attack is None else attack.state
        tensors = {"model": model.state_dict(), "state": state, "exam": {"triggered": triggered}}
        self.store.save_victim(victim.key, tensors, facts)

    def play_cell(self, cell: Cell, progress: Progress = lambda done, total: None) -> Error | None:
        """Play a cell whose victims are trained, and save its record.

        Returns:
            What a plugin raised; the record then says that the cell failed.
        """
        started = time.perf_counter()
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
        return report.measured(
            self.setup.protocol,
            cell,
            outcome,
            self.store.save_evidence(cell.name, report.evidence_of(outcome)),
            undefended=self.store.victim_facts(cell.victim.key),
            trained=self.store.victim_facts((cell.sanitized_victim or cell.victim).key),
            device=self.arena.device,
            seconds=time.perf_counter() - started,
        )

    def _examine(self, cell: Cell, progress: Progress) -> Record:
        """The detectability game."""
        started = time.perf_counter()
        detector, share = self._stage(cell, "detect"), cell.trusted_share
        assert isinstance(detector, Detector)
        assert share is not None
        exam = self._exam(cell)
        scans = detectability.examine(
            self.arena,
            exam,
            self._load(cell.victim),
            detector,
            share=share,
            seed=cell.victim.seed,
            progress=progress,
        )
        return report.examined(
            self.setup.protocol,
            cell,
            scans,
            exam.key,
            self.store.save_evidence(cell.name, report.evidence_of_scans(scans, exam.key)),
            facts=self.store.victim_facts(cell.victim.key),
            device=self.arena.device,
            seconds=time.perf_counter() - started,
        )

    def _invert(self, cell: Cell, progress: Progress) -> Record:
        """The inversion game."""
        arena, protocol, seed = self.arena, self.setup.protocol, cell.victim.seed
        ref, game, attack = cell.stage("invert"), protocol.inversion, cell.victim.attack
        assert ref is not None
        assert game is not None
        mounted = self._attack(attack)
        assert mounted is not None
        state = self.store.victim_tensors(cell.victim.key, "state")
        here = {name: tensor.to(arena.device) for name, tensor in state.items()}
        mounted.setup(arena.attacker_view(), arena.rng("trigger", attack.label), here)

        def configure(params: Mapping[str, float]) -> Inverter:
            inverter = self.registry.create(Defense, with_settings(ref.label, params))
            assert isinstance(inverter, Inverter)
            return inverter

        outcome = inversion.play(
            arena,
            inversion.scene(arena, self._exam(cell), mounted, game, seed),
            self._load(cell.victim),
            self._load(cell.victim.clean),
            configure,
            game,
            seed_parts=(attack.label, attack.m, ref.name, seed),
            progress=progress,
        )
        facts = self.store.victim_facts(cell.victim.key)
        return inverted.record(
            report.fields(protocol, cell, arena.device, outcome.seconds, facts),
            outcome,
            uses=configure({}).uses(),
            evidence=self.store.save_evidence(cell.name, inverted.evidence(outcome)),
            picture=self.store.save_picture(cell.name, inverted.picture(outcome)),
        )

    def _defend(self, cell: Cell, progress: Progress) -> Outcome:
        arena, seed, sanitized = self.arena, cell.victim.seed, cell.sanitized_victim
        torch.manual_seed(arena.protocol.seed("global", cell.key))
        exam = self._exam(cell)
        trusted = None
        if cell.trusted_share is not None:
            trusted = arena.trusted(cell.trusted_share, seed)
        repair, deployment = self._stage(cell, "repair"), self._stage(cell, "deploy")
        assert repair is None or isinstance(repair, Repair)
        assert deployment is None or isinstance(deployment, Deployment)
        attack = cell.victim.attack
        return robustness.play(
            arena,
            exam,
            self._load(cell.victim),
            sanitized=None if sanitized is None else self._load(sanitized),
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
        arena, protocol, share = self.arena, self.setup.protocol, tune.trusted_share
        assert protocol.tuning is not None
        suspect = self._load(tune.suspect)
        backdoors = [
            tuning.self_poison(
                arena,
                suspect,
                arena.trusted(share, draw),
                protocol.tuning,
                arena.rng("self-poison", share, draw),
            )
            for draw in range(protocol.tuning.draws)
        ]

        def try_point(params: dict[str, float]) -> tuple[Left, ...]:
            repair = self.registry.create(Defense, with_settings(tune.repair.label, params))
            assert isinstance(repair, Repair)
            return tuple(
                _left(own.try_repair(arena, repair, "tune", repair.name, share, draw))
                for draw, own in enumerate(backdoors)
            )

        journal = self.setup.root / "artifacts" / "tuning" / f"{tune.key[:32]}.journal"
        grid = protocol.tuning.grids[tune.repair.name]
        Search(
            protocol=report.protocol_ref(protocol, tune.suspect.recipe),
            defense=tune.repair.name,
            version=tune.repair.version,
            trusted_share=share,
            before=tuple(_left(own.before) for own in backdoors),
            trials=search_grid(grid, try_point, journal, progress),
        ).save(tune.path)

    def _exam(self, cell: Cell) -> Exam:
        splits, device = self.arena.splits, self.arena.device
        triggered = self.store.victim_tensors(cell.victim.key, "exam")["triggered"]
        return Exam(splits.validation, splits.test, triggered.to(device), self.arena.target)

    def fail_cell(self, cell: Cell, error: Error, seconds: float = 0.0) -> Error:
        """Record that a cell could not be played, and why."""
        record = report.failed(self.setup.protocol, cell, error, self.arena.device, seconds)
        self.store.save_record(cell.name, record)
        return error

    def _attack(self, ref: AttackRef) -> Attack | None:
        return None if ref.threat == "none" else self.registry.create(Attack, ref.label)

    def _stage(self, cell: Cell, stage: str) -> Defense | None:
        ref: StageRef | None = cell.stage(stage)
        return None if ref is None else self.registry.create(Defense, ref.label)

    def _load(self, victim: Victim) -> Classifier:
        """The victim as it was saved, in a freshly built classifier."""
        model = self.arena.new_model(self.arena.rng("loading"))
        model.load_state_dict(self.store.victim_tensors(victim.key, "model"))
        return model

    @property
    def _labels(self) -> np.ndarray:
        labels: np.ndarray = self.arena.splits.test.labels.cpu().numpy()
        return labels

    def _clean_hits(self, victim: Victim, triggered: torch.Tensor) -> tuple[int, int]:
        """ASR of the trigger on the clean model of the same repetition, in counts."""
        answers = ask(predictor(self._load(victim.clean), self.arena.recipe.precision), triggered)
        return metrics.attack_success(answers, self._labels, self.arena.target)

    def _target_confidence(self, model: Classifier, triggered: torch.Tensor) -> float | None:
        """Mean probability of the target on triggered images of other classes."""
        if not len(triggered):
            return None
        others = triggered[self.arena.splits.test.labels != self.arena.target]
        total = 0.0
        for pixels in others.split(victims.BATCH):
            with (
                torch.inference_mode(),
                mixed_precision(pixels.device, self.arena.recipe.precision),
            ):
                logits = model(to_unit(pixels)).float()
            total += logits.softmax(1)[:, self.arena.target].sum().item()
        return total / len(others)
