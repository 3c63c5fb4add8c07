"""Reads the arrays and pictures that strangers hand in beside their records."""

from __future__ import annotations

import math
import struct
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.records.record import Evidence
from benchmark.records.strict import EVIDENCE_LIMIT, TEXT_LIMIT, Refused, check_named

#: Bytes that all arrays of a file may have.
UNPACKED_LIMIT = 256 << 20
#: Width and height of the largest picture that is drawn of a game, and bytes for its pixels.
PICTURE_SIZE, PICTURE_LIMIT = (616, 356), 1 << 20


class Arrays(dict[str, np.ndarray]):
    """Arrays by name; one that is asked for and missing is a reason to refuse the file."""

    def __missing__(self, name: str) -> np.ndarray:
        raise Refused(name, "is missing from the evidence")


def read_evidence(folder: Path, evidence: Evidence) -> Arrays:
    """The arrays behind a record, once the file is known to be the one that it names.

    Raises:
        Refused: another file, no archive of plain arrays, or one that unpacks to too much.
    """
    content = check_named(folder, evidence, EVIDENCE_LIMIT)
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise Refused("file", "holds an array twice")
            if sum(member.file_size for member in members) > UNPACKED_LIMIT:
                raise Refused("file", f"unpacks to more than {UNPACKED_LIMIT:,} bytes")
            if _archive_size(content, archive) != len(content):
                raise Refused("file", "holds more than its arrays")
            return Arrays(_array(archive, member) for member in members)
    except Refused:
        raise
    except Exception as error:  # of many kinds, where it is damaged
        raise Refused("file", f"is no archive of plain arrays: {error}") from None


def _archive_size(content: bytes, archive: zipfile.ZipFile) -> int:
    """Bytes of an archive of these members as numpy writes it, without comments or gaps."""
    place = 0
    for member in archive.infolist():
        if member.header_offset != place or content[place : place + 4] != b"PK\x03\x04":
            raise Refused("file", "holds something between its arrays")
        name, extra = struct.unpack_from("<HH", content, place + 26)
        # Sizes for files beyond 4 GB are all that numpy adds to a member.
        if extra not in (0, 20) or member.extra or member.comment:
            raise Refused("file", f"says more of {member.filename[:60]!r} than numpy does")
        place += 30 + int(name) + int(extra) + member.compress_size
    if archive.comment or archive.start_dir != place:
        raise Refused("file", "holds something beside its arrays")
    return place + sum(46 + len(one.filename.encode()) for one in archive.infolist()) + 22


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[str, np.ndarray]:
    name = member.filename.removesuffix(".npy")
    # numpy would find an array by its name without the ending too.
    if name == member.filename:
        raise Refused(name, "does not end in .npy")
    packed = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if member.flag_bits & 1 or not packed:
        raise Refused(name, "is encrypted or packed in another way than numpy does")
    with archive.open(member) as packed_file:
        # All that the archive admits to, and no more; nothing is reserved on a header's word.
        content = packed_file.read(member.file_size)
    file = BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, TEXT_LIMIT)
    except Exception:  # it is read as Python, which fails in many ways
        raise Refused(name, "has no array header that numpy writes") from None
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise Refused(name, f"holds {dtype}, only numbers are allowed; objects are not loaded")
    shape, held = tuple(map(int, shape)), len(content) - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held:
        raise Refused(name, f"promises {shape} numbers of {dtype}, the file has others")
    array = np.frombuffer(content, dtype, offset=file.tell())
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(name, "holds numbers that are not finite")
    return name, array.reshape(shape, order="F" if fortran else "C")


def check_picture(folder: Path, evidence: Evidence) -> bytes:
    """The content of a picture that can be opened.

    Raises:
        Refused: another file, no PNG, or a huge one.
    """
    content = check_named(folder, evidence, PICTURE_LIMIT)
    try:
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            if any(side > most for side, most in zip(image.size, PICTURE_SIZE, strict=True)):
                raise Refused("file", f"is {image.size} pixels, at most {PICTURE_SIZE} are drawn")
            image.load()
        if _png_end(content) != len(content):
            raise Refused("file", "goes on after the end of its picture")
    except Refused:
        raise
    except Exception as error:  # of many kinds, where it is damaged
        raise Refused("file", f"is no picture: {error}") from None
    return content


def _png_end(content: bytes) -> int:
    """Where the last chunk of a PNG ends."""
    place, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, place)
        place += 12 + int(length)
    return place
