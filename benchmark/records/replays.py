"""Which records of a board were played again, where, and with what result."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from benchmark.games.settings import Part
from benchmark.records.files import StoreError, write_whole
from benchmark.records.record import Sha256
from benchmark.texts import first_error

FILE = "replays.json"


class Replay(Part):
    """One cell that was played again.

    Attributes:
        record: digest of the record's file as it was then.
        verdict: whether all numbers were the same, or as close as those of another model.
        device, env: where, and by which versions.
    """

    record: Sha256
    verdict: Literal["equal", "agrees"]
    device: str
    env: dict[str, str]


#: By the record's key.
Replays = dict[str, Replay]
_READ: TypeAdapter[Replays] = TypeAdapter(Replays)


def read(folder: Path) -> Replays:
    """Those of a board; none where nothing was played again.

    Raises:
        StoreError: the file is no list of replays.
    """
    path = folder / FILE
    try:
        return _READ.validate_json(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValidationError) as error:
        why = ": ".join(first_error(error)) if isinstance(error, ValidationError) else str(error)
        raise StoreError(f"{path} is no list of replays ({why}); restore or remove it") from None


def add(folder: Path, replays: Mapping[str, Replay], there: Collection[str]) -> None:
    """Note replays of a board's records beside those that it has.

    Args:
        there: digests of the board's files; replays of other ones are left out.

    Raises:
        StoreError: as `read`, or the file cannot be written.
    """
    before = read(folder)
    every = {
        key: one for key, one in sorted((before | dict(replays)).items()) if one.record in there
    }
    if every != before:
        write_whole(folder / FILE, _READ.dump_json(every, indent=1) + b"\n")
