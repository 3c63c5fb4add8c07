"""Committed boards follow from their records, and the records from their evidence."""

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.leaderboard.build import build
from benchmark.protocol import load, released, tuned_folder
from benchmark.runs import tuned

ROOT = Path(__file__).parent.parent.parent
BOARDS = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/records"))
RECORDS = [path for board in BOARDS for path in sorted((board / "records").glob("*.json"))]
EXAMINED = [path for path in RECORDS if path.name.startswith("detectability-")]
INVERTED = [path for path in RECORDS if path.name.startswith("inversion-")]
PLAYED = [path for path in RECORDS if path.name.startswith("robustness-")]


def test_there_are_boards() -> None:
    assert [board.name for board in BOARDS] == [
        "fashion-mnist-inversion-v1",
        "fashion-mnist-v1",
        "fashion-mnist-v2",
    ]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_board_is_what_its_records_make(board: Path, tmp_path: Path) -> None:
    for folder in ("records", "tuning"):
        if (board / folder).is_dir():
            shutil.copytree(board / folder, tmp_path / folder)
    build(tmp_path)
    made = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert made >= {"README.md", "victims.csv"}
    assert made == {path.name for path in board.iterdir() if path.is_file()}
    for name in made:
        # Another version of matplotlib draws the same plot with other bytes.
        if not name.endswith(".svg"):
            assert (tmp_path / name).read_bytes() == (board / name).read_bytes(), name


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_tuned_settings_are_those_of_the_committed_searches(board: Path) -> None:
    """And those are the best points of their grids, over the whole grid of the protocol."""
    protocol, searches = load(board.name), tuned.load(tuned_folder(board.name))
    assert searches == tuned.load(board / "tuning")
    if protocol.tuning is None:
        assert not searches
        return
    shares = len({*protocol.robustness.shares, protocol.detectability.share})  # type: ignore[union-attr]
    assert len(searches) == shares * len(protocol.tuning.grids)
    for search in searches:
        assert search.protocol.sha256 == protocol.sha256
        grid = protocol.tuning.grids[search.defense]
        tried = {tuple(trial.params[name] for name in grid) for trial in search.trials}
        assert tried == set(product(*grid.values()))
        assert search.best.asr == min(trial.asr for trial in search.trials)
    best = tuned.chosen(board / "tuning")
    for path in (board / "records").glob("robustness-*.json"):
        record = json.loads(path.read_text())
        for stage in record["defense"]["stages"]:
            for key, value in best.get((stage["name"], record["trusted_share"]), {}).items():
                assert stage["params"][key] == value, path.name


