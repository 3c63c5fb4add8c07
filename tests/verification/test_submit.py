"""Whose results a board takes: several strangers', all of a row, and of nobody twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forgeries import (
    GUARDED,
    REPAIRED,
    at,
    edit,
    edit_evidence,
    forged,
    interrupt,
    record_of,
    submit,
)
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.games.all import read
from benchmark.leaderboard import index
from benchmark.leaderboard.build import build, same
from benchmark.records import replays
from benchmark.records.files import sha256
from benchmark.registry import Registry
from benchmark.verification.submit import Rejected, _other_results
from benchmark.verification.verify import verify

CLEAN = "robustness-none-m0-none-s{}"
UNDEFENDED = "robustness-badnets-m40-none-s{}"


def only(run: Path, folder: Path, *defenses: str) -> Path:
    """A run of some defenses, with the models that they rest on."""
    for path in sorted((run / "records").iterdir()):
        if any(f"-{defense}-" in path.name for defense in ("none-m0-none", "m40-none", *defenses)):
            for file in (path, run / "evidence" / f"{path.stem}.npz"):
                (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / file.parent.name / file.name)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(run: Path, boards: Path, registry: Registry | None = None) -> list[str]:
    before = tree(boards)
    with pytest.raises(Rejected) as caught:
        submit(run, boards, registry)
    assert tree(boards) == before
    return [str(finding) for finding in caught.value.findings]


def test_a_second_stranger_adds_to_the_board_of_the_first(played: Path, tmp_path: Path) -> None:
    first = only(played, tmp_path / "first", "pivotal-tuning-r0.05")
    second = only(played, tmp_path / "second", "strip-r0.05")
    for seed in range(3):  # trained again, with other costs
        for name in (CLEAN, UNDEFENDED):
            edit(record_of(second, name.format(seed)), at("cost.seconds", 99.0))
    boards = tmp_path / "boards"
    one = submit(first, boards)
    taken = tree(one.folder)
    two = submit(second, boards)
    assert (one.new, one.known, two.new, two.known) == (9, 0, 3, 6)
    now = tree(two.folder)
    assert {file: now[file] for file in taken} == taken
    assert verify(two.folder).findings == []
    build(two.folder)
    assert verify(two.folder).findings == []


def test_another_result_of_a_cell_is_refused_and_another_cost_is_not(
    played: Path, tmp_path: Path
) -> None:
    boards = tmp_path / "boards"
    submit(played, boards)
    edit(record_of(played, REPAIRED), at("cost.seconds", 1.0))
    edit(record_of(played, REPAIRED), at("env.torch", "9.9"))
    done = submit(played, boards)
    assert (done.new, done.known) == (0, 12)
    edit(record_of(played, REPAIRED), at("model_sha256", "0" * 64))
    (line,) = refused(played, boards)
    assert "has another result on the board" in line


def test_a_clean_model_may_have_another_result_on_other_hardware(
    played: Path, tmp_path: Path
) -> None:
    """Even a defended one, which every submitted attack rests on; the board's stays."""
    content = json.loads(record_of(played, REPAIRED).read_text())
    for threat, others in (("none", 0), ("poison-label", 1)):
        run, board = tmp_path / threat / "run", tmp_path / threat / "board"
        for place, digest in ((run, "0" * 64), (board, "1" * 64)):
            (place / "records").mkdir(parents=True)
            attack = content["attack"] | {"threat": threat}
            text = json.dumps(content | {"attack": attack, "model_sha256": digest})
            (place / "records" / "one.json").write_text(text)
        assert len([*_other_results(run, board, ["records/one.json"])]) == others


