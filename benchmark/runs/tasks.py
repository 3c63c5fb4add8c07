"""What a worker does: train one victim, play one cell."""

from __future__ import annotations

import platform
import resource
import sys
import time
import traceback
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import benchmark
from benchmark import data, metrics
from benchmark.api import Attack, Dataset, Defense, Deployment, Repair, Sanitizer
from benchmark.games import robustness, victims
from benchmark.games.arena import Arena, Progress
from benchmark.games.exam import Exam, ask, predictor
from benchmark.games.robustness import Outcome
from benchmark.images import to_unit
from benchmark.models import Classifier
from benchmark.protocol import Protocol
from benchmark.registry import Registry
from benchmark.runs.plan import Cell, Victim
from benchmark.runs.record import (
    AttackRef,
    Cost,
    Error,
    Evidence,
    Guard,
    Metrics,
    Point,
    ProtocolRef,
    Rate,
    Record,
    StageRef,
)
from benchmark.runs.store import Store, StoreError, tensors_sha256
from benchmark.training import mixed_precision

#: A victim that answers right less often than this many times chance was not trained.
CHANCE_FACTOR = 1.5


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
            return _describe(error)
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
        try:
            outcome = self._play(cell, progress)
        except StoreError:
            raise
        except Exception as error:
            return self.fail_cell(cell, _describe(error), time.perf_counter() - started)
        evidence = self.store.save_evidence(cell.name, _evidence(outcome))
        # Last, since its presence says that the cell is done.
        self.store.save_record(cell.name, self._record(cell, outcome, evidence, started))
        return None

    def _play(self, cell: Cell, progress: Progress) -> Outcome:
        arena, seed, sanitized = self.arena, cell.victim.seed, cell.sanitized_victim
        torch.manual_seed(arena.protocol.seed("global", cell.key))
        exam = Exam(
            arena.splits.validation,
            arena.splits.test,
            self.store.victim_tensors(cell.victim.key, "exam")["triggered"].to(arena.device),
            arena.target,
        )
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

    def fail_cell(self, cell: Cell, error: Error, seconds: float = 0.0) -> Error:
        """Record that a cell could not be played, and why."""
        blank = self._blank(cell, seconds, None)
        record = Record(**blank, status="failed", reason=None, error=error, metrics=None)
        self.store.save_record(cell.name, record)
        return error

    def _blank(self, cell: Cell, seconds: float, victim_seconds: float | None) -> dict[str, Any]:
        """The fields that do not depend on how a cell went."""
        protocol = self.setup.protocol
        return {
            "key": cell.key,
            "protocol": ProtocolRef(
                name=protocol.name, sha256=protocol.sha256, recipe=cell.victim.recipe
            ),
            "game": "robustness",
            "attack": cell.victim.attack,
            "defense": cell.defense,
            "trusted_share": cell.trusted_share,
            "seed": cell.victim.seed,
            "curve": (),
            "victim_sha256": None,
            "model_sha256": None,
            "evidence": None,
            "cost": Cost(
                seconds=round(seconds, 3),
                victim_seconds=victim_seconds,
                peak_memory_mb=round(_peak_memory_mb(self.arena.device), 1),
                device=_device_name(self.arena.device),
            ),
            "env": environment(),
        }

    def _record(self, cell: Cell, outcome: Outcome, evidence: Evidence, started: float) -> Record:
        facts = self.store.victim_facts((cell.sanitized_victim or cell.victim).key)
        budget = self.setup.protocol.robustness.budget
        before = outcome.curve[0]
        best = metrics.last_affordable(outcome.curve, budget)
        paper = metrics.lowest_asr(outcome.curve, budget)
        guard = None
        if outcome.suspicion is not None:
            auc, far = robustness.guard_quality(outcome.suspicion, outcome.key)
            guard = Guard(auc=auc, far_at_1_frr=Rate.of(far))
        reason = self._distrust(cell, outcome)
        elapsed = time.perf_counter() - started
        hits = facts["asr_clean_model"]
        blank = self._blank(cell, elapsed, round(facts["seconds"], 3))
        blank |= {
            "curve": tuple(Point.of(point) for point in outcome.curve),
            "victim_sha256": facts["model_sha256"],
            "model_sha256": tensors_sha256(outcome.model.state_dict()),
            "evidence": evidence,
        }
        return Record(
            **blank,
            status="invalid" if reason else "ok",
            reason=reason,
            error=None,
            metrics=Metrics(
                cda=Rate.of(best.cda),
                asr=Rate.of(best.asr),
                asr_game=Point.of(best).asr_game,
                validation=Rate.of(best.validation),
                step=best.step,
                repaired=best.asr.total > 0 and best.asr.value <= metrics.REPAIRED,
                paper=Point.of(paper),
                before=Point.of(before),
                asr_clean_model=None if hits is None else Rate.of(metrics.Rate(*hits)),
                target_confidence=facts["target_confidence"],
                guard=guard,
            ),
        )

    def _distrust(self, cell: Cell, outcome: Outcome) -> str | None:
        """The sanity gate: a reason to distrust what was measured, or None."""
        before = outcome.curve[0]
        chance = CHANCE_FACTOR / len(self.arena.class_names)
        if before.cda.value < chance:
            return f"the victim's clean accuracy {before.cda.value:.3f} is near chance"
        if any(not bool(t.isfinite().all()) for t in outcome.model.state_dict().values()):
            return "the measured model has weights that are not finite"
        facts = self.store.victim_facts(cell.victim.key)
        again = int(np.sum(outcome.answers[0].triggered == self.arena.target))
        if (before.cda.hits, again) != (facts["test_hits"], facts["target_hits"]):
            return (
                f"the saved victim does not reproduce its numbers: {before.cda.hits} right and "
                f"{again} target answers, {facts['test_hits']} and {facts['target_hits']} "
                "before it was saved"
            )
        return None

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


def _describe(error: Exception) -> Error:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return Error(kind=type(error).__name__, message=str(error), where=where)


def _evidence(outcome: Outcome) -> dict[str, np.ndarray]:
    """Predictions at every point of the curve, with the labels to judge them by."""
    arrays: dict[str, np.ndarray] = {
        "labels_validation": outcome.key.validation,
        "labels_test": outcome.key.test,
        "target": np.array(outcome.key.target, np.int16),
    }
    for part in ("validation", "test", "triggered"):
        arrays[part] = np.stack([getattr(answers, part) for answers in outcome.answers])
    if outcome.suspicion is not None:
        arrays["suspicion_test"], arrays["suspicion_triggered"] = outcome.suspicion
    return arrays


def environment() -> dict[str, str]:
    """Versions of what ran."""
    return {
        "poisongames": benchmark.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} thread"
