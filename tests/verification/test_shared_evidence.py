"""What several records say of one model, one trigger or one data set is the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forgeries import GUARDED, REPAIRED, SCANNED, SMOOTHED, at, edit, edit_evidence, record_of
from small_board import cut
from test_likeness import arrays_of, lines, rescored, victim_of

from benchmark.verification.submit import Rejected, review
from benchmark.verification.verify import verify

Arrays = dict[str, Any]
PLAIN = SMOOTHED.replace("smoothinv", "plainadv")
UNDEFENDED = "robustness-badnets-m40-none-s0"


def worse_at_first(arrays: Arrays) -> None:
    """A victim that is said to lose images which a repair then gets right, so that none is lost."""
    arrays["held_out"] = arrays["held_out"].copy()
    arrays["held_out"][0] = (arrays["labels_held_out"] + 1) % 10


def nudged(name: str) -> Callable[[Arrays], None]:
    """The smallest change that leaves all rules on one record alone."""

    def change(arrays: Arrays) -> None:
        found = arrays[name] = arrays[name].copy()
        if found.dtype.kind == "f":
            found[0] = np.nextafter(found[0], np.float16(0.3))
        elif name == "triggered":
            found[0, 0, -1, -1] ^= 1
        else:  # a few answers may differ on other hardware
            found[:40] = (found[:40] + 1) % 10

    return change


@pytest.mark.parametrize(
    ("name", "change", "field", "reason"),
    [
        (REPAIRED, worse_at_first, "curve.0.held_out", "to held-out images, seed 0, r = 0.05 is"),
        (GUARDED, nudged("clean_model"), "evidence", "clean model's triggered images"),
        (GUARDED, nudged("confidence"), "confidence", "the digest of the confidence of model"),
    ],
)
def test_cells_of_one_victim_say_the_same_of_it(
    played: Path, name: str, change: Callable[[Arrays], None], field: str, reason: str
) -> None:
    rescored(played, name, change)
    edit(record_of(played, REPAIRED), at("model_sha256", "0" * 64))  # which nobody can check
    (found,) = lines(played)
    assert f": {field}: " in found
    assert reason in found


def test_held_out_answers_are_those_on_the_board_too(played: Path, tmp_path: Path) -> None:
    """A run of one repair alone has no other record to contradict it."""
    boards = tmp_path / "boards"
    review(played, boards, None, whole_rows=False).write({})
    # Another one of the same model takes the place of the repair that the board has.
    run = cut(played, ["*/robustness-*"], tmp_path / "run")
    for path in (run / "records").glob("*strip*"):
        path.unlink()
        (run / "evidence" / f"{path.stem}.npz").unlink()
    rescored(run, REPAIRED, worse_at_first)
    edit(record_of(run, REPAIRED), at("model_sha256", "0" * 64))
    assert lines(run) == []
    with pytest.raises(Rejected) as caught:
        review(run, boards, None, whole_rows=False)
    assert any("curve.0.held_out" in str(finding) for finding in caught.value.findings)


def test_inversions_have_as_many_classes_as_test_images(inverted: Path) -> None:
    def eleven(arrays: Arrays) -> None:
        arrays["classes"] = np.insert(arrays["classes"], 10, 0, axis=2)

    for path in (inverted / "records").glob("inversion-*"):
        rescored(inverted, path.stem.rpartition("-")[0], eleven)
    found = lines(inverted)
    assert found
    assert all("the number of classes is 10; in records/inversion-" in line for line in found)


def test_inverters_of_a_victim_begin_from_the_same_images(inverted: Path) -> None:
    rescored(inverted, PLAIN, nudged("triggered"))
    (found,) = lines(inverted)
    assert ": scale: the digest of the trigger of blind-p (m=0), seed 0, standard is" in found


def test_images_are_of_one_shape(played: Path) -> None:
    def colour(arrays: Arrays) -> None:
        arrays["examples"] = np.repeat(arrays["examples"], 3, axis=2)

    edit_evidence(played, UNDEFENDED, colour)
    assert lines(played) == []
    more = np.zeros((2, 1, 1, 16, 16), np.uint8)
    clean = UNDEFENDED.replace("badnets-m40", "none-m0")
    edit_evidence(played, clean, at("examples", more))
    (found,) = lines(played)
    assert ": examples: are kept with the first undefended model of an attack" in found


def test_start_images_and_examples_are_of_one_shape(inverted: Path) -> None:
    def colour(arrays: Arrays) -> None:
        arrays["examples"] = np.repeat(arrays["examples"], 3, axis=2)

    edit_evidence(inverted, "robustness-blind-p-m0-none-s0", colour)
    (found,) = lines(inverted)
    assert ": images: the shape of the images is (3, 16, 16); in records/inversion-" in found


def test_a_detector_leaves_the_same_pictures_everywhere(examined: Path) -> None:
    def renamed(arrays: Arrays) -> None:
        for end in ("", "_range"):
            arrays[f"reversed_own{end}"] = arrays.pop(f"reversed_mask{end}")

    edit_evidence(examined, SCANNED, renamed)
    assert any(": scans: " in line and "reversed_own (1, " in line for line in lines(examined))


def test_an_inverter_smoothes_in_all_repetitions_or_in_none(inverted: Path) -> None:
    def left_out(arrays: Arrays) -> None:
        del arrays["smoothed"], arrays["sigmas"]

    rescored(inverted, SMOOTHED, left_out)
    (found,) = lines(inverted)
    assert ": smoothed: the smoothed classifier of smoothinv:" in found


@pytest.mark.parametrize("part", [0, 1])
def test_without_noise_a_smoothed_classifier_is_the_victim(inverted: Path, part: int) -> None:
    own = arrays_of(inverted, SMOOTHED)["smoothed"][0]
    victim = arrays_of(inverted, "robustness-blind-p-m0-none-s0")
    for number, name in enumerate(("test", "triggered")):
        assert np.mean(own[number] != victim[name][0][: len(own[number])]) <= 0.05

    def otherwise(arrays: Arrays) -> None:
        arrays["smoothed"] = arrays["smoothed"].copy()
        arrays["smoothed"][0][part] = (arrays["smoothed"][0][part] + 1) % 10

    rescored(inverted, SMOOTHED, otherwise)
    (found,) = lines(inverted)
    kind, model = ("test", "triggered")[part], victim_of(record_of(inverted, SMOOTHED))[:12]
    assert f"45 of 45 answers of model {model} to its {kind} images" in found
    # What a denoiser makes of an image, nobody can tell from here.
    edit(record_of(inverted, SMOOTHED), at("uses", {"denoiser": "0" * 64}))
    assert verify(inverted).findings == []