@pytest.mark.parametrize("after", [1, 5, 13])
def test_an_interrupted_submission_continues(
    after: int, played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards = tmp_path / "boards"
    with monkeypatch.context() as patched:
        written = interrupt(patched, after)
        with pytest.raises(KeyboardInterrupt):
            submit(played, boards)
    assert len(written) == after
    submit(played, boards)
    assert verify(boards / "small-v1").findings == []
    assert len(list((boards / "small-v1" / "records").iterdir())) == 12


def remove(run: Path, name: str) -> None:
    path = record_of(run, name)
    (run / "evidence" / f"{path.stem}.npz").unlink()
    path.unlink()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (REPAIRED, "of 3 seeds 0 is missing"),
        (UNDEFENDED.format(1), "the cell of its undefended model is missing"),
        (CLEAN.format(2), "the cell of its clean model is missing"),
    ],
)
def test_nobody_chooses_what_is_shown(name: str, reason: str, played: Path, tmp_path: Path) -> None:
    remove(played, name)
    assert verify(played).findings == []  # a run that is not complete is no lie
    lines = refused(played, tmp_path / "boards")
    assert lines
    assert all(reason in line for line in lines)


def test_the_results_of_one_seed_are_not_those_of_another(played: Path, tmp_path: Path) -> None:
    good = json.loads(record_of(played, UNDEFENDED.format(2)).read_text())
    path = record_of(played, UNDEFENDED.format(0))
    source = played / "evidence" / good["evidence"]["file"]

    def copy(record: dict[str, Any]) -> None:
        for part in ("metrics", "curve", "victim_sha256", "model_sha256"):
            record[part] = good[part]
        record["evidence"]["sha256"] = good["evidence"]["sha256"]

    shutil.copyfile(source, played / "evidence" / f"{path.stem}.npz")
    edit(path, copy)
    lines = refused(played, tmp_path / "boards")
    assert any("target: is 2 in the evidence, repetition 0 attacks 0" in line for line in lines)


def test_one_model_does_not_answer_in_two_ways(played: Path, tmp_path: Path) -> None:
    """All counts stay: two wrong answers of the undefended victim are exchanged."""

    def exchange(arrays: dict[str, Any]) -> None:
        labels, answers = arrays["labels_test"], arrays["test"].copy()
        wrong = np.flatnonzero(answers[0] != labels)
        one, other = next(
            (i, j)
            for i in wrong
            for j in wrong
            if answers[0, i] not in (labels[j], answers[0, j]) and answers[0, j] != labels[i]
        )
        answers[0, [one, other]] = answers[0, [other, one]]
        arrays["test"] = answers

    edit_evidence(played, REPAIRED, exchange)
    lines = refused(played, tmp_path / "boards")
    assert len(lines) == 1
    assert "curve.0: the digest of the answers of model" in lines[0]


def test_a_run_trains_every_victim_once(played: Path, tmp_path: Path) -> None:
    for digest in ("victim_sha256", "model_sha256"):
        edit(record_of(played, GUARDED), at(digest, "0" * 64))
    assert any("another model" in line for line in refused(played, tmp_path / "boards"))


LIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a setting that the label hides": (
        lambda run: each(run, "badnets", at("attack.label", "badnets")),
        "another side than that of the installed",
    ),
    "another threat": (
        lambda run: each(run, "badnets", at("attack.threat", "clean-label"), anew=True),
        "was played as clean-label, the installed plugin is poison-label",
    ),
    "another stage": (
        lambda run: forged(GUARDED, ("defense.stages.0.stage", "sanitize"),
                           ("trusted_share", None))(run),
        "labels_held_out",
    ),
    "two versions": (
        lambda run: forged(REPAIRED, ("defense.stages.0.version", 2))(run),
        "version 2",
    ),
    "a version that never was": (
        lambda run: forged(REPAIRED, ("defense.stages.0.version", -3))(run),
        "version: is -3",
    ),
    "a label with empty parts": (
        lambda run: edit(record_of(run, REPAIRED), at("attack.label", "badnets:,side=0.25")),
        "not written as poisongames writes it",
    ),
    "a setting that is none": (
        lambda run: edit(record_of(run, REPAIRED), at("attack.label", "badnets:cheat=None")),
        "the parameter is missing",
    ),
    "a plugin that is none": (
        lambda run: forged(REPAIRED, ("attack.params", {"side": {"name": "x", "params": 3}}))(run),
        "neither a value nor a plugin",
    ),
    "a bad number called invalid": (
        lambda run: edit(record_of(run, REPAIRED),
                         lambda r: r.update(status="invalid", reason="the moon was full")),
        "input should be 'near-chance'",
    ),
    "near chance, as if it were": (
        lambda run: edit(record_of(run, REPAIRED), lambda r: r.update(
            status="invalid", reason="near-chance")),
        "not near chance",
    ),
    "a failure that keeps its numbers": (
        lambda run: edit(record_of(run, REPAIRED), lambda r: r.update(
            status="failed", error={"kind": "E", "message": "m", "where": "w"}, curve=[])),
        "an error and no numbers",
    ),
}  # fmt: skip


