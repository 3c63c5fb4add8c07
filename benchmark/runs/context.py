"""What all work of a run needs: the protocol's experiment, the plugins and the run's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from benchmark import data, metrics
from benchmark.api import Attack, Dataset, Defense
from benchmark.classifier import Classifier
from benchmark.games.answers import Answer, Answers
from benchmark.games.evaluation import EvaluationSet, ask, predictor
from benchmark.games.experiment import Experiment
from benchmark.images import ImageSet
from benchmark.protocol import Protocol
from benchmark.records.cell import Cell, Victim
from benchmark.records.record import AttackRef, Reason, StageRef
from benchmark.records.store import Store
from benchmark.registry import Registry


@dataclass(frozen=True)
class Setup:
    """What a worker needs to begin; it travels to the worker's process."""

    protocol: Protocol
    recipe: str
    device: str
    plugin_files: tuple[Path, ...]
    data_dir: Path | None
    root: Path


def configure_torch(device: str) -> None:
    """Set torch up so that results depend on nothing but the seeds and the hardware."""
    if device == "cpu":
        # One thread each, whatever their number.
        torch.set_num_threads(1)
    else:
        torch.backends.cudnn.deterministic = True
        # float32 is what a recipe or a plugin means by it.
        torch.backends.cudnn.allow_tf32 = False


class RunContext:
    """The experiment of one protocol, and what was saved of a run.

    Args:
        registry: the plugins, where they are imported already.
    """

    def __init__(self, setup: Setup, registry: Registry | None = None) -> None:
        configure_torch(setup.device)
        self.setup = setup
        self.store = Store(setup.root)
        self.registry = registry or Registry(setup.plugin_files)
        dataset = self.registry.create(Dataset, setup.protocol.splits.dataset)
        source = data.load(dataset, setup.data_dir)
        self.data_sha256 = data.sha256(source)
        self.experiment = Experiment(
            setup.protocol, source, self.registry, setup.device, setup.recipe
        )

    def attack(self, ref: AttackRef) -> Attack | None:
        return None if ref.clean else self.registry.create(Attack, ref.label)

    def attack_of(self, victim: Victim) -> Attack:
        """The attack as it was when it poisoned the victim."""
        state = self.store.victims.tensors(victim.key, "state")
        here = {name: tensor.to(self.experiment.device) for name, tensor in state.items()}
        return self.attack_with(victim, here)

    def attack_with(self, victim: Victim, state: dict[str, Tensor]) -> Attack:
        """The attack of a victim, set up with what it had learnt."""
        mounted = self.attack(victim.attack)
        assert mounted is not None
        view = self.experiment.attacker_view(victim.seed)
        mounted.setup(view, self.trigger_rng(victim), state)
        return mounted

    def trigger_rng(self, victim: Victim) -> Generator:
        """What a trigger is drawn from: another one in every repetition."""
        return self.experiment.rng("trigger", victim.attack.label, victim.seed)

    def stage(self, cell: Cell, stage: str) -> Defense | None:
        ref: StageRef | None = cell.stage(stage)
        return None if ref is None else self.registry.create(Defense, ref.label)

    def load(self, victim: Victim) -> Classifier:
        """The victim as it was saved, in a freshly built classifier."""
        return self.experiment.loaded(self.store.victims.tensors(victim.key, "model"))

    def triggered(self, victim: Victim) -> Tensor:
        """The test images with the victim's trigger, uint8 (N, C, H, W); none for a clean one."""
        found = self.store.victims.tensors(victim.key, "triggered")["triggered"]
        return found.to(self.experiment.device)

    def evaluation_set(self, victim: Victim, held_out: ImageSet | None = None) -> EvaluationSet:
        """What models of a victim's repetition are asked; `held_out` is the defender's."""
        test = self.experiment.splits.test
        nothing = test.subset(torch.arange(0, device=self.experiment.device))
        return EvaluationSet(held_out or nothing, test, self.triggered(victim), *self.aim(victim))

    def aim(self, victim: Victim) -> tuple[int, int | None]:
        """Target class, and the only class whose images the attack is for, if there is one."""
        target = self.experiment.target(victim.seed)
        return target, victim.attack.source_class(target, len(self.experiment.class_names))

    def clean_answers(self, victim: Victim) -> Answer:
        """Classes that the clean model of its repetition puts a victim's triggered images into.

        They are asked for once per victim, by the first cell that needs them.
        """
        name = f"clean-{self.store.victims.facts(victim.clean.key)['model_sha256'][:12]}"
        found = self.store.victims.kept(victim.key, name)
        if found is None:
            predict = predictor(self.load(victim.clean), self.experiment.recipe.precision)
            found = ask(predict, self.triggered(victim))
            self.store.victims.keep(victim.key, name, found)
        return found

    def distrust(self, victim: Victim, labels: Answer, answers: Answers) -> Reason | None:
        """Why a victim that was loaded again is not to be trusted, if it is not.

        Args:
            labels: true classes of the test images.
            answers: what it says now.
        """
        right = metrics.accuracy(answers.test, labels)
        if metrics.near_chance(right, labels):
            return "near-chance"
        hits = int(np.sum(answers.triggered == self.experiment.target(victim.seed)))
        facts = self.store.victims.facts(victim.key)
        if (right.hits, hits) != (facts["test_hits"], facts["target_hits"]):
            return "victim-not-reproduced"
        return None
