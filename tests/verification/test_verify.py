"""What does not follow from the evidence is found and named, and no such run is taken."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forgeries import (
    GUARDED,
    HOSTILE,
    OTHERS,
    REPAIRED,
    Json,
    at,
    edit,
    edit_evidence,
    rate,
    record_of,
    submit,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.games.all import read
from benchmark.leaderboard.build import build
from benchmark.leaderboard.index import write as write_index
from benchmark.records.strict import Refused, read_record
from benchmark.verification.submit import Rejected
from benchmark.verification.verify import verify


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    return lambda name: request.getfixturevalue(name)


@pytest.mark.parametrize("name", ["played", "examined", "inverted"])
def test_honest_runs_hold_and_are_taken(
    name: str, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    run, boards = runs(name), tmp_path / "boards"
    found = verify(run)
    assert found.findings == []
    assert len(found.records) == len(list((run / "records").iterdir())) > 1
    done = submit(run, boards)
    assert (done.new, done.known) == (len(found.records), 0)
    for part in ("records", "evidence"):
        for path in (run / part).iterdir():
            assert (done.folder / part / path.name).read_bytes() == path.read_bytes()
    again = submit(run, boards)
    assert (again.new, again.known) == (0, len(found.records))
    assert verify(done.folder).findings == []


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_and_damaged_submissions_are_refused(
    what: str, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    which, attack, file, field, reason = HOSTILE[what]
    run, boards = runs(which), tmp_path / "boards"
    (boards / "kept").mkdir(parents=True)
    attack(run)
    with pytest.raises(Rejected) as caught:
        submit(run, boards)
    lines = [str(finding) for finding in caught.value.findings]
    pattern = rf"{file}.*: {field}.*: .*{re.escape(reason) if reason != '.' else reason}"
    assert any(re.match(pattern, line) for line in lines), lines
    assert all("\n" not in line and line.isprintable() for line in lines)
    assert len(lines) < 30
    assert tree(boards) == {}


#: What no evidence can speak about: costs, versions, the hashes of models that are not kept.
FREE = re.compile(
    r"cost\.((defense_|victim_)?seconds|peak_memory_mb|device)|env\..*|(victim|model|data)_sha256"
    r"|scans\.\d+\.seconds|uses\..*"
)


def leaves(value: Any, place: str = "") -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        path = f"{place}.{key}".lstrip(".")
        found += leaves(inner, path) if isinstance(inner, dict | list) else [path]
    return found


def look(value: Any, place: str) -> Any:
    for part in place.split("."):
        value = value[int(part) if isinstance(value, list) else part]
    return value


@pytest.mark.parametrize("times", [30, pytest.param(700, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", ["played", "examined", "inverted"])
def test_any_changed_number_is_found(
    name: str, times: int, runs: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = runs(name)

    @settings(
        max_examples=times, deadline=None, derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(data=st.data())
    def change_one(data: st.DataObject) -> None:
        paths = sorted((run / "records").iterdir())
        path = data.draw(st.sampled_from(paths))
        honest = path.read_bytes()
        content = json.loads(honest)
        places = [place for place in leaves(content) if not FREE.fullmatch(place)]
        place = data.draw(st.sampled_from(places))
        old = look(content, place)
        new = data.draw(
            st.one_of(
                st.none(), st.integers(-3, 3000), st.floats(0, 1), st.booleans(),
                st.sampled_from(["", "x", "<b>", "../x", "none"]),
            ).filter(lambda new: new != old and not _near(new, old))
        )  # fmt: skip
        at(place, new)(content)
        path.write_text(json.dumps(content))
        try:
            findings = verify(run).findings
        finally:
            path.write_bytes(honest)
        assert any(path.stem in finding.file for finding in findings), (place, old, new)

    change_one()


def _near(new: Any, old: Any) -> bool:
    """Closer than confidences are kept, or than scores are compared."""
    numbers = isinstance(new, int | float) and isinstance(old, int | float)
    return bool(numbers and abs(new - old) <= max(1e-8, 1e-3 * max(abs(new), abs(old))))


@settings(max_examples=30, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_any_damaged_byte_of_evidence_is_found(data: st.DataObject, inverted: Path) -> None:
    path = data.draw(st.sampled_from(sorted((inverted / "evidence").iterdir())))
    honest = path.read_bytes()
    place = data.draw(st.integers(0, len(honest) - 1))
    damaged = bytearray(honest)
    damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        (finding,) = [f for f in verify(inverted).findings if f.field == "sha256"]
    finally:
        path.write_bytes(honest)
    assert finding.file.startswith("evidence/")


def test_other_test_images_are_found_even_where_all_fits(played: Path) -> None:
    """A forger who keeps counts: the labels of two equal answers are exchanged."""
    file = played / "evidence" / f"{record_of(played, 'robustness-none-m0-none-s0').stem}.npz"
    arrays = np.load(file)
    labels, answers = arrays["labels_test"], arrays["test"][0]
    right = np.flatnonzero(labels == answers)
    one = right[0]
    other = next(row for row in right if labels[row] != labels[one])
    swap = [other, one]

    def exchange(found: Json) -> None:
        for name in ("labels_test", "test"):
            found[name] = found[name].copy()
            found[name][..., [one, other]] = found[name][..., swap]

    edit_evidence(played, "robustness-none-m0-none-s0", exchange)
    findings = verify(played).findings
    assert [finding.field for finding in findings] == ["labels_test"]
    assert "digest of the labels" in findings[0].reason


def test_a_board_that_is_not_what_its_records_make_is_found(played: Path) -> None:
    build(played)
    assert verify(played).findings == []
    text = (played / "README.md").read_text()
    (played / "README.md").write_text(re.sub(r"\| badnets", "| goodnets", text, count=1))
    (finding,) = verify(played).findings
    assert (finding.file, "board build" in finding.reason) == ("README.md", True)


def test_the_command_says_one_line_each_and_fails(played: Path, tmp_path: Path) -> None:
    held = CliRunner().invoke(app, ["verify", str(played)])
    assert held.exit_code == 0
    assert "records hold" in held.output
    edit(record_of(played, REPAIRED), at("metrics.paper.asr", rate(1, OTHERS)))
    edit(record_of(played, GUARDED), at("env.torch", "<script>"))
    failed = CliRunner().invoke(app, ["verify", str(played)])
    assert failed.exit_code == 1
    assert len(re.findall(r"^records/robustness-badnets.*: .*: .*$", failed.output, re.M)) == 2
    assert "2 findings" in failed.output
    refused = CliRunner().invoke(app, ["submit", str(played), "--boards", str(tmp_path / "b")])
    assert refused.exit_code == 1
    assert "nothing was written" in refused.output
    assert not (tmp_path / "b").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_record_is_named(played: Path) -> None:
    record_of(played, REPAIRED).chmod(0)
    assert any("pivotal-tuning" in finding.file for finding in verify(played).findings)


def test_records_of_other_images_do_not_share_a_board(played: Path) -> None:
    edit(record_of(played, REPAIRED), at("data_sha256", "0" * 64))
    (finding,) = verify(played).findings
    assert "the digest of the images is 000000000000" in str(finding)


def test_explanations_belong_to_a_board(played: Path) -> None:
    header = "paper,recipe,quantity,attack,defense,share,text"
    (played / "explanations.csv").write_text(f"{header}\n")
    assert verify(played).findings == []
    build(played)
    assert verify(played).findings == []
    (played / "explanations.csv").write_text(f"{header}\nPick your Poison,fast,cda,,,,why\n")
    (finding,) = verify(played).findings
    assert "no disagreement of this board" in str(finding)


def test_a_board_has_all_repetitions_of_a_defense(
    runs: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = submit(runs("played"), tmp_path / "boards").folder
    build(folder)
    write_index(folder.parent)
    assert verify(folder).findings == []
    path = record_of(folder, REPAIRED)
    for file in (path, folder / "evidence" / f"{path.stem}.npz"):
        file.unlink()
    found = verify(folder).findings
    assert any("of 3 seeds 0 is missing" in finding.reason for finding in found)


@pytest.mark.parametrize(
    ("last", "field", "reason"),
    [("k149999", "file", "'k149999' is given twice"), ("k", "k0", "extra inputs")],
)
def test_a_record_of_many_fields_is_refused_soon(
    last: str, field: str, reason: str, played: Path
) -> None:
    path = record_of(played, REPAIRED)
    record = json.loads(path.read_text()) | {f"k{number}": 0 for number in range(150_000)}
    content = json.dumps(record, separators=(",", ":"))
    path.write_text(f'{content[:-1]},"{last}":1}}')
    begin = time.process_time()
    with pytest.raises(Refused) as caught:
        read_record(path, read)
    assert (caught.value.field, reason in caught.value.reason) == (field, True)
    assert time.process_time() - begin < 10  # linear: some 2 s, minutes otherwise