def each(run: Path, attack: str, change: Callable[[Any], Any], anew: bool = False) -> None:
    for path in sorted((run / "records").glob(f"robustness-{attack}-*")):
        edit(path, change)
        if anew:
            forged(path.stem.rsplit("-", 1)[0])(run)


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_plugins_and_outcomes_are_refused(
    lie: str, played: Path, tmp_path: Path, registry: Registry
) -> None:
    tell, reason = LIES[lie]
    tell(played)
    lines = refused(played, tmp_path / "boards", registry)
    assert any(reason in line for line in lines), lines


#: What makes a picture do something, where it stands in the place of what is there.
ACTIVE = (
    (b"<g ", b"<script>alert(1)</script><g "),
    (b"<g ", b'<s:script xmlns:s="http://www.w3.org/2000/svg">alert(1)</s:script><g '),
    (b"<g ", b'<g onload="alert(1)" '),
    (b"<g ", b"<foreignObject/><g "),
    (b"<g ", b'<image href="https://x.example/a.png"/><g '),
    (b"<g ", b'<a xmlns:xlink="http://www.w3.org/1999/xlink" xlink:href="javascript:a()"/><g '),
    (b'xlink:href="#', b'xlink:href="https://x.example/#'),
    (b"url(#", b"url(https://x.example/#"),
    (b"</style>", b"<path/>*{fill:url(https://x.example/a)}</style>"),
    (b'style="', b'style="fill: u\\72l(https://x.example/a); '),
    (b'style="', b"style=\"cursor: image-set('https://x.example/a'); "),
    (b"*{", b"@import 'https://x.example/a.css';*{"),
    (b"<!DOCTYPE svg", b'<?xml-stylesheet href="https://x.example/a.css"?><!DOCTYPE svg'),
    (b"<!DOCTYPE svg", b"<!DOCTYPE svg [<!ENTITY a 'b'>] "),
    (b"</svg>", b"</svg"),
)


def test_a_board_has_no_artifacts(played: Path, tmp_path: Path) -> None:
    (played / "artifacts").mkdir()
    (played / "artifacts" / "model.safetensors").write_bytes(b"x")
    assert verify(played).findings == []  # a run has them
    boards = tmp_path / "boards"
    folder = submit(played, boards).folder
    assert not (folder / "artifacts").exists()
    index.write(boards)
    (folder / "artifacts").mkdir()
    (finding,) = verify(folder).findings
    assert (finding.file, "a board has none" in finding.reason) == ("artifacts", True)


def test_text_that_a_spreadsheet_would_compute_is_quoted(played: Path, tmp_path: Path) -> None:
    folder = submit(played, tmp_path / "boards").folder
    record = read(record_of(folder, REPAIRED).read_bytes())
    digest = sha256(record_of(folder, REPAIRED).read_bytes())
    replays.add(folder, {record.key: replays.Replay(
        record=digest, verdict="equal", device="=1+1", env={"torch": "@2"})}, {digest})  # fmt: skip
    build(folder)
    line = (folder / "replays.csv").read_text().splitlines()[1]
    assert line.split(",")[-3:] == ["'=1+1", "", "'@2"]


