"""Experiments by name: every file can be planned and shown, and one is played to its end."""

from __future__ import annotations

import csv
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import small_board
from typer.testing import CliRunner

from benchmark import protocol as protocols
from benchmark.cli import app
from benchmark.experiments.cells import cells_of
from benchmark.experiments.declared import ExperimentError, PaperExperiment, load, names
from benchmark.experiments.shown import in_papers, tables, write
from benchmark.games.all import GAMES
from benchmark.games.robustness import searches
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.games.robustness.shown import steps
from benchmark.leaderboard.board import Board, read_board
from benchmark.registry import Registry


@pytest.fixture(scope="module")
def board(small_run: Path) -> Board:
    return read_board(small_run)


def experiment(**changes: Any) -> PaperExperiment:
    """BadNets under Pivotal Tuning, over its steps."""
    content: dict[str, Any] = {
        "name": "own",
        "paper": "Pick your Poison",
        "shows": "Tab. III",
        "question": "What is left?",
        "published": "Little.",
        "tables": ["III"],
        "protocol": small_board.NAME,
        "cells": [{"attacks": ["badnets"], "defenses": ["pivotal-tuning"], "shares": [0.05]}],
        "show": [
            {
                "frame": "steps",
                "columns": ["attack", "attack.side", "defense", "step", "asr", "loss", "seeds"],
                "where": {"defense": "pivotal-tuning"},
                "plot": {
                    "x": "step",
                    "y": {"asr": "ASR", "loss": "CDA loss"},
                    "labels": ["steps", "share"],
                    "series": ["m"],
                    "panel": ["defense", "trusted_share"],
                },
            }
        ],
    }
    return PaperExperiment.model_validate(content | changes)


@pytest.mark.parametrize("name", names())
def test_every_experiment_can_be_planned_and_shown(
    name: str, registry: Registry, board: Board
) -> None:
    """Plugins and settings exist, its protocol has the games, and tables have the columns."""
    chosen = load(name)
    assert chosen.name == name
    protocol = protocols.load(chosen.protocol)
    tuned = searches.chosen(searches.load(protocols.tuned_folder(chosen.protocol)))
    cells = cells_of(chosen, protocol, tuned, registry, None)
    asked = {spec.partition(":")[0] for part in chosen.cells for spec in part.defenses}
    assert {cell.defense.name for cell in cells} == {*asked, "none"}
    frames = {frame.name for game in GAMES.values() for frame in game.chapter().frames}
    assert {one.frame for one in chosen.show} <= {*frames, "victims", "pareto", "steps", "epochs"}
    tables(chosen, board)
    assert in_papers(chosen) or "prints no numbers" in chosen.published or not chosen.tables


def test_only_some_shares_are_played(registry: Registry) -> None:
    """Of repairs; detectors have the share of their own game."""
    part = {"attacks": ["badnets"], "defenses": ["weight-decay", "abs"], "shares": [0.05]}
    cells = cells_of(experiment(cells=[part]), small_board.parsed(), {}, registry, 1)
    assert {(cell.defense.name, cell.trusted_share) for cell in cells} == {
        ("none", None),
        ("weight-decay", 0.05),
        ("abs", 0.1),
    }


def test_without_defenses_the_robustness_games_own_victims_are_played(registry: Registry) -> None:
    """The detectability game of a protocol may have more models."""
    protocol = small_board.parsed(small_board.TOML.replace("models = 3", "models = 7"))
    part = {"attacks": ["badnets"], "defenses": []}
    cells = cells_of(experiment(cells=[part]), protocol, {}, registry, None)
    assert {(cell.victim.attack.name, cell.victim.seed) for cell in cells} == {
        (name, seed) for name in ("none", "badnets") for seed in range(3)
    }
    assert not any(cell.defense.stages for cell in cells)


def test_steps_are_means_over_seeds(board: Board, small_run: Path) -> None:
    """Read again from the records, one by one."""
    found = steps(board.sources)
    found = found[(found.defense == "pivotal-tuning") & (found.stage == "repair")]
    paths = (small_run / "records").glob("robustness-badnets-*-pivotal-tuning-r0.05-*.json")
    records = [RobustnessRecord.model_validate_json(path.read_text()) for path in paths]
    assert len(records) == 3
    reached = set.intersection(*({point.step for point in one.curve[1:]} for one in records))
    assert set(found.step) == reached
    for row in found.to_dict("records"):
        points = [next(p for p in one.curve[1:] if p.step == row["step"]) for one in records]
        before = [one.curve[0].cda.value for one in records]
        lost = [cda - point.cda.value for cda, point in zip(before, points, strict=True)]
        assert row["asr"] == pytest.approx(sum(p.asr.value for p in points) / 3, abs=1e-6)
        assert row["loss"] == pytest.approx(sum(lost) / 3, abs=1e-6)
        assert 0 <= row["asr_low"] <= row["asr"] <= row["asr_high"] <= 1


