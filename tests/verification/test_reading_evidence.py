"""Files of evidence are opened without trust, and what plugins raise is written to be read."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forgeries import REPAIRED, Json, array_bytes, edit, put_evidence, record_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmark.games.inversion import evidence as inversion_evidence
from benchmark.images import ImageSet
from benchmark.records.evidence import PICTURE_SIZE, check_picture, read_evidence
from benchmark.records.record import Evidence
from benchmark.records.strict import Refused
from benchmark.runs import report
from benchmark.verification.verify import verify

UNDEFENDED = "robustness-badnets-m40-none-s0"


def patched(name: str, change: Callable[[bytearray], object]) -> Callable[[Path], object]:
    """Bytes of an archive changed, its hash with them."""

    def attack(run: Path) -> None:
        content = bytearray((run / "evidence" / f"{record_of(run, name).stem}.npz").read_bytes())
        change(content)
        put_evidence(run, name, bytes(content))

    return attack


def encrypted(content: bytearray) -> None:
    for mark, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for found in re.finditer(re.escape(mark), bytes(content)):
            content[found.start() + flags] |= 1


def broken(content: bytearray) -> None:
    begin = content.find(b"PK\x03\x04")
    start = begin + 30 + sum(struct.unpack("<HH", content[begin + 26 : begin + 30]))
    content[start : start + 2] = b"\xff\xff"


def archive(method: int, *members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, content in members:
            target.writestr(name, content)
    return buffer.getvalue()


def added(name: str, member: str) -> Callable[[Path], object]:
    """One more array in front, under a name of one's own."""

    def attack(run: Path) -> None:
        file = run / "evidence" / f"{record_of(run, name).stem}.npz"
        with zipfile.ZipFile(file) as source:
            honest = [(other, source.read(other)) for other in source.namelist()]
        put_evidence(run, name, archive(zipfile.ZIP_STORED, (member, honest[0][1]), *honest))

    return attack


def whole(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """An archive changed as a whole, its hash with it."""

    def attack(run: Path) -> None:
        file = run / "evidence" / f"{record_of(run, REPAIRED).stem}.npz"
        put_evidence(run, REPAIRED, change(file.read_bytes()))

    return attack


def commented(where: str) -> Callable[[Path], object]:
    """The same arrays with a comment on the archive, or on one of its members."""

    def attack(run: Path) -> None:
        file = run / "evidence" / f"{record_of(run, REPAIRED).stem}.npz"
        buffer = io.BytesIO()
        with zipfile.ZipFile(file) as source, zipfile.ZipFile(buffer, "w") as target:
            for number, member in enumerate(source.infolist()):
                info = zipfile.ZipInfo(member.filename)
                if where and not number:
                    setattr(info, where, b"\xfe\xca\x04\x00abcd")
                target.writestr(info, source.read(member))
            target.comment = b"" if where else b"<script>"
        put_evidence(run, REPAIRED, buffer.getvalue())

    return attack


ARCHIVES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "an encrypted archive": (patched(REPAIRED, encrypted),
        "", "is encrypted"),
    "a broken archive": (patched(REPAIRED, broken), "file", "no archive"),
    "an archive of another method": (lambda run: put_evidence(run, REPAIRED,
        archive(zipfile.ZIP_LZMA, ("test.npy", b"x" * 99))), "test", "packed in"),
    "something before an archive": (whole(lambda content: b"#!/bin/sh\n" + content),
        "file", "between its arrays"),
    "something after an archive": (whole(lambda content: content + b"<script>"),
        "file", ""),
    "a comment on an archive": (commented(""), "file", "beside its arrays"),
    "a comment on an array": (commented("comment"), "file", "more of"),
    "more about an array": (commented("extra"), "file", "more of"),
    "an array by two names": (added(UNDEFENDED, "examples"),
        "examples", "does not end in"),
}  # fmt: skip


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_that_numpy_does_not_write_are_refused(what: str, played: Path) -> None:
    forge, field, reason = ARCHIVES[what]
    forge(played)
    (finding,) = verify(played).findings
    assert finding.file.startswith("evidence/robustness")
    assert re.match(field, finding.field)
    assert reason in finding.reason