def test_a_board_without_its_page_and_a_plot_with_a_script_are_found(
    examined: Path, tmp_path: Path
) -> None:
    folder = submit(examined, tmp_path / "boards").folder
    build(folder)
    plot = folder / "curves.svg"
    honest = plot.read_bytes()
    foreign = honest.replace(b"<dc:title>Matplotlib v", b"<dc:title>Matplotlib v0.")
    plot.write_bytes(foreign)
    assert verify(folder).findings == []  # drawn by another version
    for old, new in ACTIVE:
        assert old in foreign
        assert not same(foreign.replace(old, new, 1), honest), new
    plot.write_bytes(foreign.replace(*ACTIVE[0], 1))
    assert [finding.file for finding in verify(folder).findings] == ["curves.svg"]
    plot.write_bytes(honest)
    (folder / "README.md").unlink()
    (folder / "index.html").write_text("<script>alert(1)</script>")
    found = [finding.file for finding in verify(folder).findings]
    assert found == ["README.md", "index.html"]


def test_the_command_takes_a_run(played: Path, tmp_path: Path) -> None:
    words = ["submit", str(played), "--boards", str(tmp_path / "boards"), "--no-replay"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    assert "12 records are new in" in done.output
    assert "none was played again" in done.output
    assert f"poisongames board build {tmp_path / 'boards' / 'small-v1'}" in done.output


def test_of_a_run_that_was_cut_short_whole_rows_are_taken(played: Path, tmp_path: Path) -> None:
    (unfinished,) = (played / "records").glob("*strip-r0.05-s2*")
    unfinished.unlink()
    (played / "evidence" / f"{unfinished.stem}.npz").unlink()
    boards = tmp_path / "boards"
    boards.mkdir()
    assert any("seeds 2 is missing" in one for one in refused(played, boards))
    words = ["submit", str(played), "--boards", str(boards), "--whole-rows", "--no-replay"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    assert "9 records are new" in done.stdout
    assert "2 of unfinished rows were left out" in done.stdout
    board = boards / "small-v1"
    files = [path.name for path in board.rglob("*") if path.is_file()]
    assert len(files) == 18
    assert not [name for name in files if "-strip-" in name]
    assert verify(board).findings == []
    # What is wrong for another reason is not left out.
    edit(record_of(played, REPAIRED), at("metrics.paper.step", 1))
    with pytest.raises(Rejected):
        submit(played, boards, whole_rows=True)


def undefended_alone(played: Path) -> None:
    """Leave the undefended and clean models of a run."""
    for path in [*played.rglob("*pivotal-tuning*"), *played.rglob("*strip*")]:
        path.unlink()


def test_undefended_models_alone_are_whole_rows_too(played: Path, tmp_path: Path) -> None:
    undefended_alone(played)
    for path in played.rglob("*badnets-m40-none-s1*"):
        path.unlink()
    boards = tmp_path / "boards"
    boards.mkdir()
    lines = refused(played, boards)
    assert len(lines) == 2
    assert all("of 3 seeds 1 is missing" in line for line in lines)
    done = submit(played, boards, whole_rows=True)
    assert (done.new, done.left_out) == (3, 2)  # all clean ones are a row of their own
    for path in {*played.rglob("*badnets*"), *played.rglob("*-s2-*")}:
        path.unlink()
    none = [line for line in refused(played, tmp_path / "others") if "none-m0" in line]
    assert len(none) == 2
    assert all("of 3 seeds 2 is missing" in line for line in none)


def test_undefended_models_stay_where_a_board_rests_on_them(played: Path, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    submit(played, boards)
    undefended_alone(played)
    for path in played.rglob("*badnets-m40-none-s1*"):
        path.unlink()
    assert submit(played, boards).new == 0


def test_nobody_founds_a_board_where_there_is_no_checkout(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["submit", str(played), "--no-replay"], env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert "there is no leaderboards/ here; submit in a checkout" in done.output
    assert not (tmp_path / "leaderboards").exists()


def test_the_folder_of_all_boards_is_no_board(played: Path, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    submit(played, boards)
    (finding,) = verify(boards).findings
    assert finding.reason.endswith(f"such as {boards / 'small-v1'}")
