"""What is played again before a board takes it, and what the board says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from forgeries import REPAIRED, edit, record_of, submit
from in_process import Here
from test_likeness import Arrays, rescored
from typer.testing import CliRunner, Result

from benchmark.cli import app
from benchmark.games.all import read
from benchmark.leaderboard.build import build
from benchmark.records import replays
from benchmark.records.record import Record
from benchmark.records.replays import Replay
from benchmark.runs import execute, local
from benchmark.verification.submit import review
from benchmark.verification.verify import verify

ROW = "robustness-badnets-m40-pivotal-tuning-r0.05-s{}"
ERROR = {"kind": "RuntimeError", "message": "CUDA out of memory", "where": "x.py:3"}


@pytest.fixture
def row(played: Path) -> Path:
    """One repaired row and what it rests on."""
    for path in played.rglob("*strip*"):
        path.unlink()
    return played


def failed(run: Path, name: str) -> None:
    """The worst seed, said to have failed."""
    path = record_of(run, name)
    (run / "evidence" / f"{path.stem}.npz").unlink()
    nothing = {"status": "failed", "error": ERROR, "metrics": None, "curve": []}
    nothing |= {"evidence": None, "victim_sha256": None, "model_sha256": None}
    edit(path, lambda record: record.update(nothing))


def seeds(drawn: list[Record]) -> list[int]:
    return sorted(one.seed for one in drawn if one.defense.stages)


def asr(run: Path, seed: int) -> float:
    return float(
        json.loads(record_of(run, ROW.format(seed)).read_text())["metrics"]["paper"]["asr"]["value"]
    )


def test_what_flatters_and_what_failed_is_played_again(row: Path, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    order = sorted(range(3), key=lambda seed: -asr(row, seed))
    best, worst = order[-1], order[0]
    # On an empty board the attack and the defense are new.
    drawn = seeds(review(row, boards).to_replay(0))
    assert {best, worst} <= set(drawn)
    assert drawn == [0, 1, 2]  # and one that nobody foresees
    assert len(review(row, boards).to_replay(100)) == 9
    middle = order[1]
    failed(row, ROW.format(middle))
    assert seeds(review(row, boards).to_replay(0)) == [0, 1, 2]


def test_of_a_new_defense_the_best_repetition_is_played_again(played: Path, tmp_path: Path) -> None:
    from test_submit import only

    boards = tmp_path / "boards"
    submit(only(played, tmp_path / "first", "strip-r0.05"), boards)
    second = review(only(played, tmp_path / "second", "pivotal-tuning-r0.05"), boards)
    best = min(range(3), key=lambda seed: asr(played, seed))
    others = set()
    for _ in range(40):
        drawn = seeds(second.to_replay(0))
        assert len(drawn) == 2
        assert best in drawn
        others |= {*drawn} - {best}
    assert others == {0, 1, 2} - {best}


def command(run: Path, boards: Path) -> Result:
    words = ["submit", str(run), "--boards", str(boards), "--replay", "0", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "LocalExecutor", Here)
        return CliRunner().invoke(app, words, env={"COLUMNS": "300"})


def test_a_replay_that_agrees_is_on_the_board(row: Path, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    done = command(row, boards)
    assert done.exit_code == 0, done.output
    assert "3 cells replayed, 0 numbers differ" in done.output
    assert "3 were played again" in done.output
    board = boards / "small-v1"
    noted = replays.read(board)
    assert [one.verdict for one in noted.values()] == ["equal"] * 3
    build(board)
    assert verify(board).findings == []
    assert list(pd.read_csv(board / "repairs.csv").replayed) == [3]
    assert set(pd.read_csv(board / "replays.csv").verdict) == {"equal"}


def test_numbers_that_nobody_gets_again_are_refused(row: Path, tmp_path: Path) -> None:
    """Record and evidence fit together, and no model gave these answers."""

    def better(arrays: Arrays) -> None:
        hit = arrays["triggered"][1:] == arrays["target"]
        arrays["triggered"][1:][hit] = 7
        arrays["triggered"][1:, 0] = np.arange(4)

    rescored(row, REPAIRED, better)
    assert verify(row).findings == []
    done = command(row, tmp_path / "boards")
    assert done.exit_code == 1
    assert "differs" in done.output
    assert "nothing was written" in done.output
    assert not (tmp_path / "boards").exists()


def test_an_interrupted_replay_takes_nothing(
    row: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> execute.Summary:
        return execute.Summary(0, 3, "interrupted")

    monkeypatch.setattr(execute, "execute", interrupted)
    done = command(row, tmp_path / "boards")
    assert done.exit_code == 130
    assert "interrupted; nothing was written, the same command starts again" in done.output
    assert not (tmp_path / "boards").exists()


def test_a_submission_that_was_cut_short_is_played_again(row: Path, tmp_path: Path) -> None:
    """Its replays are there and its records are not: nothing is taken for replayed that is not."""
    boards = tmp_path / "boards"
    taken = review(row, boards)
    one = taken.to_replay(0)[0]
    noted = Replay(record=taken.digest(one), verdict="equal", device="cpu", env=one.env)
    replays.add(boards / "small-v1", {one.key: noted}, {noted.record})
    again = review(row, boards)
    assert len(again.to_replay(0)) == 3
    again.write({})
    assert verify(boards / "small-v1").findings == []


@pytest.mark.nightly
def test_a_failure_that_nobody_gets_again_is_refused(row: Path, tmp_path: Path) -> None:
    failed(row, ROW.format(1))
    assert verify(row).findings == []
    done = command(row, tmp_path / "boards")
    assert done.exit_code == 1
    assert "nothing was written" in done.output


def test_replays_are_of_records_as_they_are(row: Path, tmp_path: Path) -> None:
    folder = submit(row, tmp_path / "boards").folder
    path = record_of(folder, REPAIRED)
    record = read(path.read_bytes())
    one = Replay(record="0" * 64, verdict="equal", device="cpu", env=record.env)
    replays.add(folder, {record.key: one}, {one.record})
    (finding,) = verify(folder).findings
    assert (finding.file, "is of no record here" in finding.reason) == ("replays.json", True)
    (folder / "replays.json").write_text("[]")
    (finding,) = verify(folder).findings
    assert "is no list of replays" in finding.reason
    (folder / "replays.json").write_text('{"\\u202e": {"device": "<img>"}}')
    (finding,) = verify(folder).findings
    assert "characters that names" in finding.reason
    (folder / "replays.json").write_text('{"x": {}')
    (finding,) = verify(folder).findings
    assert str(finding).startswith("replays.json: file: is no JSON that a record may be: ")
    (folder / "replays.json").write_text(json.dumps({"x": {"device": "cpu"}}))
    (finding,) = verify(folder).findings
    assert "is no list of replays (x.record: field required)" in finding.reason
