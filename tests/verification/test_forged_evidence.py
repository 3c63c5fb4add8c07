"""Forgeries in which record and evidence agree, and archives that no honest run writes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forgeries import (
    GUARDED,
    REPAIRED,
    SCANNED,
    SMOOTHED,
    Json,
    at,
    edit,
    edit_evidence,
    record_of,
    renamed,
    tampered,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from small_board import cut
from test_likeness import rescored, victim_of

from benchmark.verification.verify import verify

UNDEFENDED = "robustness-badnets-m40-none-s0"
MEASURED = ("held_out", "test", "triggered")

Attack = Callable[[Path], object]


def both(name: str, record: Callable[[Json], object], arrays: Callable[[Json], object]) -> Attack:
    """A forger who keeps record and evidence in step."""

    def change(run: Path) -> None:
        edit_evidence(run, name, arrays)
        edit(record_of(run, name), record)

    return change


def points(name: str, take: Callable[[list[Any]], list[Any]], **steps: int) -> Attack:
    """Another choice of the measured points, with other steps for some of them."""

    def record(content: Json) -> None:
        content["curve"] = take([dict(point) for point in content["curve"]])
        for place, step in steps.items():
            content["curve"][int(place.removeprefix("at"))]["step"] = step

    def arrays(found: Json) -> None:
        rows = take(list(range(len(found["test"]))))
        found.update({part: found[part][rows] for part in MEASURED})

    return both(name, record, arrays)


def sanitized(times: int, step: int = 0) -> Attack:
    """An undefended victim said to be sanitized, with the sanitized model so many times."""

    def change(run: Path) -> None:
        extra = {f"at{number + 1}": step for number in range(times)}
        points(UNDEFENDED, lambda rows: rows + [dict(rows[0]) if isinstance(rows[0], dict) else 0
               for _ in range(times)], **extra)(run)  # fmt: skip
        stage = {"label": "own", "name": "own", "version": 1, "params": {}, "stage": "sanitize"}
        path = record_of(run, UNDEFENDED)
        edit(path, at("defense", {"name": "own", "stages": [stage]}))
        for number in range(times):
            edit(path, at(f"curve.{number + 1}.stage", "sanitize"))
        renamed(run, UNDEFENDED)

    return change


def scans(
    name: str, change: Callable[[Json, int], object], arrays: Callable[[Json], object]
) -> Attack:
    def record(content: Json) -> None:
        for number, scan in enumerate(content["scans"]):
            change(scan, number)

    return both(name, record, arrays)


def more(name: str, array: str, value: Any) -> Attack:
    return lambda run: edit_evidence(run, name, at(array, value))


def an_own_run(run: Path) -> None:
    def arrays(found: Json) -> None:
        for part in ("selection", "evaluation"):
            found[part] = np.concatenate([found[part], np.full_like(found[part][:1], 255)])

    def record(content: Json) -> None:
        counts = {part: [content[part]] * len(content["starts"])
                  for part in ("selection", "evaluation")}  # fmt: skip
        content["tried"].append({"params": {"cheat": 9.0}, "restart": 7} | counts)

    both(SMOOTHED, record, arrays)(run)


def another_order(run: Path) -> None:
    def record(content: Json) -> None:
        runs = content["tried"] = content["tried"][::-1]
        first = [number for number, tried in enumerate(runs) if not tried["restart"]]
        for row, start in enumerate(content["starts"]):
            start["chosen"] = max(first, key=lambda n: runs[n]["selection"][row])

    def arrays(found: Json) -> None:
        found.update({part: found[part][::-1] for part in ("selection", "evaluation")})

    both(SMOOTHED, record, arrays)(run)


def another_scale(run: Path) -> None:
    def record(content: Json) -> None:
        content["scale"] *= 100
        for start in content["starts"]:
            start.update(norm=start["norm"] / 100, distance=start["distance"] / 100)

    both(SMOOTHED, record, lambda found: found.update(scale=found["scale"] * 100))(run)


def fewer_classes(run: Path) -> None:
    def record(content: Json) -> None:
        for swept in content["swept"]:
            for start in swept["classes"]:
                start.pop()

    both(SMOOTHED, record, lambda found: found.update(classes=found["classes"][:, :, :-1]))(run)


def another_picture(picture: Image.Image, **options: Any) -> Attack:
    def change(run: Path) -> None:
        path = record_of(run, SMOOTHED)
        file = run / "evidence" / f"{path.stem}.png"
        picture.save(file, **options)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        edit(path, at("picture.sha256", digest))

    return change


def norms(value: float) -> Attack:
    return scans(SCANNED, lambda scan, _: scan.update(norms=[value] * 10),
                 lambda found: found.update(norms=np.full((3, 10), value)))  # fmt: skip


def reading(name: str, only: int | None = None) -> Attack:
    def change(scan: Json, number: int) -> None:
        if only in (None, number):
            scan["also"][name] = scan["score"]

    return scans(SCANNED, change, lambda found: found.update({f"also_{name}": found["scores"]}))


def text_of(length: int) -> PngInfo:
    found = PngInfo()
    found.add_text("comment", "x" * length)
    return found


#: By what it is: which run, what is done to it, and the file, field and reason that are named.
FORGED: dict[str, tuple[str, Attack, str, str, str]] = {
    "a run of one's own": ("inverted", an_own_run, "records", "tried", "the protocol's config"),
    "runs in another order": ("inverted", another_order, "records", "tried.0", "protocol plays"),
    "a scale of one's own": ("inverted", another_scale, "records", "scale", "on start images"),
    "a smoothed classifier left out": ("inverted", tampered(SMOOTHED, "smoothed", []),
        "records", "smoothed", "the evidence gives"),
    "nine of ten classes": ("inverted", fewer_classes, "evidence", "smoothed", "are 0 to 8"),
    "another target in the evidence": ("inverted", more(SMOOTHED, "target", np.array(3, np.int16)),
        "records", "target", "is 3 in the evidence"),
    "start images beyond those": ("inverted",
        lambda run: edit_evidence(run, SMOOTHED, lambda a: a.update(
            triggered=np.concatenate([a["triggered"], 255 - a["starts"]]))),
        "evidence", "triggered", "has shape"),
    "start images that are none": ("inverted",
        lambda run: edit_evidence(run, SMOOTHED, lambda a: a.update(
            inverted=a["inverted"].astype(np.float64))),
        "evidence", "inverted", "float64"),
    "a poster": ("inverted", another_picture(Image.new("RGB", (4000, 4000), "red")),
        "evidence", "file", "pixels, at most"),
    "a heavy picture": ("inverted",
        another_picture(Image.new("RGB", (616, 356)), pnginfo=text_of(1 << 20)),
        "evidence", "file", "bytes, at most"),
    "three deployments": ("played", points(GUARDED, lambda rows: [*rows, rows[-1], rows[-1]]),
        "records", "curve.2.stage", "measured once"),
    "a deployment at a step of its own": ("played", points(GUARDED, lambda rows: rows, at1=7),
        "records", "curve.1.step", "has step 0"),
    "two sanitized models": ("played", sanitized(times=2),
        "records", "curve.2.stage", "measured once"),
    "a sanitized model at a step of its own": ("played", sanitized(times=1, step=5),
        "records", "curve.1.step", "has step 0"),
    "a repair that is cut short": ("played", points(REPAIRED, lambda rows: rows[:-2]),
        "records", "curve", "ends at step 4 of 8"),
    "a repair that ends at an odd step": ("played", points(REPAIRED, lambda rows: rows, at4=7),
        "records", "curve", "ends at step 7 of 8"),
    "confidences above 1": ("played", both(REPAIRED, at("metrics.target_confidence", 50.0),
        lambda found: found.update(confidence=np.full_like(found["confidence"], 50))),
        "evidence", "confidence", "outside 0 to 1"),
    "an array that nobody reads": ("played", more(REPAIRED, "weights", np.zeros(9)),
        "evidence", "weights", "does not leave behind"),
    "a scan's array that nobody reads": ("examined", more(SCANNED, "weights", np.zeros(9)),
        "evidence", "weights", "does not leave behind"),
    "an inversion's array that nobody reads": ("inverted", more(SMOOTHED, "weights", np.zeros(9)),
        "evidence", "weights", "does not leave behind"),
    "huge examples": ("played", more(UNDEFENDED, "examples",
        np.zeros((2, 4, 3, 129, 8), np.uint8)), "evidence", "examples", "no pictures"),
    "many examples": ("played", more(UNDEFENDED, "examples", np.zeros((2, 5, 3, 8, 8), np.uint8)),
        "evidence", "examples", "no pictures"),
    "huge reversed triggers": ("examined", more(SCANNED, "reversed_sum",
        np.zeros((3, 2, 1, 129, 8), np.uint8)), "evidence", "reversed_sum", "no triggers"),
    "a range of reversed triggers": ("examined", more(SCANNED, "reversed_sum_range", np.zeros(9)),
        "evidence", "reversed_sum_range", "has shape"),
    **{f"{field} of {value}": (run, tampered(name, field, value), "records", field, reason)
       for run, name, field in (
           ("played", REPAIRED, "cost.seconds"), ("played", REPAIRED, "cost.victim_seconds"),
           ("played", REPAIRED, "cost.peak_memory_mb"), ("examined", SCANNED, "scans.0.seconds"))
       for value, reason in ((1e308, "less than"), (-5.0, "greater than"))},
    "norms beyond single precision": ("examined", norms(1e300),
        "records", "scans.0.norms.0", "less than"),
    "a reading beyond single precision": ("examined", scans(SCANNED,
        lambda scan, _: scan["also"].update(x=1e308),
        lambda found: found.update(also_x=np.full(3, 1e308))),
        "records", "scans.0.also.x", "less than"),
    "a tie that is broken": ("examined", tampered(SCANNED, "scans.0.score", 1 + 1e-12),
        "records", "scans.0.score", "the evidence gives"),
    "a reading of one scan only": ("examined", reading("x", only=0), "records", "file", "readings"),
    "a reading called score": ("examined", reading("score"), "records", "scans.0", "own reading"),
    "norms of fewer classes": ("examined", tampered(SCANNED, "scans.0.norms", [1.0]),
        "records", "scans.0", "1 norms for 10"),
    "fewer classes in one scan": ("examined", scans(SCANNED,
        lambda scan, number: number or scan.update(
            class_scores=scan["class_scores"][:9], norms=scan["norms"][:9]), lambda found: None),
        "records", "file", "other classes"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_forgeries_that_fit_together_are_found(what: str, request: pytest.FixtureRequest) -> None:
    which, forge, file, field, reason = FORGED[what]
    run = request.getfixturevalue(which)
    forge(run)
    lines = [str(finding) for finding in verify(run).findings]
    pattern = rf"(records|{file})/\S+: {re.escape(field)}.*: .*{re.escape(reason)}"
    assert any(re.match(pattern, line) for line in lines), lines


def test_a_sanitized_model_is_measured_once(played: Path) -> None:
    sanitized(times=1)(played)
    assert not [finding for finding in verify(played).findings if "curve" in finding.field]


def test_a_repair_may_end_where_its_budget_is_spent(
    small_run: Path, small_released: None, tmp_path: Path
) -> None:
    """With its first measurement, if that lost all that was held out."""
    name = "robustness-none-m0-weight-decay-r0.1-s0"
    run = cut(small_run, [f"*/{name}-*"], tmp_path / "ended")

    def spent(arrays: Json) -> None:
        for part in ("held_out", "test", "triggered"):
            arrays[part] = arrays[part][:2]
        arrays["held_out"][0] = arrays["labels_held_out"]
        arrays["held_out"][1] = (arrays["labels_held_out"] + 1) % 10
        arrays["test"][1] = (arrays["labels_test"] + 1) % 10

    edit(record_of(run, name), lambda record: record["curve"].__delitem__(slice(2, None)))
    path = record_of(run, name)
    edit(path, at("model_sha256", victim_of(path)))
    rescored(run, name, spent)
    assert verify(run).findings == []
    edit(path, at("model_sha256", "0" * 64))
    edit_evidence(
        run, name, lambda arrays: arrays["held_out"].__setitem__(1, arrays["held_out"][0])
    )
    rescored(run, name, lambda arrays: None)
    (finding,) = verify(run).findings
    assert "ends at step 2 of 8, though the budget was not spent" in finding.reason
