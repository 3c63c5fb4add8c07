"""Who handed in which records on a board: what a run's `submission.toml` says, and what is kept."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, model_validator

from benchmark.games.settings import Part
from benchmark.records.files import StoreError, sha256, write_whole
from benchmark.records.record import Sha256
from benchmark.records.strict import RECORD_LIMIT, Refused, regular
from benchmark.texts import first_error, unfit

#: What a run's folder may have, and the folder of a board with one file per submission.
FILE, FOLDER = "submission.toml", "submissions"
#: Bytes of `FILE`.
LIMIT = 16 << 10
#: Between the titles of several submissions in one cell of a table.
BETWEEN = "; "
#: What GitHub or a mail program would turn into a link, and what stands between titles.
_LOOSE = ("://", "www.", "@", ";")
_LINK = r"^https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[A-Za-z0-9._~/@+%=?#:-]*)?$"


def _plain(text: str) -> str:
    if not text or text != " ".join(text.split()):
        raise ValueError("is empty, or has more blanks than one between words")
    if found := [*unfit(text), *(mark for mark in _LOOSE if mark in text)]:
        raise ValueError(f"has {found[0]!a}, which no title and no name may have")
    return text


Text = Annotated[str, Field(max_length=80), AfterValidator(_plain)]
Link = Annotated[str, Field(max_length=200, pattern=_LINK)]


class Credits(Part):
    """What people say of a submission.

    Attributes:
        title: what it is called on the board; no two submissions of a board share one.
        paper: where one can read about it.
        source, commit: where the plugin can be installed from, and what of it was played.
    """

    title: Text
    authors: Annotated[list[Text], Field(min_length=1, max_length=50)]
    paper: Link | None = None
    source: Link | None = None
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None

    @model_validator(mode="after")
    def _installable(self) -> Credits:
        if (self.source is None) != (self.commit is None):
            raise ValueError("source and commit are given together or not at all")
        return self


class Kept(Credits):
    """What a board keeps: the same, and the records that came with it.

    Attributes:
        records: digests of the records' files as they were then, by the records' keys.
    """

    records: Annotated[dict[Sha256, Sha256], Field(min_length=1)]


def name_of(title: str) -> str:
    """What a board's file, and the place on its page, are called after a title."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return words or sha256(title.encode())[:12]


def place(title: str) -> str:
    """The file of a submission on a board."""
    return f"{FOLDER}/{name_of(title)}.json"


def of_run(run: Path) -> Credits | None:
    """What a run's folder says; None where it says nothing.

    Raises:
        Refused: a link, a large file, no TOML, or something else than `Credits`.
    """
    path = run / FILE
    if not path.exists() and not path.is_symlink():
        return None
    content = regular(path, LIMIT)
    try:
        said = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise Refused("file", f"is no TOML: {error}") from None
    try:
        return Credits.model_validate(said, strict=True)
    except ValidationError as error:
        raise Refused(*first_error(error)) from None


def kept(path: Path) -> Kept:
    """A board's file.

    Raises:
        Refused: a link, a large file, no JSON, something else than `Kept`, or another name.
    """
    content = regular(path, RECORD_LIMIT)
    try:
        found = Kept.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise Refused(*first_error(error)) from None
    if content != _written(found):
        raise Refused("file", "is not written as `poisongames submit` writes it")
    if path.name != f"{name_of(found.title)}.json":
        raise Refused("title", f"belongs to {place(found.title)}")
    return found


def read(board: Path) -> list[Kept]:
    """All that a board keeps, by the names of the files.

    Raises:
        StoreError: one of the files is not as it should be.
    """
    found = []
    for path in sorted((board / FOLDER).glob("*.json")):
        try:
            found.append(kept(path))
        except Refused as refused:
            raise StoreError(
                f"{path}: {refused.field}: {refused.reason}; restore or remove it"
            ) from None
    return found


def add(board: Path, own: Credits, records: Mapping[str, str], there: Collection[str]) -> None:
    """Note whose records are new on a board, beside those that came under the same title.

    Args:
        records: digests of the files of the new records, by the records' keys.
        there: digests of the files that the board has or will have; others are left out.

    Raises:
        StoreError: as `read`, or the file cannot be written.
    """
    before = next((one.records for one in read(board) if one.title == own.title), {})
    every = {key: one for key, one in sorted((before | dict(records)).items()) if one in there}
    if every and every != before:
        write_whole(board / place(own.title), _written(Kept(**own.model_dump(), records=every)))


def _written(one: Kept) -> bytes:
    return one.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"
