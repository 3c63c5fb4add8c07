"""`poisongames pareto`: on a board made by hand, and on copies that lack some records."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_records import board_of_both_games, played, save
from typer.testing import CliRunner, Result

from benchmark.cli import app
from benchmark.leaderboard.build import build


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = board_of_both_games(tmp_path_factory.mktemp("boards") / "digits-v3")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board of one game, and of another protocol."""
    cells = [played("badnets", defense, 0, 9) for defense in (None, "repairer")]
    return save(tmp_path_factory.mktemp("boards") / "made-up", cells)


def invoke(*words: str | Path, columns: int = 100) -> Result:
    result = CliRunner().invoke(
        app, ["pareto", *map(str, words)], env={"COLUMNS": str(columns), "TERM": "dumb"}
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def without(both: Path, target: Path, attack: str) -> Path:
    """The records of both games but for those of one attack."""
    (target / "records").mkdir(parents=True)
    left_out = 0
    for path in (both / "records").iterdir():
        if json.loads(path.read_text())["attack"]["name"] == attack:
            left_out += 1
        else:
            shutil.copy(path, target / "records")
    assert left_out
    return target


def test_fronts_and_worst_cases_fit_into_a_terminal(both: Path, tmp_path: Path) -> None:
    csv, svg = tmp_path / "points.csv", tmp_path / "fronts.svg"
    result = invoke(both, "--csv", csv, "--svg", svg)
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100
    for words in ("digits-v3", "Hypervolume", "robustness", "detectability", "attacks met"):
        assert words in result.output
    frame, committed = pd.read_csv(csv), pd.read_csv(both / "pareto.csv")
    pd.testing.assert_frame_equal(frame, committed)
    assert svg.read_bytes().startswith(b"<?xml")


def test_a_board_of_one_game_has_no_front(robust: Path, tmp_path: Path) -> None:
    result = invoke(robust)
    assert result.exit_code == 0
    assert "No attack was played in both games" in result.output
    assert "highest ASR left" in result.output
    assert "lowest AUC" not in result.output
    drawn = invoke(robust, "--svg", tmp_path / "x.svg")
    assert drawn.exit_code == 2
    assert "there is no front to draw" in drawn.output
    assert not (tmp_path / "x.svg").exists()


def test_some_attacks_only(both: Path, tmp_path: Path) -> None:
    csv = tmp_path / "points.csv"
    result = invoke(both, "--attacks", "badnets,lsp", "--csv", csv)
    assert result.exit_code == 0
    frame = pd.read_csv(csv)
    assert set(frame.attack.str.split(":").str[0]) == {"badnets", "lsp"}
    # Without the attack that dominated it on the whole board.
    assert frame.set_index(["attack", "m"]).front["lsp:base.side=0.15", 100]
    wrong = invoke(both, "--attacks", "badnet")
    assert wrong.exit_code == 2
    assert "no attack 'badnet' was played here; there are a-blend, advclean" in wrong.output
    clean = save(tmp_path / "clean", [played("none")])
    assert "here; there are clean models alone" in invoke(clean, "--attacks", "badnets").output


def test_failed_cells_of_other_attacks_count_nowhere(both: Path, tmp_path: Path) -> None:
    folder, csvs = tmp_path / "failed", [tmp_path / "with.csv", tmp_path / "without.csv"]
    shutil.copytree(both / "records", folder / "records")
    for path in (folder / "records").iterdir():
        record = json.loads(path.read_text())
        named = (record["attack"]["name"], record["defense"]["name"], record["seed"])
        if named == ("refool", "weight-decay", 0):
            error = {"kind": "RuntimeError", "message": "out of memory", "where": ""}
            gone = {"status": "failed", "error": error, "metrics": None, "curve": []}
            path.write_text(json.dumps(record | gone))
    for place, csv in zip((folder, both), csvs, strict=True):
        assert invoke(place, "--attacks", "badnets", "--csv", csv).exit_code == 0
    assert csvs[0].read_text() == csvs[1].read_text()


def test_what_a_submission_moved(both: Path, tmp_path: Path) -> None:
    old, csv = without(both, tmp_path / "old", "a-blend"), tmp_path / "changes.csv"
    svg = tmp_path / "fronts.svg"
    result = invoke(both, "--against", old, "--csv", csv, "--svg", svg)
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100
    frame = pd.read_csv(csv, keep_default_na=False, dtype=str).set_index("attack")
    new = frame.loc["a-blend"]
    points = pd.read_csv(both / "pareto.csv").dropna(subset=["asr_paper", "auc"])
    data = points[(points.kind == "data poisoning") & (points.attack != "a-blend")]
    # Who met fewer defenders can neither beat nor be beaten.
    assert data.front.isna().sum() == 1
    data = data[data.front.notna()]
    point = points.set_index("attack").loc["a-blend"]
    below = data[(data.asr_paper < point.asr_paper) & (data.auc > point.auc)]
    assert len(below) == len(data) > 1  # it beats them all, so that it is the whole front
    assert (new.change, new.dominated_by) == ("new", "")
    assert set(new.dominates.split("; ")) == {f"{r.attack} (m={r.m})" for r in data.itertuples()}
    assert set(frame.drop("a-blend").change) == {"same"}
    lsp = frame.loc["lsp:base.side=0.15"]
    assert (lsp.front_before, lsp.front_after) == ("True", "False")
    volume = point.asr_paper * (1 - point.auc)
    assert f"{volume:.3f}" in result.output
    assert b"data poisoning, before" in svg.read_bytes()
    back = invoke(old, "--against", both)
    assert "gone" in back.output


def test_names_are_those_of_both_sets_of_records(both: Path, tmp_path: Path) -> None:
    """Alone, the old records would call by its bare name what has several settings by now."""
    old = tmp_path / "old"
    (old / "records").mkdir(parents=True)
    for path in (both / "records").iterdir():
        if "lsp:rate=auto" not in path.read_text():
            shutil.copy(path, old / "records")
    csv = tmp_path / "changes.csv"
    for pair in ((both, old), (old, both)):
        assert invoke(pair[0], "--against", pair[1], "--csv", csv).exit_code == 0
        frame = pd.read_csv(csv)
        assert set(frame.change) == {"same"}
        assert "lsp:base.side=0.15" in set(frame.attack)


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_no_word_is_cut_however_narrow_the_terminal(columns: int, both: Path) -> None:
    result = invoke(both, columns=columns)
    # The folder's name stands above the tables, on a line that the terminal wraps.
    assert max(map(len, result.output.splitlines()[2:])) <= columns
    words = re.findall(r"\w+", result.output)
    frames = [pd.read_csv(both / f"{name}.csv") for name in ("pareto", "defenders")]
    names = {name for frame in frames for name in frame.filter(regex="^(attack|defender)$").stack()}
    assert {word for name in names for word in re.findall(r"\w+", name)} <= set(words)
    for heading in ("front", "attack", "defender", "best", "attacks", "AUC"):
        assert heading in words
    # Every interval is whole, and no column is lost.
    assert result.output.count("[") == result.output.count("]") > 20
    whole = set(re.findall(r"\[[\d., ]+\]", invoke(both, columns=400).output))
    assert set(re.findall(r"\[[\d., ]+\]", result.output)) == whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["robust", "--against", "both"], "fronts of different protocols cannot be compared"),
        (["both", "--protocol", "digits-v3"], "exclude each other"),
        (["both", "robust", "--csv", "x.csv"], "are for one folder, there are 2"),
        (["nowhere"], "holds no records; play a protocol"),
        (["--protocol", "nowhere"], "leaderboards/nowhere/records holds no records"),
        ([], "there is no board in leaderboards/; name the folder of a run"),
    ],
)
def test_errors_are_one_sentence(
    words: list[str],
    message: str,
    both: Path,
    robust: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {"both": both, "robust": robust}
    result = invoke(*(folders.get(word, word) for word in words), columns=400)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_folders_are_found_by_protocol_and_by_place(
    both: Path, robust: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaderboards").mkdir()
    for board in (both, robust):
        shutil.copytree(board, tmp_path / "leaderboards" / board.name)
    monkeypatch.chdir(tmp_path)
    one = invoke("--protocol", "made-up")
    assert "made-up" in one.output
    assert "digits-v3" not in one.output
    every = invoke()
    assert every.exit_code == 0
    for board in (both, robust):
        assert board.name in every.output


@pytest.mark.parametrize("command", ["pareto", "verify", "board build"])
def test_brackets_in_labels_and_paths_are_no_markup(
    command: str, both: Path, tmp_path: Path
) -> None:
    """Settings and folders may have names that would end a colour that nobody began."""
    folder = tmp_path / "[" / "red]"
    shutil.copytree(both, folder)
    for path in (folder / "records").iterdir():
        path.write_text(path.read_text().replace("lsp:rate=auto", "lsp:rate=[/red]"))
    result = CliRunner().invoke(app, [*command.split(), str(folder)], env={"COLUMNS": "250"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert str(folder) in result.output
    if command == "pareto":
        assert "so on no front: lsp:rate=[/red]" in " ".join(result.output.split())