def test_it_is_written_with_what_was_published(
    board: Board, small_released: None, tmp_path: Path
) -> None:
    own = experiment(pictures=True)
    text = write(own, tables(own, board), board, tmp_path).read_text()
    pictures = re.findall(r"!\[(.*)\]\((own-\d\.png)\)", text)
    assert {title for title, _ in pictures} == {
        "blind-p (m=0): smoothinv",
        "blind-p (m=0): plainadv",
    }
    assert all((tmp_path / file).read_bytes().startswith(b"\x89PNG") for _, file in pictures)
    assert "# own: Pick your Poison, Tab. III" in text
    assert "![Over the steps of a repair](own.svg)" in text
    # Tab. III: BadNets at 1 % under Pivotal Tuning.
    assert "| cifar10 | badnets (m=50) | pivotal-tuning | 1% | asr\\_left | 0.03 |" in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "own.csv").read_text())))
    assert {float(row["attack.side"]) for row in rows} == {0.25}
    drawn = (tmp_path / "own.svg").read_text()
    assert all(said in drawn for said in ("steps", "pivotal-tuning, r=5%", "CDA loss, m=40"))
    assert "stroke-dasharray" in drawn  # the second column


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({"frame": "nowhere", "columns": ["attack"]}, "there is no table 'nowhere'"),
        ({"frame": "victims", "columns": ["beauty"]}, "'victims' has no column 'beauty'"),
    ],
)
def test_a_file_that_asks_for_what_there_is_not(
    board: Board, shown: dict[str, Any], said: str
) -> None:
    with pytest.raises(ExperimentError, match=said):
        tables(experiment(show=[shown]), board)


def test_without_records_there_are_no_tables(board: Board) -> None:
    board_of_others = Board(**vars(board) | {"frames": {}})
    show = [{"frame": "inversions", "columns": ["attack", "inverter.samples"]}]
    assert tables(experiment(show=show), board_of_others) == []


def test_one_from_the_command_line_to_the_page(
    small_run: Path, small_released: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was played elsewhere is shown, and nothing is played twice."""
    examined = experiment(
        cells=[{"attacks": ["badnets"], "defenses": ["abs"]}],
        show=[{"frame": "detectability", "columns": ["attack", "detector", "auc"]}],
    )
    monkeypatch.setattr("benchmark.experiments.declared.load", lambda name: examined)
    out = tmp_path / "run"
    asked = ["experiment", "own", small_board.NAME, "--out", str(out), "--done", str(small_run)]
    result = CliRunner().invoke(app, asked, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "12 of 12 cells are in" in result.output.replace("\n", " ")
    assert "Published in Pick your Poison, Tab. III" in result.output
    assert (out / "experiments" / "own.md").is_file()
    assert not pd.read_csv(out / "experiments" / "own.csv").empty


def test_what_is_there_is_drawn_where_the_time_was_too_short(
    small_run: Path, small_released: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the searches that its settings come from lie beside the records."""
    short = experiment(
        cells=[{"attacks": ["badnets"], "defenses": ["weight-decay"]}],
        show=[{"frame": "repairs", "columns": ["attack", "defense", "asr_paper"]}],
    )
    monkeypatch.setattr("benchmark.experiments.declared.load", lambda name: short)
    tuned = Path(protocols.__file__).parent / "protocols" / "fashion-mnist-v3.tuned"
    monkeypatch.setattr("benchmark.protocol.tuned_folder", lambda name: tuned)
    monkeypatch.setattr("benchmark.runs.plan.searched", lambda *_: searches.load(tuned))
    for place, shown in ((tmp_path / "nothing", False), (small_run, True)):
        out = tmp_path / place.name
        asked = ["experiment", "own", small_board.NAME, "--out", str(out), "--time-limit", "1s"]
        result = CliRunner().invoke(app, [*asked, *(["--done", str(place)] if shown else [])])
        assert result.exit_code == 3, result.output
        assert "time limit reached" in result.output
        assert (out / "experiments" / "own.md").is_file() == shown
        copied = {path.name: path.read_bytes() for path in (out / "tuning").iterdir()}
        assert copied == {path.name: path.read_bytes() for path in tuned.glob("*.json")}


def test_a_folder_with_cells_of_others_alone_shows_nothing(
    small_run: Path, small_released: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = experiment(cells=[{"attacks": ["wanet"], "defenses": ["weight-decay"]}])
    monkeypatch.setattr("benchmark.experiments.declared.load", lambda name: other)
    out = tmp_path / "run"
    shutil.copytree(small_run / "records", out / "records")
    for path in (out / "records").glob("robustness-none-*"):
        path.unlink()
    asked = ["experiment", "own", small_board.NAME, "--out", str(out), "--time-limit", "0s"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 3, result.output
    assert "time limit reached" in result.output
    assert not (out / "experiments").exists()


def test_the_list_names_all() -> None:
    result = CliRunner().invoke(app, ["experiment"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert all(name in result.output for name in names())
    wrong = CliRunner().invoke(app, ["experiment", "pyp-fg6"], env={"COLUMNS": "200"})
    assert wrong.exit_code == 2
    assert "unknown experiment 'pyp-fg6'; did you mean 'pyp-fig6'?" in wrong.output
