"""The games there are, and how a record of any of them is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from benchmark.games.base import Game
from benchmark.games.detectability.game import DetectabilityGame
from benchmark.games.inversion.game import InversionGame
from benchmark.games.robustness.game import RobustnessGame
from benchmark.records.files import StoreError, read_plain
from benchmark.records.record import Record
from benchmark.texts import first_error

#: By name, in the order in which boards show them.
GAMES: dict[str, Game[Any]] = {
    game.name: game for game in (RobustnessGame(), DetectabilityGame(), InversionGame())
}
#: The game that cells without a defense are of.
UNDEFENDED = RobustnessGame.name

_RECORDS = reduce(or_, (game.record for game in GAMES.values()))
_ANY: TypeAdapter[Any] = TypeAdapter(
    Annotated[_RECORDS, Field(discriminator="game")]  # type: ignore[arg-type]
)


def game_of_stage(stage: str) -> Game[Any]:
    """The game that defenses of a stage play."""
    return next(game for game in GAMES.values() if stage in game.stages)


def read(content: bytes) -> Record:
    """Parse a record of any game; raises pydantic's ValidationError."""
    found: Record = _ANY.validate_json(content)
    return found


def records(folder: Path, pattern: str = "*.json") -> Iterator[Record]:
    """All records of a run or board whose files are named so, in the order of their names.

    Raises:
        StoreError: a file is not a record.
    """
    for path in sorted((folder / "records").glob(pattern), key=lambda path: path.name):
        try:
            yield read(read_plain(path))
        except ValidationError as error:
            # The first part of the place is the game that the record is of.
            field, reason = first_error(error, 1)
            raise StoreError(
                f"{path}: {field}: {reason}; the same `poisongames run` plays its cell "
                "again, or remove the file"
            ) from None
