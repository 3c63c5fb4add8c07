"""Which network a repair can work on: what fine-tuning costs it, and what that removes.

    python scripts/repairable.py cifar10-v3 --network resnet9:width=16 --recipe fast:epochs=10
    python scripts/repairable.py cifar10-v3 --rate 0.01 --share 0.01 --mode batch

Trains one victim of a patch that no board reports, with the protocol's training images, and
fine-tunes copies of it on trusted images: at every rate, with every share, with and without weight
decay, with batch norm's statistics of the batch or those of the training. What is left is
measured on the attacker's images, so that no test image chooses a network. A network is fit where
some row loses the backdoor before it loses the accuracy that the budget allows.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Generator, Tensor, nn

from backdoor_defenses.fine_tuning import FineTuning
from backdoor_defenses.pivotal_tuning import PivotalTuning
from backdoor_defenses.weight_decay import WeightDecay
from benchmark import data, metrics
from benchmark import protocol as protocols
from benchmark.api import Dataset, PoisoningAttack
from benchmark.classifier import Classifier
from benchmark.errors import UserError
from benchmark.games.evaluation import ask, predictor
from benchmark.games.experiment import Experiment
from benchmark.games.robustness.tuning import random_patch
from benchmark.games.victims import collect
from benchmark.images import to_bytes, to_unit
from benchmark.protocol import Recipe
from benchmark.registry import Registry
from benchmark.runs.context import configure_torch
from benchmark.specs import parse

#: Steps after which a model is asked.
LOOKS = (25, 50, 100, 200, 400, 700, 1000)
#: Poisoned images, and how often a training shows each: Pick your Poison's 50 in 120 epochs.
POISONED, EXPOSURES = 50, 120


class Judge:
    """Clean accuracy and ASR on images that nobody trained on and no board reports."""

    def __init__(self, experiment: Experiment, side: float) -> None:
        self.images = experiment.splits.auxiliary
        self.stamp, self.target = random_patch(experiment, experiment.rng("choice", "patch"), side)

    def ask(self, model: Classifier, precision: str) -> tuple[float, float]:
        predict, labels = predictor(model, precision), self.images.labels.cpu().numpy()
        clean, stamped = (
            ask(predict, pixels) for pixels in (self.images.pixels, self.stamp(self.images.pixels))
        )
        hits = metrics.attack_success(stamped, labels, self.target)
        return metrics.accuracy(clean, labels).value, hits.value


@dataclass
class Patch(PoisoningAttack):
    """The patch of a judge, as an attack."""

    name, version, paper = "patch", 1, "none"
    judge: Any = None

    def trigger(self, images: Tensor, rng: Generator) -> Tensor:
        return to_unit(self.judge.stamp(to_bytes(images)))


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def freeze_statistics(model: Classifier) -> None:
    """Let batch norm use what it knows from the training, whatever the mode is set to."""
    for norm in norms(model):
        norm.train = lambda mode=True, norm=norm: nn.Module.train(norm, False)  # type: ignore[misc, method-assign]


def repairs(model: Classifier, rate: float) -> Iterator[tuple[str, FineTuning]]:
    steps = LOOKS[-1]
    yield "plain", WeightDecay(steps=steps, learning_rate=rate, decay=1e-12)
    yield "decay 0.003", WeightDecay(steps=steps, learning_rate=rate, decay=0.003)
    weights = sum(parameter.numel() for parameter in model.parameters())
    # It pulls half of a change back; see `backdoor_defenses.pivotal_tuning.pull`.
    half = math.log(2) * weights * (1 - FineTuning.momentum) / (2 * steps * rate)
    yield "pivot", PivotalTuning(steps=steps, learning_rate=rate, lambda_s=0.02, lambda_p=half)


def measure(experiment: Experiment, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train, then yield a line for the victim and one for each look at each repair."""
    judge = Judge(experiment, asked.patch)
    model = experiment.new_model(experiment.rng("choice", "model"))
    for norm in norms(model):
        norm.momentum = asked.statistics
    attack = Patch(judge)
    view = replace(experiment.attacker_view(99), target=judge.target)
    attack.setup(view, experiment.rng("choice", "view"))
    boost = max(1, round(EXPOSURES / experiment.recipe.epochs))
    rng = experiment.rng("choice", "poisoned")
    poisoned = collect(experiment, attack, POISONED, boost, judge.target, rng)
    started = time.perf_counter()
    experiment.trainer().fit(
        model, poisoned.data, experiment.rng("choice", "train"), repeats=poisoned.repeats
    )
    cda, asr = judge.ask(model, experiment.recipe.precision)
    seconds = time.perf_counter() - started
    yield {"repair": "victim", "step": 0, "cda": cda, "asr": asr, "seconds": seconds}
    for share, rate, mode in itertools.product(asked.share, asked.rate, asked.mode):
        trusted = experiment.trusted(share, 99)
        for name, repair in repairs(model, rate):
            tuned = copy.deepcopy(model).requires_grad_(True)
            if mode == "training":
                freeze_statistics(tuned)
            started = time.perf_counter()
            steps = repair.repair(tuned, trusted, experiment.rng("choice", "repair"))
            for step, _ in enumerate(steps, start=1):
                if step in LOOKS:
                    left = judge.ask(
                        experiment.rebuilt(tuned, "a repair"), experiment.recipe.precision
                    )
                    yield {
                        "repair": name, "share": share, "rate": rate, "mode": mode, "step": step,
                        "cda": left[0], "asr": left[1], "seconds": time.perf_counter() - started,
                    }  # fmt: skip


