"""Checks of evidence that strangers hand in, before numbers are made of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from benchmark.games.base import Arrays, Wrong
from benchmark.metrics import target_class
from benchmark.protocol import Protocol
from benchmark.records.record import Record
from benchmark.records.strict import Refused

#: Pixels a side of any picture in the evidence.
SIDE = 128


def digest(*arrays: NDArray[np.generic]) -> str:
    """What tells arrays apart, short enough for a sentence."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:12]


def known(arrays: Arrays, names: str) -> None:
    """Refuse what no game leaves behind and nobody reads; `names` is a regular expression."""
    for name in arrays:
        if not re.fullmatch(names, name):
            raise Refused(name, "is an array that this game does not leave behind")


def shape(arrays: Arrays, name: str, *wanted: int, kinds: str = "iu") -> None:
    """Refuse an array of another shape, or of another kind: whole numbers by default."""
    found = arrays[name]
    if found.shape != wanted:
        raise Refused(name, f"has shape {found.shape} in the evidence, not {wanted}")
    if found.dtype.kind not in kinds:
        what = "whole numbers" if kinds == "iu" else "numbers with a fraction"
        raise Refused(name, f"holds {found.dtype}, this array holds {what}")


def answers(arrays: Arrays, name: str, classes: int, lowest: int = 0) -> None:
    """Refuse answers that are no class; `lowest` is `metrics.REJECTED` where a guard may refuse."""
    found = arrays[name]
    if found.size and not lowest <= found.min() <= found.max() < classes:
        said = f"{found.min()} to {found.max()}"
        raise Refused(name, f"holds answers from {said}, allowed are {lowest} to {classes - 1}")


def takes_turn(arrays: Arrays, record: Record, classes: int) -> Iterator[Wrong]:
    """Targets take turns over repetitions, in the record and in the evidence."""
    shape(arrays, "target")
    due = target_class(record.seed, classes)
    for where, found in (("record", record.target), ("evidence", int(arrays["target"]))):
        if found != due:
            yield "target", f"is {found} in the {where}, repetition {record.seed} attacks {due}"


def known_source(
    arrays: Arrays, record: Record, classes: int
) -> Generator[Wrong, None, int | None]:
    """Return the source class that follows from the attack; the evidence must hold it, too."""
    due = record.attack.source_class(record.target, classes)
    if due == record.target:
        yield "attack.params.source", f"is class {due}, which is the target"
    if due is not None:
        shape(arrays, "source")
    found = source_of(arrays)
    if found != due:
        yield "source", f"is {found} in the evidence, the attack's parameters say {due}"
    return due


def source_of(arrays: Arrays) -> int | None:
    """The only class that the attack is for, None where it is for all others."""
    return int(arrays["source"]) if "source" in arrays else None


def fits_protocol(arrays: Arrays, record: Record, protocol: Protocol) -> Iterator[Wrong]:
    """There are as many test images as the protocol has, and targets take turns."""
    shape(arrays, "labels_test", protocol.splits.test)
    yield from takes_turn(arrays, record, int(arrays["labels_test"].max()) + 1)


def bits(arrays: Arrays, name: str, images: int, *wanted: int) -> NDArray[np.bool_]:
    """What was packed along its last axis of so many images, bool (*wanted, images)."""
    shape(arrays, name, *wanted, -(-images // 8))
    return unpacked(arrays, name, images)


def unpacked(arrays: Arrays, name: str, images: int) -> NDArray[np.bool_]:
    return np.unpackbits(arrays[name], axis=-1, count=images).astype(bool)