def headed(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 16


HEADERS = [
    "{'descr':'<f8','fortran_order':False,'shape':(" + "(" * 300,
    "'\''",
    "{(",
    "-" * 3000 + "1",
    "[" * 150 + "]" * 150,
    "{'descr': ',', 'fortran_order': False, 'shape': (2,), }\n",
    "{[]:1}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 99999999999999999999), }\n",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -1), }\n",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }\n",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (2,), }\n",
    "{'descr': '2f8', 'fortran_order': False, 'shape': (1,), }\n",
    "{'descr': '<f8,<i8', 'fortran_order': False, 'shape': (1,), }\n",
    "{'descr': '<c16', 'fortran_order': False, 'shape': (1,), }\n",
    "{'descr': '<f16', 'fortran_order': False, 'shape': (1,), }\n",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }" + " " * 500 + "\n",
    "{'descr': '<m8', 'fortran_order': False, 'shape': (1,), }\n",
    "{'descr': [('a', 'O')], 'fortran_order': False, 'shape': (), }\n",
    "\0",
    "",
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
def test_no_header_of_an_array_is_believed(header: str, played: Path) -> None:
    put_evidence(played, REPAIRED, array_bytes("test", headed(header)))
    (finding,) = verify(played).findings
    assert finding.file.startswith("evidence/robustness")
    assert finding.field == "test"
    assert re.search("header|numbers", finding.reason)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("sides", [(), (5,), (3, 0), (2, 3, 4)])
@pytest.mark.parametrize("kind", ["?", "i1", "u1", "<i8", ">i2", "<f2", "<f4", ">f8"])
def test_arrays_are_read_as_numpy_wrote_them(
    kind: str, sides: tuple[int, ...], order: Any, tmp_path: Path
) -> None:
    array = np.arange(np.prod(sides, dtype=int)).reshape(sides).astype(kind, order=order)
    file = tmp_path / "a.npz"
    np.savez_compressed(file, a=array)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (found,) = read_evidence(tmp_path, Evidence(file="a.npz", sha256=digest)).items()
    assert found[0] == "a"
    assert found[1].dtype == array.dtype
    np.testing.assert_array_equal(found[1], array)


@settings(max_examples=300, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_no_damaged_archive_or_picture_raises(data: st.DataObject, tmp_path: Path) -> None:
    """With the hash of what was damaged in the record, so that it is really opened."""
    kind = data.draw(st.sampled_from(["deflated", "stored", "png"]))
    buffer = io.BytesIO()
    if kind == "png":
        text = PngInfo()
        text.add_text("comment", "x" * 99, zip=True)
        Image.new("RGB", (9, 9), "red").save(buffer, "PNG", pnginfo=text)
    else:
        save = np.savez_compressed if kind == "deflated" else np.savez
        save(buffer, a=np.arange(6.0), b=np.ones((2, 3), np.uint8))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(len(content) // 2, len(content))) :]
    name = "x.png" if kind == "png" else "x.npz"
    (tmp_path / name).write_bytes(content)
    evidence = Evidence(file=name, sha256=hashlib.sha256(content).hexdigest())
    with suppress(Refused):
        (check_picture if kind == "png" else read_evidence)(tmp_path, evidence)


def test_the_largest_picture_of_a_game_is_allowed() -> None:
    images = torch.zeros(9, 1, 8, 8)
    outcome: Any = SimpleNamespace(
        data=SimpleNamespace(starts=ImageSet(images.byte(), torch.zeros(9, dtype=torch.int64)),
                              triggered_starts=images),
        inverted=images, trail={2**step: images for step in range(20)},
    )  # fmt: skip
    with Image.open(io.BytesIO(inversion_evidence.picture(outcome))) as drawn:
        assert drawn.size == PICTURE_SIZE


def raised(error: Exception, file: str = "plugin.py") -> Exception:
    code = compile("def fail(error):\n    raise error", file, "exec")
    names: Json = {}
    exec(code, names)
    try:
        names["fail"](error)
    except type(error) as caught:
        return caught
    raise AssertionError


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("compile error \x1b[31mred\x1b[0m", "compile error red"),
        ("\x1b]8;;file://x\x1b\\link\x1b]8;;\x07 \x1b[2K\x1b[1;38;5;9mx", "link x"),
        ("10 %\r\n20 %\tdone", "10 % \n20 %\tdone"),
        ("a\u00a0b\x00c\udc80d\x1be", "a b c d e"),
        ("<b> & 'c' \u00e9", "<b> & 'c' \u00e9"),
        ("x" * 12_000, "x" * 10_000),
    ],
)
def test_errors_are_written_as_they_may_be_submitted(message: str, kept: str, played: Path) -> None:
    error = report.describe(raised(RuntimeError(message), "it's & <co>.py"))
    assert (error.kind, error.message) == ("RuntimeError", kept)
    assert error.where == "it_s____co_.py:2"
    path = record_of(played, REPAIRED)
    (played / "evidence" / f"{path.stem}.npz").unlink()
    edit(path, lambda record: record.update(
        status="failed", error=error.model_dump(), metrics=None, curve=[], evidence=None,
        model_sha256=None))  # fmt: skip
    assert verify(played).findings == []


def test_code_without_a_file_is_named_without_markup() -> None:
    assert report.describe(raised(ValueError(), "<string>")).where == "string:2"
    assert report.describe(ValueError("never raised")).where == ""