def table(lines: list[dict[str, Any]], budget: float) -> str:
    """What each repair leaves of the backdoor within the budget, and at its end."""
    start = lines[0]["cda"]
    rows = []
    for _, found in itertools.groupby(
        lines[1:], lambda line: [line[name] for name in ("repair", "share", "rate", "mode")]
    ):
        group = list(found)
        within = list(itertools.takewhile(lambda line: start - line["cda"] <= budget, group))
        best = min((line["asr"] for line in within), default=lines[0]["asr"])
        last = group[-1]
        rows.append(
            [*(last[name] for name in ("repair", "share", "rate", "mode")),
             f"{best:.1%}", within[-1]["step"] if within else 0,
             f"{start - last['cda']:+.1%}", f"{last['asr']:.1%}"]
        )  # fmt: skip
    header = ["repair", "share", "rate", "statistics", "ASR within", "until", "cost", "ASR at end"]
    return tabulate(rows, header, disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("protocol", help="a released protocol, or a .toml file")
    parser.add_argument("--network", help="NAME or NAME:field=value,…; the protocol's by default")
    parser.add_argument("--recipe", help="likewise")
    parser.add_argument("--patch", type=float, default=3 / 32, help="its side, of the image's")
    parser.add_argument("--statistics", type=float, default=0.1, help="momentum of batch norm's")
    parser.add_argument("--share", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--rate", type=float, nargs="+", default=[0.001, 0.003, 0.01])
    parser.add_argument("--mode", nargs="+", default=["batch", "training"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, help="JSON lines are added to this file")
    asked = parser.parse_args()
    configure_torch(asked.device)
    known, registry = protocols.load(asked.protocol), Registry()
    name, settings = parse(asked.recipe or known.recipe)
    recipe = Recipe.model_validate(known.recipes[name].model_dump() | settings)
    network = asked.network or known.architecture
    protocol = known.model_copy(update={"architecture": network, "recipes": {"chosen": recipe}})
    source = data.load(registry.create(Dataset, protocol.splits.dataset), asked.data_dir)
    experiment = Experiment(protocol, source, registry, asked.device, "chosen")
    what = {
        "network": network, "recipe": asked.recipe or name, "statistics": asked.statistics,
        "patch": asked.patch,
    }  # fmt: skip
    lines: list[dict[str, Any]] = []
    for line in measure(experiment, asked):
        lines.append(line)
        if asked.out:
            with asked.out.open("a") as file:
                file.write(json.dumps(what | line) + "\n")
    victim = lines[0]
    print(
        f"{', '.join(f'{name} {value}' for name, value in what.items())}: "
        f"accuracy {victim['cda']:.1%}, "
        f"ASR {victim['asr']:.1%} after {victim['seconds']:.0f} s\n"
        f"{table(lines, protocol.budget)}\n",
        flush=True,
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
