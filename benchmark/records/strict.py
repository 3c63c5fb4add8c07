"""Reads what strangers hand in: nothing is trusted before it was looked at."""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import ValidationError

from benchmark.records.record import MESSAGE_LIMIT, Evidence, Record
from benchmark.specs import FORBIDDEN, NAME_LIMIT

#: Bytes that a record, a file of evidence, and all arrays of one such file may have.
RECORD_LIMIT, EVIDENCE_LIMIT, UNPACKED_LIMIT = 2 << 20, 32 << 20, 256 << 20
#: Characters that a text may have where it is no error.
TEXT_LIMIT = 400
#: Width and height of the largest picture that is drawn of a game, and bytes for its pixels.
PICTURE_SIZE, PICTURE_LIMIT = (616, 356), 1 << 20

_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
#: The header of an array as numpy writes it: number type, order and shape.
_HEADER = re.compile(
    r"\{'descr': '([^']{1,20})', 'fortran_order': (False|True), "
    r"'shape': \(((?:\d{1,9}, ){0,9}(?:\d{1,9},?)?)\), \} *\n"
)
_NUMBERS = re.compile(r"[<>|](b1|[iu][1248]|f[248])")


class Finding(NamedTuple):
    """What is wrong, in one line."""

    file: str
    field: str
    reason: str

    def __str__(self) -> str:
        line = f"{self.file}: {self.field}: {self.reason}"
        # It may quote what a stranger wrote, which must not reach a terminal as commands.
        return "".join(c if c.isprintable() else "?" for c in line)


class Refused(Exception):
    """A file that says something impossible; carries the field and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field[:TEXT_LIMIT], reason


class Arrays(dict[str, np.ndarray]):
    """Arrays by name; one that is asked for and missing is a reason to refuse the file."""

    def __missing__(self, name: str) -> np.ndarray:
        raise Refused(name, "is missing from the evidence")


def regular(path: Path, limit: int) -> bytes:
    """The content of a file that is really one, and small enough.

    Raises:
        Refused: a link, a folder, a missing or a large file.
    """
    try:
        facts = path.lstat()
    except OSError:
        raise Refused("file", "is missing") from None
    if not stat.S_ISREG(facts.st_mode):
        raise Refused("file", "is no plain file; links and folders are not taken")
    if facts.st_size > limit:
        raise Refused("file", f"has {facts.st_size:,} bytes, at most {limit:,} are allowed")
    return path.read_bytes()


def read_record(path: Path, read: Callable[[bytes], Record]) -> tuple[Record, bytes]:
    """A record whose file says nothing but what the record says.

    Args:
        read: parses a record of any game.

    Raises:
        Refused: no JSON, not the schema, or more than the schema.
    """
    content = regular(path, RECORD_LIMIT)
    try:
        raw = json.loads(
            content,
            object_pairs_hook=_once,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
        record = read(content)
    except ValidationError as error:
        first = error.errors()[0]
        # The first part of the place is the game that the record is of.
        field = ".".join(map(str, first["loc"][1:])) or "file"
        raise Refused(field, first["msg"][0].lower() + first["msg"][1:]) from None
    except (ValueError, RecursionError) as error:
        raise Refused("file", f"is no JSON that a record may be: {error}") from None
    # Parsing is lenient ("5" for 5); a record is what was written.
    again = record.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if (place := _difference(raw, again)) is not None:
        raise Refused(place, "is not written as poisongames writes it")
    _check_texts(raw, "")
    return record, content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:TEXT_LIMIT]!r} is given twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 40:
        raise ValueError(f"{text[:20]}… is too large")
    return int(text)


def _difference(one: Any, other: Any, place: str = "") -> str | None:
    """Where two JSON values differ, None where they are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            inner = f"{place}.{key}" if place else str(key)
            if key not in one or key not in other:
                return inner
            if (found := _difference(one[key], other[key], inner)) is not None:
                return found
        return None
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            if (found := _difference(*pair, f"{place}.{number}")) is not None:
                return found
        return None
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    same_kind = type(one) is type(other) or (numbers and bool not in (type(one), type(other)))
    return None if same_kind and one == other else place or "file"


