"""A plan that is played in thought takes what arithmetic says, and what a real run took."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.games.all import records
from benchmark.protocol import Protocol
from benchmark.records.cell import Cell
from benchmark.records.record import Record
from benchmark.registry import Registry
from benchmark.runs.forecast import Costs, ForecastError, forecast
from benchmark.runs.plan import plan

COSTS = Costs("cpu", 10.0, {"none": 10.0, "badnets": 20.0}, {"none": 1.0, "strip": 3.0}, 5.0)


@pytest.fixture(scope="module")
def cells(registry: Registry, request: pytest.FixtureRequest) -> list[Cell]:
    tiny: Protocol = request.getfixturevalue("tiny")
    return plan(tiny, registry, defenses=["strip"], seeds=1)


def test_one_worker_takes_the_sum_and_many_take_the_longest_chain(cells: list[Cell]) -> None:
    # A clean and a poisoned model; each undefended and against strip at two shares.
    assert len(cells) == 6
    work = 10 + 20 + 2 * 1 + 4 * 3
    alone = forecast(cells, COSTS, 1)
    assert (alone.victims, alone.cells, alone.work, alone.elapsed) == (2, 6, work, work)
    # No number of machines plays a cell before its victim is trained.
    many = forecast(cells, COSTS, 100)
    assert many.elapsed == many.critical_path == alone.critical_path == 20 + 3


@given(slots=st.integers(1, 12))
def test_no_number_of_machines_beats_the_bounds(slots: int, cells: list[Cell]) -> None:
    found = forecast(cells, COSTS, slots)
    assert found.critical_path <= found.elapsed <= found.work
    assert found.elapsed >= found.work / slots
    # Graham's bound for any list schedule.
    assert found.elapsed <= found.work / slots + found.critical_path


def test_costs_are_medians_and_scale(small_run: Path) -> None:
    there = list(records(small_run))
    found = Costs.of(there)
    twice = found.scaled(2 * found.clean)
    assert twice.clean == 2 * found.clean
    assert twice.cells == {name: 2 * seconds for name, seconds in found.cells.items()}
    with pytest.raises(ForecastError, match="no record says what the training"):
        Costs.of([record for record in there if record.attack.name != "none"])


def test_a_model_that_many_cells_met_counts_once(small_run: Path) -> None:
    clean = [one for one in records(small_run) if one.attack.name == "none"]
    by_seed = {one.seed: one for one in clean if not one.defense.stages}

    def took(record: Record, seconds: float) -> Record:
        return record.model_copy(
            update={"cost": record.cost.model_copy(update={"victim_seconds": seconds})}
        )

    one, *others = by_seed.values()
    assert others
    several = [took(record, 100.0) for record in clean if record.seed == one.seed]
    found = Costs.of([*several, *(took(other, 10.0) for other in others)])
    expected = median([100.0, *(10.0 for _ in others)])
    assert len(several) > len(others)
    assert found.clean == expected


def test_devices_are_not_mixed(small_run: Path) -> None:
    """A board may hold what a CPU played in an hour beside what a GPU played in a second."""
    there = list(records(small_run))
    slow = [
        record.model_copy(
            update={"cost": record.cost.model_copy(update={"device": "Slow", "seconds": 1e6})}
        )
        for record in there[:3]
    ]
    found = Costs.of([*slow, *there])
    assert found.device == there[0].cost.device
    assert found == Costs.of(there)


def test_a_real_run_took_what_its_own_costs_say(small_run: Path, registry: Registry) -> None:
    """One worker's cells and victims, one after the other: what the records say they took."""
    there = [record for record in records(small_run) if record.status != "failed"]
    played = [Cell.of(record) for record in there]
    trained = {
        (record.attack.name, record.seed, record.defense.sanitizes): record.cost.victim_seconds
        or 0.0
        for record in there
    }
    took = sum(record.cost.seconds for record in there) + sum(trained.values())
    assert forecast(played, Costs.of(there), 1).elapsed == pytest.approx(took, rel=0.5)


LARGE = """
name = "large"
summary = "the scale of ImageNet: listed, not played"
architecture = "resnet18"
recipe = "standard"

[splits]
dataset = "folder:path=/nowhere/imagenet"
train = 1200000
trusted = 60000
auxiliary = 10000
validation = 10000
test = 40000

[augmentation]
pad = 8

[recipes.standard]
epochs = 90
batch_size = 1024
learning_rate = 1.0

[robustness]
budget = 0.02
shares = [0.01, 0.05]
interval = 50
seeds = 10
defenses = ["weight-decay", "pivotal-tuning", "fine-pruning", "nad", "strip"]

[robustness.default_m]
poison-label = 1200
clean-label = 1200
code = 1200
"""


def test_the_command_plans_what_no_machine_here_could_play(small_run: Path, tmp_path: Path) -> None:
    attacks = ("badnets", "a-blend", "a-patch", "tsb", "lsp", "wanet")
    large = tmp_path / "large.toml"
    entries = "".join(f'\n[[robustness.attacks]]\nattack = "{name}"\n' for name in attacks)
    large.write_text(LARGE + entries)
    words = ["plan", str(large), "--machines", "8", "--gpus", "8", "--victim-time", "24h"]
    done = CliRunner().invoke(app, [*words, "--costs", str(small_run)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    said = {line[:30].strip(): line.split()[-2:] for line in done.output.splitlines()}
    assert said["victims to train"][-1] == "70"  # a clean model and six attacks, ten times
    assert said["cells to play"][-1] == "770"  # each undefended, and against five at two shares
    assert any(line.startswith("elapsed, 64 tasks") for line in done.output.splitlines())
    assert "guessed, since not played there: a-blend" in done.output
    nothing = CliRunner().invoke(app, [*words, "--costs", str(tmp_path)])
    assert nothing.exit_code == 2


def test_times_of_a_gpu_are_not_passed_off_as_those_of_cpus(small_run: Path) -> None:
    words = ["plan", "digits-v3", "--costs", str(small_run)]
    on_cpus = CliRunner().invoke(app, words)
    assert "--victim-time" not in on_cpus.output
    on_gpus = CliRunner().invoke(app, [*words, "--gpus", "1"])
    assert "GPUs take other times than cpu, 1 thread: give the" in on_gpus.output


def test_times_of_another_protocol_are_not_passed_off_as_its_own(tmp_path: Path) -> None:
    large = tmp_path / "large.toml"
    large.write_text(LARGE + '\n[[robustness.attacks]]\nattack = "badnets"\n')
    guessed = CliRunner().invoke(app, ["plan", str(large)])
    assert "other images and maybe another network than digits-v3" in " ".join(
        guessed.output.split()
    )
    told = CliRunner().invoke(app, ["plan", str(large), "--victim-time", "15m"])
    assert told.exit_code == 0
    assert "--victim-time" not in told.output
