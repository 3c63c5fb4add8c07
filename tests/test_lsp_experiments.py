"""The LSP paper's figures on digits: what a smaller attack rate costs, and what it hides."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from scipy import stats
from torch import Generator

from backdoor_defenses.neural_cleanse import FixedCostNeuralCleanse
from benchmark import data, metrics
from benchmark import protocol as protocols
from benchmark.api import Attack, Dataset
from benchmark.games import victims
from benchmark.games.evaluation import ask, narrow, predictor
from benchmark.games.experiment import Experiment
from benchmark.registry import Registry

pytestmark = pytest.mark.nightly

#: The largest is the base attack: its target has a probability of 0.9999.
RATES = [2.0, 3.0, 4.0, 5.0, 7.0, 12.0]
COSTS = [0.001, 0.01]
#: Repetitions, and targets with them, that no board reports.
SEEDS = range(90, 92)


class Curve(NamedTuple):
    """Of one model: (CDA, ASR) after every epoch, and by cost the target's norm and ReASR."""

    epochs: list[tuple[float, float]]
    norms: list[float]
    reversed_asr: list[float]


@pytest.fixture(scope="module")
def curves(registry: Registry) -> dict[float, list[Curve]]:
    torch.set_num_threads(1)
    protocol = protocols.load("digits-v3")
    experiment = Experiment(protocol, data.load(registry.create(Dataset, "digits")), registry)
    return {rate: [_train(experiment, registry, rate, seed) for seed in SEEDS] for rate in RATES}


def _train(experiment: Experiment, registry: Registry, rate: float, seed: int) -> Curve:
    attack = registry.create(Attack, f"lsp:base.side=0.1875,rate={rate}")
    attack.setup(experiment.attacker_view(seed), experiment.rng("trigger", seed))
    target = experiment.target(seed)
    training = victims.collect(experiment, attack, 100, 4, target, experiment.rng("collect", seed))
    triggered = victims.trigger_test_images(experiment, attack, experiment.rng("test", seed))
    test, labels = experiment.splits.test, narrow(experiment.splits.test.labels)
    model = experiment.new_model(experiment.rng("model", seed))
    epochs = []

    def look(done: int, total: int) -> None:
        predict = predictor(model.eval(), "float32")
        cda = metrics.accuracy(ask(predict, test.pixels), labels).value
        asr = metrics.attack_success(ask(predict, triggered), labels, target).value
        epochs.append((cda, asr))
        model.train()

    rng = experiment.rng("batches", seed)
    experiment.trainer(look).fit(model, training.data, rng, repeats=training.repeats)
    norms, reached = [], []
    trusted = experiment.trusted(experiment.protocol.robustness.shares[0], seed)
    for cost in COSTS:
        detector = FixedCostNeuralCleanse(cost=cost)
        rng = Generator().manual_seed(seed)
        found = detector.detect(model, trusted, rng)
        norms.append(-float(found.class_scores[target]))
        assert found.trigger is not None
        stamped = found.trigger.take(torch.tensor([target])).apply(test.images)[0]
        answers = model(stamped).argmax(1).numpy()
        reached.append(metrics.attack_success(answers, labels, target).value)
    return Curve(epochs, norms, reached)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@torch.no_grad()
def test_a_smaller_rate_hides_from_a_fixed_cost_and_costs_success(
    curves: dict[float, list[Curve]],
) -> None:
    """Fig. 3: the norm of the target's mask falls with the rate, more at a cost of 0.01.

    Fig. 2: small rates take more epochs to implant the backdoor, and may never do so wholly.
    """
    print()
    for rate, found in curves.items():
        asr = [mean([one.epochs[epoch][1] for one in found]) for epoch in range(12)]
        norms = [mean([one.norms[number] for one in found]) for number in range(len(COSTS))]
        again = [mean([one.reversed_asr[number] for one in found]) for number in range(len(COSTS))]
        print(
            f"ar={rate:4g} CDA {mean([one.epochs[-1][0] for one in found]):.3f}",
            "ASR per epoch " + " ".join(f"{value:.2f}" for value in asr),
            *(
                f"| cost {cost:g}: norm {norm:.1f}, ASR again {back:.2f}"
                for cost, norm, back in zip(COSTS, norms, again, strict=True)
            ),
        )
    every = [(rate, one) for rate, found in curves.items() for one in found]
    for number in range(len(COSTS)):
        falls = stats.spearmanr([r for r, _ in every], [one.norms[number] for _, one in every])
        assert falls.statistic < 0
        assert falls.pvalue < 0.01
    rises = stats.spearmanr([r for r, _ in every], [one.epochs[-1][1] for _, one in every])
    assert rises.statistic > 0
    assert mean([one.epochs[-1][1] for one in curves[RATES[-1]]]) > 0.95