def _check_texts(value: Any, place: str) -> None:
    """Refuse markup, control characters and novels; only errors speak freely."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key, f"{place}.{key[:40]}".lstrip("."))
            _check_texts(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_texts(inner, f"{place}.{number}")
    elif isinstance(value, str):
        _check_text(value, place)


def _check_text(text: str, place: str) -> None:
    free = place in ("error.message", "reason")
    limit = MESSAGE_LIMIT if free else TEXT_LIMIT
    if len(text) > limit:
        raise Refused(place, f"has {len(text):,} characters, at most {limit:,} are allowed")
    if free and all(c.isprintable() or c in "\n\t" for c in text):
        return
    if not text.isprintable() or FORBIDDEN & set(text):
        raise Refused(place, f"{text[:60]!r} has characters that names and values do not have")
    if place.split(".")[-1] != "name":
        return
    # A pipeline is called by the names of its stages.
    names = text.split("+") if place == "defense.name" else [text]
    if not all(_NAME.fullmatch(name) and len(name) <= NAME_LIMIT for name in names):
        raise Refused(
            place,
            f"{text[:60]!r} must be lower-case words joined by - or _, at most {NAME_LIMIT} "
            "characters",
        )


def read_evidence(folder: Path, evidence: Evidence) -> Arrays:
    """The arrays behind a record, once the file is known to be the one that it names.

    Raises:
        Refused: another file, no archive of plain arrays, or one that unpacks to too much.
    """
    content = _named(folder, evidence, EVIDENCE_LIMIT)
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise Refused("file", "holds an array twice")
            if sum(member.file_size for member in members) > UNPACKED_LIMIT:
                raise Refused("file", f"unpacks to more than {UNPACKED_LIMIT:,} bytes")
            return Arrays(_array(archive, member) for member in members)
    except (
        zipfile.BadZipFile, zlib.error, struct.error, ValueError, OSError, EOFError,
        NotImplementedError,
    ) as error:  # fmt: skip
        raise Refused("file", f"is no archive of plain arrays: {error}") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[str, np.ndarray]:
    name = member.filename.removesuffix(".npy")
    # numpy would find an array by its name without the ending too.
    if name == member.filename:
        raise Refused(name, "does not end in .npy")
    packed = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if member.flag_bits & 1 or not packed:
        raise Refused(name, "is encrypted or packed in another way than numpy does")
    with archive.open(member) as file:
        # All that the archive admits to, and no more; nothing is reserved on a header's word.
        content = file.read(member.file_size)
    start = 10 + int.from_bytes(content[8:10], "little")
    header = _HEADER.fullmatch(content[10:start].decode("latin1"))
    if content[:8] != b"\x93NUMPY\x01\x00" or header is None:
        raise Refused(name, "has no array header that numpy writes")
    kind, fortran, sizes = header.groups()
    if not _NUMBERS.fullmatch(kind):
        raise Refused(name, f"holds {kind}, only numbers are allowed; objects are not loaded")
    dtype, shape = np.dtype(kind), tuple(map(int, re.findall(r"\d+", sizes)))
    if start + math.prod(shape) * dtype.itemsize != len(content):
        raise Refused(name, f"promises {shape} numbers of {dtype}, the file has others")
    order: Literal["F", "C"] = "F" if fortran == "True" else "C"
    array: np.ndarray = np.ndarray(shape, dtype, content, start, order=order)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(name, "holds numbers that are not finite")
    return name, array


def check_picture(folder: Path, evidence: Evidence) -> bytes:
    """The content of a picture that can be opened.

    Raises:
        Refused: another file, no PNG, or a huge one.
    """
    content = _named(folder, evidence, PICTURE_LIMIT)
    try:
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            if any(side > most for side, most in zip(image.size, PICTURE_SIZE, strict=True)):
                raise Refused("file", f"is {image.size} pixels, at most {PICTURE_SIZE} are drawn")
            image.verify()
    except (
        OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise Refused("file", f"is no picture: {error}") from None
    return content


def _named(folder: Path, evidence: Evidence, limit: int) -> bytes:
    content = regular(folder / evidence.file, limit)
    found = hashlib.sha256(content).hexdigest()
    if found != evidence.sha256:
        raise Refused(
            "sha256", f"is {found[:12]}…, its record names {evidence.sha256[:12]}…; one was changed"
        )
    return content


def strangers(folder: Path, allowed: set[str], place: str = "") -> Iterator[Finding]:
    """What lies in a folder and belongs to no record.

    Args:
        place: how the folder is named in findings.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        # A run that was killed leaves files that were never finished.
        left_over = path.name.startswith(".") and path.name.endswith(".tmp")
        if path.name not in allowed and not left_over:
            shown = path.name.encode("unicode_escape").decode()[:80]
            yield Finding(f"{place}{shown}", "file", "belongs to no record; remove it")
