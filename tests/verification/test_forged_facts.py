"""Digests of models, costs, and pictures that no honest run leaves behind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from forgeries import GUARDED, REPAIRED, SCANNED, SMOOTHED, Json, at, edit, record_of, tampered
from test_forged_evidence import UNDEFENDED, Attack, more
from test_likeness import rescored

from benchmark.records.record import VERSIONS
from benchmark.runs.report import environment
from benchmark.verification.verify import verify

OTHER = "0" * 64


def wider(run: Path) -> None:
    """Ten more classes, in which no model ever finds anything."""

    def change(arrays: Json) -> None:
        for name in ("class_scores", "norms"):
            extra = np.linspace(-90, -80, 30, dtype=np.float32).reshape(3, 10)
            arrays[name] = np.concatenate(
                [arrays[name], abs(extra) if name == "norms" else extra], 1
            )

    rescored(run, SCANNED, change)


def evidence(name: str, array: str, value: object) -> Attack:
    return lambda run: rescored(run, name, at(array, value))


def unpaired(array: str) -> Attack:
    return lambda run: rescored(run, SCANNED, lambda arrays: arrays.pop(array))


def mask(*shape: int) -> Attack:
    return evidence(SCANNED, "reversed_mask", np.zeros((3, 2, *shape), np.uint8))


def as_before(run: Path) -> None:
    """A repaired model under the victim's digest."""
    edit(record_of(run, REPAIRED), lambda record: record.update(
        model_sha256=record["victim_sha256"]))  # fmt: skip


#: By what it is: which run, what is done to it, and the field and reason that are named.
FORGED: dict[str, tuple[str, Attack, str, str]] = {
    "no digest of the model": ("played", tampered(REPAIRED, "model_sha256", None),
        "model_sha256", "is missing"),
    "a repair that changes answers and no weight": ("played", as_before,
        "model_sha256", "answers otherwise"),
    "a guard that changes weights": ("played", tampered(GUARDED, "model_sha256", OTHER),
        "model_sha256", "the victim itself is left"),
    "an undefended model that is another": ("played", tampered(UNDEFENDED, "model_sha256", OTHER),
        "model_sha256", "the victim itself is left"),
    "a defense that takes longer than its cell": ("played",
        tampered(REPAIRED, "cost.defense_seconds", 1e8),
        "cost.defense_seconds", "is 100000000.0, the whole cell took"),
    "a defense that takes no time": ("played", tampered(GUARDED, "cost.defense_seconds", None),
        "cost.defense_seconds", "is None; it must be there where"),
    "no defense that takes time": ("played", tampered(UNDEFENDED, "cost.defense_seconds", 0.0),
        "cost.defense_seconds", "is 0.0; it must be there where"),
    "a victim that was never trained": ("played", tampered(REPAIRED, "cost.victim_seconds", None),
        "cost.victim_seconds", "is missing"),
    "no versions": ("played", tampered(REPAIRED, "env", {}), "env", "names nothing; a record"),
    "other versions": ("played", tampered(REPAIRED, "env", {"x": "1"}), "env", "names x; a record"),
    "a detector that takes no time": ("examined",
        tampered(SCANNED, "cost.defense_seconds", None),
        "cost.defense_seconds", "is None, the examinations took"),
    "an examination that takes no time": ("examined", tampered(SCANNED, "scans.0.seconds", 0.0),
        "cost.defense_seconds", "on average"),
    "a cell that is shorter than its examinations": ("examined", lambda run: edit(
        record_of(run, SCANNED), lambda record: record["cost"].update(
            seconds=record["cost"]["defense_seconds"])),
        "cost.seconds", "the examinations alone took"),
    "more classes than there are": ("examined", wider,
        "scans.0.class_scores", "are 20, the test images have 10 classes"),
    "negative norms": ("examined", evidence(SCANNED, "norms", np.full((3, 10), -5.0, np.float32)),
        "norms", "hold -5, which no norm is"),
    "pictures of a name alone": ("examined",
        evidence(SCANNED, "reversed_nonsense", np.zeros((3, 2, 1, 8, 8), np.uint8)),
        "reversed_nonsense_range", "without"),
    "a picture without its range": ("examined", unpaired("reversed_mask_range"),
        "reversed_mask_range", "without"),
    "a range without its picture": ("examined", unpaired("reversed_mask"),
        "reversed_mask_range", "without"),
    "a range upside down": ("examined",
        evidence(SCANNED, "reversed_mask_range", np.array([5.0, -3.0])),
        "reversed_mask_range", "goes from 5 to -3"),
    "a range beyond single precision": ("examined",
        evidence(SCANNED, "reversed_mask_range", np.array([-1e300, 1e300])),
        "reversed_mask_range", "which is no range"),
    "a picture of no channel": ("examined", mask(0, 8, 8), "reversed_mask", "no triggers"),
    "a picture of no side": ("examined", mask(1, 8, 0), "reversed_mask", "no triggers"),
    "a picture of fewer dimensions": ("examined", mask(8), "reversed_mask", "no triggers"),
    "triggers without norms": ("examined", unpaired("norms"), "norms", "are missing"),
    "examples with a defense": ("played",
        more(GUARDED, "examples", np.zeros((2, 4, 1, 8, 8), np.uint8)),
        "examples", "first undefended model"),
    **{f"a smoothed classifier that answers {answer}": ("inverted",
        evidence(SMOOTHED, "smoothed", np.full((2, 2, 45), answer, np.int16)),
        "smoothed", "allowed are 0 to 9") for answer in (-5, 99)},
    "runs that are no longer kept, in another shape": ("inverted",
        evidence(SMOOTHED, "chosen", np.zeros((3, 1000), np.int64)), "chosen", "has shape"),
    "runs that are no longer kept, as fractions": ("inverted",
        evidence(SMOOTHED, "chosen", np.zeros(3)), "chosen", "holds float64"),
    "another choice of runs": ("inverted",
        evidence(SMOOTHED, "chosen", np.full(3, 9)), "chosen", "is [9, 9, 9] in the evidence"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_forged_facts_are_found(what: str, request: pytest.FixtureRequest) -> None:
    which, forge, field, reason = FORGED[what]
    run = request.getfixturevalue(which)
    forge(run)
    lines = [str(finding) for finding in verify(run).findings]
    pattern = rf"(records|evidence)/\S+: {re.escape(field)}: .*{re.escape(reason)}"
    assert any(re.match(pattern, line) for line in lines), lines


def test_records_name_the_versions_that_runs_write() -> None:
    assert tuple(environment()) == VERSIONS


def test_the_choice_that_older_records_keep_is_that_of_their_runs(inverted: Path) -> None:
    chosen: list[int] = []
    edit(record_of(inverted, SMOOTHED), lambda record: chosen.extend(
        start["chosen"] for start in record["starts"]))  # fmt: skip
    rescored(inverted, SMOOTHED, at("chosen", np.array(chosen)))
    assert verify(inverted).findings == []
