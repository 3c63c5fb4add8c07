"""What a protocol's work costs on this machine, and what bounds it.

    python scripts/speed.py cifar10-v3                    # on a GPU, where there is one
    python scripts/speed.py cifar10-v3 --recipe fast --recipe fast:epochs=30 --recipe table-iv
    python scripts/speed.py digits-v3 --device cpu        # a minute, to see what it prints

Measures, with the code that runs play: the rate of matrix products and of copies; a victim of
the protocol's first attack by each recipe, with its accuracy on validation images; training
steps as they are, replayed from a CUDA graph and, if asked for, compiled too; a whole game of the
first repair with its trade-off curve; one examination by a detector. The share is that of the
measured rate of matrix products. Models are others than those that boards report, so that a
recipe can be chosen by what is measured here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from tabulate import tabulate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark import clock as clocks
from benchmark import data, graphs
from benchmark import protocol as protocols
from benchmark.api import Attack, Dataset, Defense, Detector, Repair
from benchmark.classifier import Classifier
from benchmark.errors import UserError
from benchmark.games import victims
from benchmark.games.detectability import play as detectability
from benchmark.games.evaluation import EvaluationSet, predictor
from benchmark.games.experiment import Experiment
from benchmark.games.robustness import play as robustness
from benchmark.games.robustness.curve import Point
from benchmark.images import to_unit
from benchmark.protocol import Recipe
from benchmark.registry import Registry
from benchmark.runs.context import configure_torch
from benchmark.runs.plan import plan
from benchmark.specs import parse
from benchmark.training import compute_type


@dataclass
class Clock:
    """Wall-clock time of work on a device, waited for at both ends."""

    device: torch.device

    def seconds(self, work: Callable[[], object]) -> float:
        started = clocks.seconds(self.device)
        work()
        return clocks.seconds(self.device) - started

    def median(self, work: Callable[[], object], rounds: int = 7) -> float:
        work()
        return statistics.median(self.seconds(work) for _ in range(rounds))


def ceilings(clock: Clock) -> dict[str, float]:
    """Operations a second of matrix products as models compute them, bytes a second of a copy."""
    kind = compute_type(clock.device)
    on_gpu = clock.device.type == "cuda"
    side, size = (8192, 2**31) if on_gpu else (1024, 2**27)
    a, b = (torch.randn(side, side, device=clock.device, dtype=kind) for _ in range(2))
    product = clock.median(lambda: a @ b)
    there = torch.randint(256, (size,), device=clock.device, dtype=torch.uint8)
    back = torch.empty_like(there)
    return {
        "matrix": 2 * side**3 / product,
        "copy": 2 * size / clock.median(lambda: back.copy_(there)),
    }


def operations(model: Classifier, images: Tensor) -> float:
    """Floating-point operations of training, per image."""
    with FlopCounterMode(display=False) as counted:
        model(images).sum().backward()
    model.zero_grad(set_to_none=True)
    return float(counted.get_total_flops() / len(images))


@contextmanager
def ordinary_calls(count: int) -> Iterator[None]:
    """Let so many calls of a step run as they are before it is recorded."""
    before, graphs.ORDINARY_CALLS = graphs.ORDINARY_CALLS, count
    try:
        yield
    finally:
        graphs.ORDINARY_CALLS = before


def training(experiment: Experiment, steps: int, *, compiled: bool = False) -> Callable[[], None]:
    """So many steps of the recipe, of a model of their own; all but the steps is done."""
    trainer, model = experiment.trainer(), experiment.new_model(experiment.rng("speed"))
    trainer.recipe = experiment.recipe.model_copy(update={"epochs": 1})
    count = steps * experiment.recipe.batch_size
    rows = torch.arange(count, device=experiment.device) % len(experiment.splits.train)
    some = experiment.splits.train.subset(rows)
    ready: torch.nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
    return lambda: trainer.fit(ready, some, experiment.rng("speed"))


def step_seconds(experiment: Experiment, clock: Clock, *, replayed: bool, compiled: bool) -> float:
    """Seconds of a training step, from runs that differ in their length alone."""

    def run(steps: int) -> float:
        return clock.seconds(training(experiment, steps, compiled=compiled))

    few, many = (8, 72) if experiment.device.type == "cuda" else (1, 5)
    with ordinary_calls(graphs.ORDINARY_CALLS if replayed else 2**31):
        run(few)
        return statistics.median((run(many) - run(few)) / (many - few) for _ in range(3))


def kernels(experiment: Experiment) -> str:
    """Which kernels the time of training goes into."""
    steps = training(experiment, 24)
    with torch.profiler.profile() as profile:
        steps()
    where = "self_device_time_total" if experiment.device.type == "cuda" else "self_cpu_time_total"
    return str(profile.key_averages().table(sort_by=where, row_limit=15, max_name_column_width=60))


@dataclass
class Row:
    """One line of the report; `images` and `operations` are those of the whole work."""

    what: str
    seconds: float
    images: float = 0
    operations: float = 0
    note: str = ""

    def cells(self, matrix: float) -> list[str]:
        rate = f"{self.images / self.seconds:,.0f}" if self.images else ""
        share = f"{self.operations / self.seconds / matrix:.1%}" if self.operations else ""
        seconds = f"{self.seconds:.4f}" if self.seconds < 1 else f"{self.seconds:.1f}"
        return [self.what, seconds, rate, share, self.note]


class Report:
    """The work of one protocol on one device."""

    def __init__(self, name: str, device: str, data_dir: Path | None) -> None:
        protocol = protocols.load(name)
        # Seeds hang on the name.
        self.protocol = protocol.model_copy(update={"name": f"{protocol.name}-speed"})
        self.registry = Registry()
        cells = plan(self.protocol, self.registry, seeds=1)
        repaired = [cell for cell in cells if cell.defense.stages == (cell.stage("repair"),)]
        if not repaired:
            raise UserError(f"{protocol.name} has no attack and repair in its robustness game")
        self.cell = repaired[0]
        source = self.registry.create(Dataset, self.protocol.splits.dataset)
        self.source = data.load(source, data_dir)
        self.device = torch.device(device)
        self.clock = Clock(self.device)

    def experiment(self, recipe: str) -> Experiment:
        """What the protocol fixes, with one of its recipes or settings laid over one."""
        name, settings = parse(recipe)
        known = self.protocol.recipes
        if name not in known:
            raise UserError(f"unknown recipe {name!r}; there are {', '.join(known)}")
        recipes = {recipe: Recipe.model_validate(known[name].model_dump() | settings)}
        protocol = self.protocol.model_copy(update={"recipes": recipes})
        return Experiment(protocol, self.source, self.registry, self.device, recipe)

    def victim(self, recipe: str) -> tuple[Row, Experiment, EvaluationSet, Classifier]:
        """Train a victim of the first attack."""
        experiment, ref = self.experiment(recipe), self.cell.victim.attack
        attack = self.registry.create(Attack, ref.label)
        target = experiment.target(0)
        attack.setup(experiment.attacker_view(0), experiment.rng("trigger"))
        rng = experiment.rng("collect")
        collected = victims.collect(experiment, attack, ref.m, ref.boost, target, rng)
        started = clocks.seconds(self.device)
        model = victims.train(experiment, attack, collected, experiment.rng("train"))
        seconds = clocks.seconds(self.device) - started
        triggered = victims.trigger_test_images(experiment, attack, experiment.rng("test"))
        evaluation_set = EvaluationSet(
            experiment.splits.validation, experiment.splits.test, triggered, target
        )
        answers = evaluation_set.predict(predictor(model, experiment.recipe.precision))
        accuracy = Point.of(evaluation_set.labels, answers, "victim", 0, answers).held_out
        images = int(collected.repeats.sum()) * experiment.recipe.epochs
        each = operations(model, to_unit(evaluation_set.held_out.pixels[:8]))
        note = f"{accuracy.value:.2%} right on {accuracy.total} validation images"
        name = f"victim by recipe {recipe}"
        return Row(name, seconds, images, images * each, note), experiment, evaluation_set, model

    def steps(self, experiment: Experiment, each: float, compiled: bool) -> Iterator[Row]:
        """A training step in every way; `each` is the operations of an image."""
        batch = experiment.recipe.batch_size
        ways = {"as it is": (False, False)}
        if self.device.type == "cuda":
            ways |= {"replayed": (True, False)}
            ways |= {"compiled and replayed": (True, True)} if compiled else {}
        for way, (replayed, compiled) in ways.items():
            try:
                seconds = step_seconds(experiment, self.clock, replayed=replayed, compiled=compiled)
            except Exception as error:  # a compiler's, and no reason to end the report
                if not compiled:
                    raise
                print(f"step of {batch} images, {way}: {type(error).__name__}: {error}")
                continue
            yield Row(f"step of {batch} images, {way}", seconds, batch, batch * each)

    def repair(
        self, experiment: Experiment, evaluation_set: EvaluationSet, model: Classifier
    ) -> Row:
        """A whole game of the first repair, which the budget does not end."""
        repair = self.registry.create(Defense, self.cell.defense.stages[0].label)
        share = self.cell.trusted_share
        assert isinstance(repair, Repair)
        assert share is not None
        endless = self.protocol.robustness.model_copy(update={"budget": 1.0})
        experiment.protocol = experiment.protocol.model_copy(update={"robustness": endless})
        trusted = experiment.trusted(share, 0)
        started = clocks.seconds(self.device)
        outcome = robustness.play(experiment, evaluation_set, model, repair=repair, trusted=trusted)
        seconds = clocks.seconds(self.device) - started
        last, ask = outcome.curve[-1], predictor(model, experiment.recipe.precision)
        measuring = self.clock.median(lambda: evaluation_set.predict(ask))
        note = f"{last.step} steps, {len(outcome.curve)} points, {measuring:.3f} s each"
        return Row(f"{repair.name} with its curve", seconds, note=note)

    def detector(
        self, experiment: Experiment, evaluation_set: EvaluationSet, model: Classifier, spec: str
    ) -> Row:
        detector = self.registry.create(Defense, spec)
        assert isinstance(detector, Detector)
        assert self.protocol.detectability is not None
        share = self.protocol.detectability.share
        scans = detectability.examine(
            experiment, evaluation_set, model, detector, share=share, seed=0
        )
        seconds = statistics.median(scan.seconds for scan in scans)
        return Row(f"{spec}, {model.classes} classes", seconds, note=f"median of {len(scans)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("protocol", help="a released protocol, or a .toml file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--recipe", action="append", help="NAME or NAME:field=value,…; may be given several times"
    )
    parser.add_argument("--detector", default="neural-cleanse:steps=100")
    parser.add_argument("--compile", action="store_true", help="also compile a step; takes minutes")
    parser.add_argument("--kernels", action="store_true", help="also profile a training step")
    asked = parser.parse_args()
    configure_torch(asked.device)
    report = Report(asked.protocol, asked.device, asked.data_dir)
    where = torch.cuda.get_device_name() if report.device.type == "cuda" else "CPU"
    limits = ceilings(report.clock)
    print(f"{where}: matrix products {limits['matrix'] / 1e12:.1f} TFLOP/s, ", end="")
    print(f"copies {limits['copy'] / 1e9:.0f} GB/s, read and written", flush=True)
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        print(*row.cells(limits["matrix"]), sep=" | ", flush=True)

    for number, recipe in enumerate(asked.recipe or [report.protocol.recipe]):
        row, experiment, evaluation_set, model = report.victim(recipe)
        add(row)
        for step in report.steps(experiment, row.operations / row.images, asked.compile):
            add(step)
        if number == 0:
            add(report.repair(experiment, evaluation_set, model))
            if report.protocol.detectability is not None:
                add(report.detector(experiment, evaluation_set, model, asked.detector))
        if asked.kernels:
            print(kernels(experiment))
    header = ["work", "seconds", "images/s", "share", "note"]
    table = [row.cells(limits["matrix"]) for row in rows]
    print("\n" + tabulate(table, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    try:
        main()
    except (UserError, ValidationError) as error:
        sys.exit(f"error: {error}")
