"""A run beside a board, all boards at once, and the list of boards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_records import board_of_both_games, played, save
from typer.testing import CliRunner, Result

from benchmark.cli import app
from benchmark.leaderboard import index
from benchmark.leaderboard.build import build, stale


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A run with one row of its own, and a board, in a checkout."""
    monkeypatch.chdir(tmp_path)
    board = Path("leaderboards") / "made-up"
    save(board, [played("badnets", defense, s, 9, 9) for s in (0, 1) for defense in (None, "old")])
    # The run trained the same victims again, and found something else.
    cells = [played("badnets", None, seed, before=50) for seed in (0, 1)]
    cells += [played("badnets", "new", seed, 18, 18) for seed in (0, 1)]
    return save(Path("runs/mine"), cells), board


def invoke(*words: str | Path) -> Result:
    env = {"COLUMNS": "300", "TERM": "dumb"}
    return CliRunner().invoke(app, ["board", "build", *map(str, words)], env=env)


def test_a_run_stands_among_the_rows_of_a_board(places: tuple[Path, Path]) -> None:
    run, board = places
    build(board)
    before = {path: path.read_bytes() for path in board.rglob("*") if path.is_file()}
    result = invoke(run, board)
    assert result.exit_code == 0
    frame = pd.read_csv(run / "repairs.csv").set_index("defense")
    assert dict(frame.asr_paper) == pytest.approx({"new": 0.2, "old": 0.1})
    # Of a cell that both have, the board's counts.
    assert pd.read_csv(run / "victims.csv").asr.item() == 1
    assert {path: path.read_bytes() for path in board.rglob("*") if path.is_file()} == before
    assert invoke("--check", run, board).exit_code == 0
    assert "README.md" in stale(run)
    alone = invoke(run)
    assert alone.exit_code == 0
    assert list(pd.read_csv(run / "repairs.csv").defense) == ["new"]


def test_a_run_beside_a_board_may_agree_with_what_the_board_does_not(
    places: tuple[Path, Path],
) -> None:
    """Whether an explanation is still needed is a question to the board alone."""
    run, board = places
    (board / "explanations.csv").write_text(
        "paper,recipe,quantity,attack,defense,share,text\na paper,fast,cda,none,,,why\n"
    )
    assert invoke(run, board).exit_code == 0
    alone = invoke(board)
    assert alone.exit_code == 2
    assert "no disagreement of this board is 'a paper,fast,cda,none,,'" in alone.output


def test_boards_of_different_protocols_do_not_stand_together(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    other = board_of_both_games(tmp_path / "other")
    result = invoke(places[0], other)
    assert result.exit_code == 2
    assert "records of different protocols share no table" in result.output


def test_without_a_folder_all_boards_and_their_list_are_made(places: tuple[Path, Path]) -> None:
    _, board = places
    board_of_both_games(board.parent / "digits-v3")
    (board.parent / "README.md").write_text(f"# By hand\n\n{index.BEGIN}stale{index.END}\n\nkept\n")
    assert invoke().exit_code == 0
    text = (board.parent / "README.md").read_text()
    assert text.startswith("# By hand\n")
    assert text.endswith("\nkept\n")
    assert "stale" not in text
    for name, said in (
        ("digits-v3", "Robust and hidden: a-blend (m=50), with "),
        ("made-up", "No defense repairs any attack; old r=5% comes closest"),
    ):
        assert f"## [{name}]({name}/README.md)" in text
        assert said in text
        assert said in (board.parent / "index.html").read_text()
    assert invoke("--check").exit_code == 0
    (board.parent / "index.html").write_text("changed")
    assert invoke("--check").exit_code == 1
    # Building one of them brings the list up to date, too.
    assert invoke(board).exit_code == 0
    assert index.stale(board.parent) == []


def test_what_a_board_is_called_is_text(places: tuple[Path, Path]) -> None:
    _, board = places
    odd = board.parent / "<b>&amp;"
    shutil.copytree(board, odd)
    assert invoke().exit_code == 0
    assert "<b>" not in (board.parent / "index.html").read_text()


def test_nowhere_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke()
    assert result.exit_code == 2
    assert "there is no board in leaderboards/; name the folder of a run" in result.output
