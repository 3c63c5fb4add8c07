"""Committed boards follow from their records, and the records from their evidence."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.leaderboard.build import build
from benchmark.protocol import released

ROOT = Path(__file__).parent.parent.parent
BOARDS = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/records"))
RECORDS = [path for board in BOARDS for path in sorted((board / "records").glob("*.json"))]


def test_there_are_boards() -> None:
    assert [board.name for board in BOARDS] == ["fashion-mnist-v1"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_board_is_what_its_records_make(board: Path, tmp_path: Path) -> None:
    shutil.copytree(board / "records", tmp_path / "records")
    build(tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert made == ["README.md", "repairs.csv", "victims.csv"]
    for name in made:
        assert (tmp_path / name).read_bytes() == (board / name).read_bytes(), name


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_number_follows_from_the_evidence(path: Path) -> None:
    record: dict[str, Any] = json.loads(path.read_text())
    assert released()[record["protocol"]["name"]] == record["protocol"]["sha256"]
    assert record["status"] == "ok"
    file = path.parent.parent / "evidence" / record["evidence"]["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record["evidence"]["sha256"]
    evidence = np.load(file, allow_pickle=False)
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
