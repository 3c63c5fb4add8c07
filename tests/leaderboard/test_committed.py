"""Committed boards follow from their records, and the records from their evidence."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest

import benchmark
from benchmark.api import Defense
from benchmark.games.all import records
from benchmark.games.means import settings
from benchmark.games.robustness import searches as tuned
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.leaderboard import deviations, index
from benchmark.protocol import load, tuned_folder
from benchmark.registry import Registry
from benchmark.runs.plan import searched
from benchmark.specs import label, written
from benchmark.verification.verify import verify

ROOT = Path(__file__).parent.parent.parent
BOARDS = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/records"))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_number_follows_from_the_evidence(board: Path, registry: Registry) -> None:
    """And every file of the board from the records, which `verify` builds anew."""
    found = verify(board, registry)
    assert found.findings == []
    assert len(found.records) == len(list((board / "records").iterdir()))


def test_the_list_of_boards_is_that_of_the_boards() -> None:
    assert index.stale(ROOT / "leaderboards") == []
    listed = (ROOT / "leaderboards" / "README.md").read_text()
    assert all(f"]({board.name}/README.md)" in listed for board in BOARDS)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_readme_is_short_and_its_tables_are_narrow(board: Path) -> None:
    lines = (board / "README.md").read_text().splitlines()
    assert len(lines) < 200
    assert max(line.count(" | ") for line in lines if line.startswith("|")) < 8


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_python_gets_the_tables_by_the_names_of_their_files(board: Path) -> None:
    tables = benchmark.load_results(board)
    made = {path.name for path in board.glob("*.csv")} - {deviations.FILE}  # which people write
    assert {f"{name}.csv" for name in tables} == made
    for name, table in tables.items():
        written = pd.read_csv(board / f"{name}.csv")
        assert list(written) == list(table)
        assert len(written) == len(table)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_nothing_failed(board: Path) -> None:
    for path in (board / "records").iterdir():
        assert json.loads(path.read_text())["status"] == "ok", path.name


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_tuned_settings_are_those_of_the_committed_searches(
    board: Path, registry: Registry
) -> None:
    """And those are the best points of their grids, over the whole grid of the protocol.

    A board without any search plays what the protocol prescribes.
    """
    protocol, searches = load(board.name), tuned.load(tuned_folder(board.name))
    assert searches == tuned.load(board / "tuning")
    # Also those of a repair whose version was raised would be left out.
    names = sorted(searched(protocol, registry, tuned_folder(board.name)), key=repr)
    assert names == sorted(searches, key=repr)
    if protocol.tuning is None:
        assert not searches
        return
    if not searches:
        assert protocol.robustness is not None
        prescribed = [registry.create(Defense, spec) for spec in protocol.robustness.defenses]
        labels = {label(defense) for defense in prescribed}
        for path in (board / "records").glob("robustness-*.json"):
            record = RobustnessRecord.model_validate_json(path.read_text())
            assert {stage.label for stage in record.defense.stages} <= labels, path.name
        return
    shares = len({*protocol.robustness.shares, protocol.detectability.share})  # type: ignore[union-attr]
    assert len(searches) == shares * len(protocol.tuning.grids)
    for search in searches:
        assert search.protocol.sha256 == protocol.sha256
        if not search.trials:
            continue
        grid = protocol.tuning.grids[search.defense]
        tried = {tuple(trial.params[name] for name in grid) for trial in search.trials}
        assert tried == set(product(*grid.values()))
        assert search.best.asr == min(trial.asr for trial in search.trials)
    best = tuned.chosen(tuned.load(board / "tuning"))
    for path in (board / "records").glob("robustness-*.json"):
        record = RobustnessRecord.model_validate_json(path.read_text())
        for stage in record.defense.stages:
            played = settings(stage)
            for key, value in best.get((stage.name, record.trusted_share), {}).items():
                assert played[key] == written(value), path.name


NAMES = {
    "Pivotal Tuning": "pivotal-tuning",
    "weight decay": "weight-decay",
    "Fine-Pruning": "fine-pruning",
    "NAD": "nad",
    "Neural Cleanse's": "neural-cleanse-repair",
}


def test_what_the_documentation_says_repairs_cost_after_50_steps_is_so() -> None:
    text = (ROOT / "docs" / "measured.md").read_text()
    said = re.findall(
        r"^\| (.+) \| ([15]) % \| (.+) \| (.+), (.+) % \| (.+), (.+) % \|$", text, re.M
    )
    assert len(said) == 2 * len(NAMES)
    board = ROOT / "leaderboards" / "cifar10-small-v2"
    for name, share, *numbers in said:

        def after_50_steps(
            attack: str, m: int, end: str = f"{NAMES[name]}-r0.0{share}"
        ) -> list[float]:
            played = records(board, f"robustness-{attack}-m{m}-{end}-s*.json")
            curves = [one.curve for one in played if isinstance(one, RobustnessRecord)]
            assert len(curves) == 3
            assert all(curve[1].step == 50 for curve in curves)
            lost = [curve[0].cda.value - curve[1].cda.value for curve in curves]
            return [100 * fmean(lost), 100 * fmean(curve[1].asr.value for curve in curves)]

        clean, _ = after_50_steps("none", 0)
        found = [clean, *after_50_steps("badnets", 50), *after_50_steps("lsp", 4500)]
        digits = (1, 1, 0, 1, 0)
        assert [f"{one:.{n}f}" for one, n in zip(found, digits, strict=True)] == numbers, name
