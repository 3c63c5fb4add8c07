"""Ways to cheat, and what a verifier must say of each."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_board

from benchmark.games.all import read
from benchmark.records.cell import Cell
from benchmark.records.files import write_whole
from benchmark.records.strict import EVIDENCE_LIMIT, RECORD_LIMIT
from benchmark.registry import Registry
from benchmark.verification import submit as module
from benchmark.verification.submit import Submission, review

Json = dict[str, Any]
REPAIRED = "robustness-badnets-m40-pivotal-tuning-r0.05-s0"
GUARDED = "robustness-badnets-m40-strip-r0.05-s0"
SCANNED = "detectability-badnets-m40-abs-r0.1-s0"
#: Test images of other classes than the first.
OTHERS = 180
SMOOTHED = "inversion-blind-p-m0-smoothinv-s0"


def submit(
    run: Path, boards: Path, registry: Registry | None = None, *, whole_rows: bool = False
) -> Submission:
    """Take a run into a board without playing anything again."""
    return review(run, boards, registry, whole_rows=whole_rows).write({})


def interrupt(patched: pytest.MonkeyPatch, after: int) -> list[Path]:
    """End a submission as Ctrl-C does after so many files, which are listed."""
    written: list[Path] = []

    def interrupted(path: Path, content: bytes) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        write_whole(path, content)

    patched.setattr(module, "write_whole", interrupted)
    return written


def record_of(run: Path, name: str) -> Path:
    (path,) = (run / "records").glob(f"{name}-*.json")
    return path


def edit(path: Path, change: Callable[[Json], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_evidence(run: Path, name: str, change: Callable[[Json], object]) -> None:
    """Change arrays, and the hash in the record with them."""
    path = record_of(run, name)
    file = run / "evidence" / f"{path.stem}.npz"
    arrays = dict(np.load(file))
    change(arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    put_evidence(run, name, buffer.getvalue())


def put_evidence(run: Path, name: str, content: bytes) -> None:
    path = record_of(run, name)
    (run / "evidence" / f"{path.stem}.npz").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(path, lambda record: record["evidence"].update(sha256=digest))


def at(place: str, value: Any) -> Callable[[Json], None]:
    """Set what lies at a place such as ``curve.0.step``."""
    *path, last = place.split(".")

    def change(record: Any) -> None:
        for part in path:
            record = record[int(part) if isinstance(record, list) else part]
        record[int(last) if isinstance(record, list) else last] = value

    return change


def renamed(run: Path, name: str) -> None:
    """Give a changed record the key and names that it now must have: a careful forger."""
    path = record_of(run, name)
    content = json.loads(path.read_text())
    cell = Cell.of(read(path.read_bytes()))
    content["key"] = cell.key
    for part, ending in (("evidence", "npz"), ("picture", "png")):
        if content.get(part):
            old = run / "evidence" / content[part]["file"]
            content[part]["file"] = f"{cell.name}.{ending}"
            old.rename(run / "evidence" / content[part]["file"])
    path.unlink()
    (run / "records" / f"{cell.name}.json").write_text(json.dumps(content))


def rate(hits: int, total: int) -> Json:
    return {"hits": hits, "total": total, "value": hits / total}


def array_bytes(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def promising(shape: tuple[int, ...]) -> bytes:
    """An array file whose header promises more than there is."""
    buffer = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": "<f8"}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + b"\0" * 16


def sparse(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def tampered(name: str, place: str, value: Any) -> Callable[[Path], object]:
    return lambda run: edit(record_of(run, name), at(place, value))


def forged(name: str, *changes: tuple[str, Any]) -> Callable[[Path], object]:
    """Changed with key and names made to fit."""

    def change(run: Path) -> None:
        for place, value in changes:
            edit(record_of(run, name), at(place, value))
        renamed(run, name)

    return change


def text_swap(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        path = record_of(run, name)
        text = path.read_text()
        assert re.search(old, text)
        path.write_text(re.sub(old, new, text, count=1))

    return change


def evidence(name: str, array: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def apply(arrays: Json) -> None:
        arrays[array] = change(arrays[array])

    return lambda run: edit_evidence(run, name, apply)


def flipped(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed.flat[0] = 1 - changed.flat[0] if changed.flat[0] in (0, 1) else changed.flat[0] + 1
    return changed


def without(name: str, array: str) -> Callable[[Path], object]:
    return lambda run: edit_evidence(run, name, lambda arrays: arrays.pop(array))


#: By what it is: which run, what is done to it, and the file, field and reason that are named.
HOSTILE: dict[str, tuple[str, Callable[[Path], object], str, str, str]] = {
    "a better ASR": ("played", tampered(REPAIRED, "metrics.paper.asr", rate(1, OTHERS)),
        "records", "metrics.paper", "the evidence gives"),
    "a rate that is not its counts": ("played",
        tampered(REPAIRED, "metrics.paper.cda.value", 0.987),
        "records", "metrics.paper.cda", "is not"),
    "an ASR above 1": ("played", tampered(REPAIRED, "metrics.paper.asr", {"hits": 181, "total": 180,
        "value": 181 / 180}), "records", "metrics.paper.asr", "is not 181 of 180"),
    "a negative count": ("played", tampered(REPAIRED, "metrics.paper.asr.hits", -1),
        "records", "metrics.paper.asr.hits", "greater than or equal to 0"),
    "NaN": ("played", text_swap(REPAIRED, r'"asr_game": [\d.]+', '"asr_game": NaN'),
        "records", "file", "NaN is no number"),
    "infinity in disguise": ("played", text_swap(REPAIRED, r'"seconds": [\d.]+',
        '"seconds": 1e999'),
        "records", "file", "1e999 is no number, or too large"),
    "a very long number": ("played", text_swap(REPAIRED, r'"seed": 0', '"seed": ' + "9" * 5000),
        "records", "file", "or too large"),
    "a field that is given twice": ("played", text_swap(REPAIRED, r'"seed": 0',
        '"seed": 0, "seed": 0'),
        "records", "file", "'seed' is given twice"),
    "a number as text": ("played", tampered(REPAIRED, "seed", "0"),
        "records", "seed", "valid integer"),
    "a yes as a number": ("played", tampered(REPAIRED, "seed", False),
        "records", "seed", "valid integer"),
    "a whole number as another": ("played", tampered(REPAIRED, "seed", 0.0),
        "records", "seed", "valid integer"),
    "a field by the code's name for it": ("played", text_swap(REPAIRED, '"schema"',
        '"schema_version"'),
        "records", "schema_version", "extra inputs"),
    "an unknown field": ("played", tampered(REPAIRED, "comment", "please"),
        "records", "comment", "extra inputs"),
    "an unknown game": ("played", tampered(REPAIRED, "game", "chess"),
        "records", "file", "does not match"),
    "no JSON": ("played", lambda run: record_of(run, REPAIRED).write_text("{"),
        "records", "file", "no JSON"),
    "a pickle for a record": ("played",
        lambda run: record_of(run, REPAIRED).write_bytes(pickle.dumps({"seed": 0})),
        "records", "file", "no JSON"),
    "deep nesting": ("played", lambda run: record_of(run, REPAIRED).write_text("[" * 100_000),
        "records", "file", "no JSON"),
    "a 1-GB record": ("played", lambda run: sparse(record_of(run, REPAIRED), 1 << 30),
        "records", "file", f"at most {RECORD_LIMIT:,}"),
    "1 GB of evidence": ("played",
        lambda run: sparse(run / "evidence" / f"{record_of(run, REPAIRED).stem}.npz", 1 << 30),
        "evidence", "file", f"at most {EVIDENCE_LIMIT:,}"),
    "a link for a record": ("played", lambda run: relink(record_of(run, REPAIRED)),
        "records", "file", "links"),
    "a link for evidence": ("played",
        lambda run: relink(run / "evidence" / f"{record_of(run, REPAIRED).stem}.npz"),
        "evidence", "file", "links"),
    "a folder for a record": ("played", lambda run: (run / "records" / "x.json").mkdir(),
        "records", "file", "no plain file"),
    "an unreleased protocol": ("played", tampered(REPAIRED, "protocol.name", "small-v9"),
        "records", "protocol.name", "is not released; there are"),
    "a changed protocol": ("played", tampered(REPAIRED, "protocol.sha256", "0" * 64),
        "records", "protocol.sha256", "was released as"),
    "another released protocol": ("played", forged(REPAIRED, ("protocol.name", "other-v1"),
        ("protocol.sha256", small_board.parsed(small_board.OTHER).sha256)),
        "records", "(protocol.name|trusted_share)", "."),
    "an unknown recipe": ("played", forged(REPAIRED, ("protocol.recipe", "slow")),
        "records", "protocol.recipe", "is none of"),
    "another attack's name": ("played", tampered(REPAIRED, "attack.params.side", 0.5),
        "records", "key", "what was played has"),
    "a label that says something else": ("played", 
        tampered(REPAIRED, "attack.label", "badnets:side=0.5"),
        "records", "attack.label", "the parameter is"),
    "a label of another plugin": ("played", tampered(REPAIRED, "attack.label", "lsp"),
        "records", "attack.label", "is of 'lsp'"),
    "a repetition that there is not": ("played", forged(REPAIRED, ("seed", 10)),
        "records", "seed", "seeds from 0 to 2"),
    "more poisoned than training images": ("played", forged(REPAIRED, ("attack.m", 10**6)),
        "records", "attack.m", "training images"),
    "more trusted images than allowed": ("played", forged(REPAIRED, ("trusted_share", 0.5)),
        "records", "trusted_share", "allowed are 0.05, 0.1"),
    "a clean model that is none": ("played", tampered(REPAIRED, "attack.threat", "none"),
        "records", "attack.threat", "no clean model"),
    "another record's name": ("played", lambda run: shutil.copyfile(record_of(run, REPAIRED),
        run / "records" / f"{record_of(run, REPAIRED).stem[:-1]}x.json"),
        "records", "file", "must be named"),
    "a path outside": ("played", tampered(REPAIRED, "evidence.file", "../../secret.npz"),
        "records", "evidence.file", "string should match"),
    "another record's evidence": ("played",
        lambda run: edit(record_of(run, REPAIRED), lambda r: r["evidence"].update(
            file=f"{record_of(run, GUARDED).stem}.npz")),
        "records", "evidence.file", "must be"),
    "markup in a name": ("played", tampered(REPAIRED, "attack.name", "<script>alert(1)</script>"),
        "records", "attack.name", "characters that names and values do not have"),
    "a name of two": ("played", tampered(REPAIRED, "attack.name", "bad+nets"),
        "records", "attack.name", "lower-case words"),
    "a very long name": ("played", tampered(REPAIRED, "attack.name", "a" * 170),
        "records", "attack.name", "at most 50 characters"),
    "markup in a setting": ("played", tampered(REPAIRED, "attack.params.side", "<img src=x>"),
        "records", "attack.params.side", "characters that names"),
    "markup in a device": ("played", tampered(REPAIRED, "cost.device", "cpu<b>"),
        "records", "cost.device", "characters that names"),
    "a terminal's command in a version": ("played", tampered(REPAIRED, "env.torch", "2\x1b[2J"),
        "records", "env.torch", "characters that names"),
    "a novel": ("played", tampered(REPAIRED, "env.torch", "2" * 1000),
        "records", "env.torch", "at most 400"),
    "a negative duration": ("played", tampered(REPAIRED, "cost.seconds", -1.0),
        "records", "cost.seconds", "greater than or equal to 0"),
    "a failure with numbers": ("played", tampered(REPAIRED, "status", "failed"),
        "records", "status", "has an error and no numbers"),
    "invalid without a reason": ("played", tampered(REPAIRED, "status", "invalid"),
        "records", "status", "does not fit"),
    "no evidence": ("played", tampered(REPAIRED, "evidence", None),
        "records", "evidence", "is missing"),
    "evidence that was removed": ("played",
        lambda run: (run / "evidence" / f"{record_of(run, REPAIRED).stem}.npz").unlink(),
        "evidence", "file", "is missing"),
    "evidence that was changed": ("played",
        lambda run: (run / "evidence" / f"{record_of(run, REPAIRED).stem}.npz").write_bytes(b"PK"),
        "evidence", "sha256", "one was changed"),
    "a pickle for evidence": ("played", lambda run: put_evidence(run, REPAIRED, pickle.dumps([1])),
        "evidence", "file", "no archive"),
    "a pickled array in evidence": ("played",
        evidence(REPAIRED, "target", lambda old: np.array([{}], object)),
        "evidence", "target", "only numbers are allowed"),
    "text in evidence": ("played", evidence(REPAIRED, "target", lambda old: np.array("zero")),
        "evidence", "target", "only numbers are allowed"),
    "a header that promises terabytes": ("played",
        lambda run: put_evidence(run, REPAIRED, array_bytes("test", promising((10**6, 10**6)))),
        "evidence", "test", "promises"),
    "an archive that unpacks to gigabytes": ("played",
        lambda run: edit_evidence(run, REPAIRED, at("more", np.zeros(1 << 28, np.int16))),
        "evidence", "file", "unpacks to more than"),
    "NaN in evidence": ("played",
        evidence(GUARDED, "suspicion_test", lambda old: np.full_like(old, np.nan)),
        "evidence", "suspicion_test", "not finite"),
    "evidence without an array": ("played", without(REPAIRED, "clean_model"),
        "(records|evidence)", "clean_model", "is missing"),
    "fewer test images": ("played", evidence(REPAIRED, "labels_test", lambda old: old[:50]),
        "(records|evidence)", "labels_test", "shape"),
    "other test images": ("played", evidence(REPAIRED, "labels_test", lambda old: np.roll(old, 1)),
        "records", "status", "near chance"),
    "another prediction": ("played", evidence(REPAIRED, "test", lambda old: (old + 1) % 10),
        "records", "status", "near chance"),
    "another answer of the clean model": ("played",
        evidence(REPAIRED, "clean_model", lambda old: old * 0),
        "records", "metrics.asr_clean_model", "the evidence gives"),
    "other confidences": ("played", evidence(REPAIRED, "confidence", lambda old: old / 2),
        "records", "metrics.target_confidence", "the evidence gives"),
    "pictures that are none": ("played",
        evidence("robustness-badnets-m40-none-s0", "examples", lambda old: old.astype(np.int16)),
        "(records|evidence)", "examples", "no pictures"),
    "a terminal's command in an error": ("played", lambda run: edit(record_of(run, REPAIRED),
        lambda r: r.update(
            status="failed", error={"kind": "E", "message": "\x1b[2J", "where": ""})),
        "records", "error.message", "characters that names"),
    "a guard's changed score": ("played", tampered(GUARDED, "metrics.guard.auc", 0.5),
        "records", "metrics.guard.auc", "the evidence gives"),
    "a guard that was not there": ("played",
        tampered(REPAIRED, "metrics.guard", {"auc": 1.0, "far_at_1_frr": rate(0, OTHERS)}),
        "records", "metrics.guard", "the evidence gives None"),
    "a curve without its victim": ("played", lambda run: (
        edit(record_of(run, REPAIRED), lambda r: r["curve"].pop(0)),
        edit_evidence(run, REPAIRED, lambda a: a.update(
            {name: a[name][1:] for name in ("held_out", "test", "triggered")}))),
        "records", "curve.0", "undefended victim"),
    "points that are left out": ("played", lambda run: (
        edit(record_of(run, REPAIRED), lambda r: r["curve"].pop(1)),
        edit_evidence(run, REPAIRED, lambda a: a.update(
            {name: np.delete(a[name], 1, 0) for name in ("held_out", "test", "triggered")}))),
        "records", "curve", "not every"),
    "a reading of one's own choice": ("played",
        lambda run: edit(record_of(run, REPAIRED), lambda r: r["metrics"].update(
            deployable=r["curve"][1])),
        "records", "metrics.deployable.step", "the evidence gives"),
    "a changed score": ("examined", tampered(SCANNED, "scans.0.score", 99.0),
        "records", "scans.0.score", "the evidence gives"),
    "a changed guess": ("examined", tampered(SCANNED, "scans.1.guess", 7),
        "records", "scans.1.guess", "the evidence gives"),
    "a changed decision": ("examined",
        lambda run: edit(record_of(run, SCANNED), lambda r: r["scans"][0].update(
            flagged=not r["scans"][0]["flagged"])),
        "records", "scans.0.flagged", "the evidence gives"),
    "an examination that is left out": ("examined",
        lambda run: edit(record_of(run, SCANNED), lambda r: r["scans"].pop()),
        "records", "scans", "examines 3 times"),
    "another target": ("examined", tampered(SCANNED, "target", 3),
        "records", "target", "repetition 0 attacks 0"),
    "a search of one's own": ("examined",
        lambda run: write(run / "tuning" / "weight-decay-r0.1.json", "{}"),
        "tuning", "file", "brings its own"),
    "an inversion's changed count": ("inverted",
        tampered(SMOOTHED, "tried.0.evaluation.0", 1),
        "records", "tried.0.evaluation", "the evidence gives"),
    "a configuration of one's own": ("inverted", tampered(SMOOTHED, "tried.0.params.epsilon", 3.0),
        "records", "tried", "the protocol plays"),
    "an overlap of one's own": ("inverted", tampered(SMOOTHED, "starts.0.overlap", 0.123),
        "records", "starts.0.overlap", "the evidence gives"),
    "a norm of one's own": ("inverted", tampered(SMOOTHED, "starts.0.norm", 0.1),
        "records", "starts.0.norm", "the evidence gives"),
    "a changed class": ("inverted", tampered(SMOOTHED, "swept.0.classes.0.1", rate(0, 41)),
        "records", "swept.0", "the evidence gives"),
    "a smoothed classifier's changed accuracy": ("inverted",
        tampered(SMOOTHED, "smoothed.0.clean", rate(45, 45)),
        "records", "smoothed.0.clean", "the evidence gives"),
    "a picture that is none": ("inverted",
        lambda run: next((run / "evidence").glob("*.png")).write_bytes(b"<svg/>"),
        "evidence", "sha256", "one was changed"),
    **{f"a target as {kind}": ("played", evidence(REPAIRED, "target", lambda old, kind=kind:
            old.astype(kind)), "(records|evidence)", "target", "holds")
       for kind in ("float64", "bool")},
    **{f"answers as fractions: {name}": ("played",
        evidence(REPAIRED, name, lambda old: old.astype(np.float32)),
        "(records|evidence)", name, "holds float32")
       for name in ("test", "triggered", "held_out", "labels_test", "clean_model")},
    **{f"answers of {what} after a repair": ("played",
        evidence(REPAIRED, name, lambda old, to=to: np.concatenate(
            [old[:1], np.full_like(old[1:], to)])),
        "(records|evidence)", name, "allowed are 0 to 9")
       for what, name, to in (("no class", "triggered", 99), ("no guard", "triggered", -1),
                              ("nobody", "held_out", 77))},
    "answers of no class by the clean model": ("played",
        evidence(REPAIRED, "clean_model", lambda old: np.full_like(old, 10)),
        "(records|evidence)", "clean_model", "holds answers from 10 to 10, allowed are 0 to 9"),
    "confidence of no model": ("played",
        evidence("robustness-badnets-m40-none-s0", "confidence", lambda old: np.full_like(old, 0)),
        "(records|evidence)", "confidence", "does not fit the answers"),
    "a decision that is none": ("examined",
        evidence(SCANNED, "flagged", lambda old: np.full_like(old, 77)),
        "(records|evidence)", "flagged", "holds answers from 77"),
    "another spelling of the same settings": ("played",
        lambda run: edit(record_of(run, REPAIRED), lambda r: r["defense"]["stages"][0].update(
            label=r["defense"]["stages"][0]["label"] + ",lambda_s=0.05")),
        "records", "defense", "the label of pivotal-tuning"),
    "a version before the first": ("played", tampered(REPAIRED, "defense.stages.0.version", 0),
        "records", "defense.stages.0.version", "is 0"),
    **{f"{name} that calls itself unfinished": ("played",
        lambda run, name=name: (run / name).write_text("<script>"),
        name, "file", "")
       for name in ("records/evil.html.tmp", "evidence/.evil.tmp")},
    "scores as whole numbers": ("examined",
        evidence(SCANNED, "class_scores", lambda old: old.astype(np.int64)),
        "(records|evidence)", "class_scores", "holds int64"),
    "decisions as fractions": ("examined",
        evidence(SCANNED, "flagged", lambda old: old.astype(np.float64)),
        "(records|evidence)", "flagged", "holds float64"),
    "bits as fractions": ("inverted",
        evidence(SMOOTHED, "classes", lambda old: old.astype(np.float64)),
        "(records|evidence)", "classes", "holds float64"),
    **{f"{what} in a device": ("played", tampered(REPAIRED, "cost.device", f"cpu{text}x"),
        "records", "cost.device", "characters that names")
       for what, text in {
           "a filler": "\u3164", "another filler": "\uffa0", "a blank pattern": "\u2800",
           "a combining mark": "\u0301", "a right-to-left override": "\u202e",
           "an isolate": "\u2066", "a soft hyphen": "\xad", "a joiner": "\u200d",
           "a narrow space": "\u202f", "a letter from right to left": "\u05d0",
           "a picture": "\U0001f600", "a tag": "\U000e0041", "a private letter": "\ue000",
       }.items()},
    **{f"{what} in an error": ("played", lambda run, text=text: edit(record_of(run, REPAIRED),
        lambda r: r.update(status="failed", error={"kind": "E", "message": text, "where": ""})),
        "records", "error.message", "characters that names")
       for what, text in {
           "a filler": "x\u3164", "an override": "\u202e", "marks": "e\u0301"}.items()},
    **{f"{what} for a field": ("played",
        lambda run, name=name: edit(record_of(run, REPAIRED), at("env", {name: "1"})),
        "records", "env", "no name of a field")
       for what, name in {"a blank": " ", "nothing": "", "markup": "<b>", "letters of elsewhere":
                          "\u0430bc", "a number": "1", "a novel": "a" * 61}.items()},
    "a reading of another script": ("examined", lambda run: edit(record_of(run, SCANNED),
        lambda r: [scan["also"].update({"sc\u043ere": 1.0}) for scan in r["scans"]]),
        "records", "scans.0.also", "no name of a field"),
    "a picture that goes on": ("inverted", lambda run: picture_with(run, b"<script>"),
        "evidence", "file", "goes on after the end"),
    "a picture that goes on and ends again": ("inverted",
        lambda run: picture_with(run, b"x" * 9 + b"\0\0\0\0IEND\xaeB`\x82"),
        "evidence", "file", "goes on after the end"),
    "a picture that is cut": ("inverted", lambda run: picture_with(run, b"", cut=40),
        "evidence", "file", "is no picture"),
    **{f"a link for {name}": ("played", lambda run, name=name: relink_folder(run / name),
        name, "file", "is a link") for name in ("records", "evidence")},
    "a link for tuning": ("played", lambda run: (run / "tuning").symlink_to(run / "records"),
        "tuning", "file", "is a link"),
    "a file that belongs to nothing": ("played",
        lambda run: (run / "evidence" / "model.pkl").write_bytes(b"x"),
        "evidence/model.pkl", "file", "belongs to no record"),
    "a program beside the records": ("played", lambda run: (run / "setup.py").write_text("x"),
        "setup.py", "file", "belongs to no record"),
}  # fmt: skip


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def picture_with(run: Path, more: bytes, cut: int = 0) -> None:
    path = record_of(run, SMOOTHED)
    file = run / "evidence" / f"{path.stem}.png"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - cut] + more)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    edit(path, lambda record: record["picture"].update(sha256=digest))


def relink_folder(folder: Path) -> None:
    aside = folder.parent.parent / f"{folder.name}-aside"
    shutil.move(folder, aside)
    folder.symlink_to(aside)


def relink(path: Path) -> None:
    aside = path.with_suffix(".aside")
    shutil.move(path, path.parent.parent / aside.name)
    path.symlink_to(path.parent.parent / aside.name)