def read(path: Path) -> tuple[dict[str, Any], Any]:
    """A record and its evidence, once both are known to belong to each other."""
    record: dict[str, Any] = json.loads(path.read_text())
    assert released()[record["protocol"]["name"]] == record["protocol"]["sha256"]
    assert record["status"] == "ok"
    file = path.parent.parent / "evidence" / record["evidence"]["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record["evidence"]["sha256"]
    return record, np.load(file, allow_pickle=False)


@pytest.mark.parametrize("path", EXAMINED, ids=lambda path: path.stem)
def test_every_score_follows_from_the_evidence(path: Path) -> None:
    record, evidence = read(path)
    target, labels = int(evidence["target"]), evidence["labels_test"]
    others = labels != target
    assert record["target"] == target
    assert len(record["scans"]) == len(evidence["scores"]) == 3
    for number, scan in enumerate(record["scans"]):
        assert scan["score"] == evidence["scores"][number]
        assert scan["class_scores"] == pytest.approx(evidence["class_scores"][number].tolist())
        assert scan["guess"] == int(np.argmax(evidence["class_scores"][number]))
        assert scan["norms"] == pytest.approx(evidence["norms"][number].tolist())
        if record["attack"]["name"] == "none":
            assert "reversed_answers" not in evidence
            continue
        hits = [int((row[others] == target).sum()) for row in evidence["reversed_answers"][number]]
        assert [scan["success"]["hits"], scan["reasr"]["hits"]] == hits
        assert scan["success"]["total"] == int(others.sum())


@pytest.mark.parametrize("path", INVERTED, ids=lambda path: path.stem)
def test_every_inversion_follows_from_the_evidence(path: Path) -> None:
    record, evidence = read(path)
    target, labels = int(evidence["target"]), evidence["labels_evaluation"]
    others, selecting = labels != target, evidence["labels_selection"] != target
    assert (record["evaluation"], record["selection"]) == (others.sum(), selecting.sum())
    assert len(evidence["starts"]) == len(record["starts"]) == 10
    assert target not in evidence["labels_starts"]

    def bits(name: str, images: int) -> Any:
        return np.unpackbits(evidence[name], axis=-1, count=images).astype(bool)

    for part, mask in (("selection", selecting), ("evaluation", others)):
        hits = bits(part, len(mask))[:, :, mask].sum(2)
        assert hits.tolist() == [tried[part] for tried in record["tried"]]
    classes = bits("classes", len(labels))
    restricted, clean = bits("restricted", len(labels)), bits("on_clean_model", len(labels))
    first = [tried for tried in record["tried"] if not tried["restart"]]
    for row, start in enumerate(record["starts"]):
        # What is told of a start image is told of the run that was selected without restarts.
        found = [tried["selection"][row] for tried in first]
        assert start["chosen"] == found.index(max(found))
        assert start["reasr"]["hits"] == restricted[row, others].sum()
        assert start["on_clean_model"]["hits"] == clean[row, others].sum()
        for label, rate in enumerate(start["classes"]):
            counted = labels != label
            assert (rate["hits"], rate["total"]) == (
                classes[row, label, counted].sum(),
                counted.sum(),
            )
        begin, inverted, triggered = (
            evidence[name][row].astype(np.float64) / 255
            for name in ("starts", "inverted", "triggered")
        )
        for part, change in (("distance", inverted - triggered), ("norm", inverted - begin)):
            assert start[part] == pytest.approx(np.linalg.norm(change) / record["scale"], rel=1e-4)
        # The pixels that change most, at most as many as the true trigger's.
        mask, sizes = evidence["mask"].ravel(), np.abs(inverted - begin).max(0).ravel()
        size = min(int(mask.sum()), int((sizes > 0).sum()))
        least = np.sort(sizes)[::-1][size - 1] if size else np.inf
        surely, perhaps = sizes > least + 1e-6, sizes > least - 1e-6
        # Which of equals are taken is left open.
        room = size - surely.sum()
        ties = (perhaps & ~surely & mask).sum(), (perhaps & ~surely & ~mask).sum()
        shared = (surely & mask).sum() + np.array([max(0, room - ties[1]), min(room, ties[0])])
        low, high = shared / (mask.sum() + size - shared)
        assert low - 1e-6 <= start["overlap"] <= high + 1e-6
    for number, level in enumerate(record["smoothed"]):
        assert level["sigma"] == evidence["sigmas"][number]
        plain, triggered = evidence["smoothed"][number]
        assert level["clean"]["hits"] == (plain == labels).sum()
        assert level["asr"]["hits"] == (triggered[others] == target).sum()
        assert level["untriggered"]["hits"] == (plain[others] == target).sum()
    picture = path.parent.parent / "evidence" / record["picture"]["file"]
    assert hashlib.sha256(picture.read_bytes()).hexdigest() == record["picture"]["sha256"]


@pytest.mark.parametrize("path", PLAYED, ids=lambda path: path.stem)
def test_every_rate_follows_from_the_evidence(path: Path) -> None:
    record, evidence = read(path)
    target, labels = int(evidence["target"]), evidence["labels_test"]
    others = labels != target
    assert len(record["curve"]) == len(evidence["test"])
    for number, point in enumerate(record["curve"]):
        right = int((evidence["test"][number] == labels).sum())
        assert (point["cda"]["hits"], point["cda"]["total"]) == (right, len(labels))
        held_out = evidence["validation"][number] == evidence["labels_validation"]
        assert point["validation"]["hits"] == int(held_out.sum())
        if record["attack"]["name"] == "none":
            assert point["asr"]["total"] == 0
            continue
        hits = evidence["triggered"][number] == target
        assert point["asr"]["hits"] == int(hits[others].sum())
        assert point["asr"]["total"] == int(others.sum())
        assert point["asr_game"] == pytest.approx(hits.mean() - (labels == target).mean())
