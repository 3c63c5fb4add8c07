"""The inversion game, played: records, the evidence behind them, and pictures."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from benchmark.games.all import read
from benchmark.games.inversion.record import InversionRecord
from benchmark.metrics import Rate
from benchmark.protocol import Protocol
from benchmark.records.cell import Cell
from benchmark.records.evidence import Arrays
from benchmark.records.store import Store
from benchmark.runs.context import Setup
from benchmark.runs.plan import plan
from benchmark.runs.tasks import Worker
from benchmark.verification.verify import wrong_numbers

# Of the fixture `with_inversion`.
STARTS, CURVE_STARTS, SELECTION, EVALUATION, RUNS = 3, 2, 30, 45, 3
RADII = (0.5, 1.0, 2.0, 4.0)

BROKEN = '''
from dataclasses import dataclass
from benchmark import Inverter, hookimpl

@dataclass
class Breaks(Inverter):
    """Raises before its first trigger."""
    name = "breaks"
    def invert(self, model, starts, rng):
        raise RuntimeError("no trigger today")
        yield

@dataclass
class Idle(Inverter):
    """Yields nothing."""
    name = "idle"
    def invert(self, model, starts, rng):
        yield from ()

@hookimpl
def register_defenses(register):
    register(Breaks)
    register(Idle)
'''


@dataclass(frozen=True)
class Played:
    worker: Worker
    cells: list[Cell]
    root: Path

    def content(self, cell: Cell) -> bytes:
        return (self.root / "records" / f"{cell.name}.json").read_bytes()


@pytest.fixture(scope="module")
def played(with_inversion: Protocol, tmp_path_factory: pytest.TempPathFactory) -> Played:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("inversion")
    (root / "run").mkdir()
    plugin = root / "broken.py"
    plugin.write_text(BROKEN)
    worker = Worker(Setup(with_inversion, "standard", "cpu", (plugin,), None, root / "run"))
    asked = ["smoothinv", "plainadv", "breaks", "idle"]
    cells = plan(with_inversion, worker.registry, defenses=asked)
    cells = [cell for cell in cells if cell.game == "inversion"]
    for cell in cells:
        if cell.defense.name in ("smoothinv", "plainadv") or cell.victim.attack.name == "badnets":
            for victim in cell.needs():
                assert worker.train_victim(victim) is None
            worker.play_cell(cell)
    done = [cell for cell in cells if worker.store.record(cell.name).is_file()]
    return Played(worker, done, root / "run")


def ok(played: Played) -> list[tuple[Cell, InversionRecord]]:
    found = []
    for cell in played.cells:
        if cell.defense.name in ("smoothinv", "plainadv"):
            record = read(played.content(cell))
            assert isinstance(record, InversionRecord)
            found.append((cell, record))
    assert len(found) == 4
    return found


def test_records_read_back_equal(played: Played) -> None:
    for cell, record in ok(played):
        assert record.status == "ok", record.error
        assert record.to_json().encode() == played.content(cell)
        assert json.loads(played.content(cell))["game"] == record.game == "inversion"
        assert (record.key, record.seed, record.target) == (cell.key, 0, 0)
        assert record.attack == cell.victim.attack
        facts = played.worker.store.victims.facts(cell.victim.key)
        assert record.victim_sha256 == facts["model_sha256"]
        grid = [0.5, 2.0] if cell.defense.name == "smoothinv" else [None]
        done = [(tried.params.get("epsilon"), tried.restart) for tried in record.tried]
        runs = -(-RUNS // len(grid))
        assert done == [(epsilon, restart) for restart in range(runs) for epsilon in grid]
        assert len(record.starts) == STARTS
        assert tuple(level.radius for level in record.swept) == RADII
        assert {len(level.classes) for level in record.swept} == {CURVE_STARTS}
        sigmas = [0.0, 0.5] if cell.defense.name == "smoothinv" else []
        assert [level.sigma for level in record.smoothed] == sigmas


def bits(arrays: Any, name: str, count: int) -> list[Any]:
    found: list[Any] = np.unpackbits(arrays[name], axis=-1, count=count).tolist()
    return found


def counted(hits: list[int], labels: list[int], without: int) -> dict[str, Any]:
    kept = [hit for hit, label in zip(hits, labels, strict=True) if label != without]
    return {"hits": sum(kept), "total": len(kept), "value": sum(kept) / len(kept)}


def dumped(rate: Rate) -> dict[str, Any]:
    return {"hits": rate.hits, "total": rate.total, "value": rate.value}


def test_every_count_follows_from_the_evidence(played: Played) -> None:
    partial = 0
    for _, record in ok(played):
        assert record.evidence is not None
        path = played.root / "evidence" / record.evidence.file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record.evidence.sha256
        arrays = np.load(path, allow_pickle=False)
        target = int(arrays["target"])
        parts = ("starts", "selection", "evaluation")
        labels = {name: arrays[f"labels_{name}"].tolist() for name in parts}
        assert [len(labels[name]) for name in labels] == [STARTS, SELECTION, EVALUATION]
        assert (target, target in labels["starts"]) == (record.target, False)
        assert [start.label for start in record.starts] == labels["starts"]
        for name, count in (("selection", SELECTION), ("evaluation", EVALUATION)):
            assert getattr(record, name) == sum(label != target for label in labels[name])
            for tried, rows in zip(record.tried, bits(arrays, name, count), strict=True):
                expected = [counted(row, labels[name], target)["hits"] for row in rows]
                assert list(getattr(tried, name)) == expected
                partial += sum(0 < hits < count for hits in expected)
        first = [tried for tried in record.tried if not tried.restart]
        for row, start in enumerate(record.starts):
            hits = [tried.selection[row] for tried in first]
            assert start.chosen == hits.index(max(hits))
            own = {"restricted": start.reasr, "on_clean_model": start.on_clean_model}
            for name, rate in own.items():
                assert rate is not None
                found = bits(arrays, name, EVALUATION)[row]
                assert dumped(rate) == counted(found, labels["evaluation"], target)
        for level, starts in zip(record.swept, bits(arrays, "classes", EVALUATION), strict=True):
            for rates, rows in zip(level.classes, starts, strict=True):
                assert len(rates) == 10
                for label, (rate, row) in enumerate(zip(rates, rows, strict=True)):
                    assert dumped(rate) == counted(row, labels["evaluation"], label)
        answers = arrays["smoothed"] if record.smoothed else []
        for level, (clean, triggered) in zip(record.smoothed, answers, strict=True):
            right = [int(a == b) for a, b in zip(clean, labels["evaluation"], strict=True)]
            assert dumped(level.clean) == counted(right, labels["evaluation"], -1)
            for rate, given in ((level.asr, triggered), (level.untriggered, clean)):
                found = [int(one == target) for one in given]
                assert dumped(rate) == counted(found, labels["evaluation"], target)
    assert partial > 0


def test_scale_and_distance_follow_from_images(played: Played) -> None:
    splits = played.worker.experiment.splits
    for cell, record in ok(played):
        assert record.evidence is not None
        arrays = np.load(played.root / "evidence" / record.evidence.file, allow_pickle=False)
        triggered = played.worker.store.victims.tensors(cell.victim.key, "triggered")["triggered"]
        change = (triggered.double() - splits.test.pixels.double()).numpy() / 255
        norms = [float(np.sqrt((one**2).sum())) for one in change[:EVALUATION]]
        assert record.scale == pytest.approx(sum(norms) / len(norms), rel=1e-5)
        assert float(arrays["scale"]) == record.scale
        masks = (change[:EVALUATION] != 0).any(axis=1)
        assert bits(arrays, "masks", masks[0].size) == masks.reshape(EVALUATION, -1).tolist()
        gaps = (arrays["inverted"].astype(float) - arrays["triggered"].astype(float)) / 255
        for gap, start in zip(gaps, record.starts, strict=True):
            # Pictures are kept as bytes.
            expected = np.sqrt((gap**2).sum()) / record.scale
            assert start.distance == pytest.approx(expected, abs=16 / 510 / record.scale)
        shown = (arrays["triggered"] != arrays["starts"]).any(axis=1)
        assert [start.overlap is None for start in record.starts] == (~shown.any((1, 2))).tolist()


def test_pictures_are_png_files_of_the_stated_hash(played: Played) -> None:
    for _, record in ok(played):
        assert record.picture is not None
        content = (played.root / "evidence" / record.picture.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == record.picture.sha256
        image = Image.open(io.BytesIO(content))
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert image.height == 16 + STARTS * 68
        assert len(np.unique(np.asarray(image))) > 10


def test_inverters_that_fail_leave_a_record_with_their_error(played: Played) -> None:
    failed = {c.defense.name: c for c in played.cells if c.defense.name in ("breaks", "idle")}
    assert set(failed) == {"breaks", "idle"}
    for name, kind, message in (
        ("breaks", "RuntimeError", "no trigger today"),
        ("idle", "RuleViolation", "idle.invert must yield at least one trigger"),
    ):
        record = read(played.content(failed[name]))
        assert isinstance(record, InversionRecord)
        assert (record.status, record.target, record.tried) == ("failed", 0, ())
        assert record.error is not None
        assert (record.error.kind, record.error.message) == (kind, message)
        assert record.evidence is record.picture is None


def test_a_victim_that_changed_since_it_was_saved_is_not_trusted(
    played: Played, tmp_path: Path
) -> None:
    cell = played.cells[0]
    shutil.copytree(played.root, tmp_path / "run")
    store = Store(tmp_path / "run")
    facts = store.victims.facts(cell.victim.key)
    groups = ("model", "state", "triggered", "confidence")
    tensors = {group: store.victims.tensors(cell.victim.key, group) for group in groups}
    store.victims.save(cell.victim.key, tensors, facts | {"test_hits": facts["test_hits"] + 1})
    setup = played.worker.setup
    Worker(replace(setup, root=tmp_path / "run")).play_cell(cell)
    record = read((tmp_path / "run" / "records" / f"{cell.name}.json").read_bytes())
    assert record.status == "invalid"
    assert record.reason == "victim-not-reproduced"


def test_playing_again_gives_the_same_numbers(played: Played) -> None:
    cell, before = ok(played)[1]
    assert played.worker.play_cell(cell) is None
    after = read(played.content(cell))
    same = {"cost": before.cost}
    assert after.model_copy(update=same) == before


def findings(played: Played, record: InversionRecord, **changes: Any) -> list[str]:
    """Fields whose numbers do not follow from the evidence, of which some arrays are changed."""
    assert record.evidence is not None
    with np.load(played.root / "evidence" / record.evidence.file, allow_pickle=False) as file:
        arrays = {**file, **changes}
    kept = {name: array for name, array in arrays.items() if array is not None}
    return [field for field, _ in wrong_numbers(record, Arrays(kept), played.worker.setup.protocol)]


def test_every_number_is_found_again_from_the_evidence(played: Played) -> None:
    for _, record in ok(played):
        assert findings(played, record) == []


def test_changed_numbers_are_found(played: Played) -> None:
    _, record = ok(played)[0]
    first, rest = record.swept[0], record.swept[1:]
    rates = first.classes[0]
    moved = Rate(1, rates[0].total)
    other = first.model_copy(update={"classes": ((moved, *rates[1:]), *first.classes[1:])})
    start = record.starts[0].model_copy(update={"overlap": None, "reasr": None})
    few = tuple(level.model_copy(update={"classes": level.classes[:1]}) for level in record.swept)
    for changes, fields in (
        ({"swept": (other, *rest)}, ["swept.0.classes"]),
        ({"swept": rest}, ["swept"]),
        ({"swept": few}, [f"swept.{number}.classes" for number in range(len(RADII))]),
        ({"starts": (start, *record.starts[1:])}, ["starts.0.overlap", "starts.0.reasr"]),
        # Repetition 1 attacks class 1.
        ({"seed": 11}, ["target", "target"]),
    ):
        found = findings(played, record.model_copy(update=changes))
        assert [name.split(".hits")[0] for name in found] == fields, changes


def test_a_trigger_that_covers_the_image_leaves_dashes(played: Played) -> None:
    """Where the evidence says so, ReASR and overlap must not be there, and the other way round."""
    _, record = ok(played)[0]
    everywhere = np.full((EVALUATION, 16 * 16 // 8), 255, np.uint8)
    assert findings(played, record, masks=everywhere) == ["starts.0.reasr"]
    assert findings(played, record, restricted=None) == ["starts.0.reasr"]
    update = {"overlap": None, "reasr": None}
    starts = tuple(start.model_copy(update=update) for start in record.starts)
    dashed = record.model_copy(update={"starts": starts})
    assert findings(played, dashed, masks=everywhere, restricted=None) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("starts", 0, "reasr", "hits"), 10**6),
        (("swept", 1, "classes", 0, 2, "hits"), 10**6),
        (("swept", 0, "radius"), 0.0),
        (("swept", 0, "classes"), []),
        (("starts", 0, "on_clean_model", "value"), 2.0),
        (("smoothed", 0, "asr", "hits"), -1),
        (("starts", 0, "chosen"), -1),
        (("starts", 0, "distance"), "NaN"),
        (("tried", 0, "restart"), -1),
        (("picture", "file"), "../up.png"),
        (("surprise",), 1),
    ],
)
def test_impossible_records_are_refused(
    played: Played, path: tuple[str | int, ...], value: object
) -> None:
    cell, _ = ok(played)[0]
    content = json.loads(played.content(cell))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValidationError, match=str(path[-1])):
        read(json.dumps(content).encode())
