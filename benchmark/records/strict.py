"""Reads what strangers hand in: nothing is trusted before it was looked at."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from benchmark.games.settings import Part
from benchmark.records.files import sha256
from benchmark.records.record import MESSAGE_LIMIT, Evidence, Record
from benchmark.specs import NAME_LIMIT
from benchmark.texts import FIELD, first_error, hidden, unfit

#: Bytes that a record and a file of evidence may have.
RECORD_LIMIT, EVIDENCE_LIMIT = 2 << 20, 32 << 20
#: Characters that a text may have where it is no error.
TEXT_LIMIT = 400

_NAME = re.compile(rf"(?!.{{{NAME_LIMIT + 1}}})[a-z0-9]+([-_][a-z0-9]+)*")


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
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused("file", f"cannot be read: {error.strerror}") from None


def read_record(path: Path, read: Callable[[bytes], Record]) -> tuple[Record, bytes]:
    """A record whose file says nothing but what the record says.

    Args:
        read: parses a record of any game.

    Raises:
        Refused: no JSON, not the schema, or more than the schema.
    """
    content, known = regular(path, RECORD_LIMIT), False
    said = _parsed(content)
    try:
        # `read` is lenient ("5" for 5); a record is what was written.
        game, known = type(read(content)), True
        record = game.model_validate_json(content, strict=True)
    except ValidationError as error:
        # The first part of the place is the game, where it had to be found out.
        raise Refused(*first_error(error, 0 if known else 1)) from None
    _check_texts(said, ())
    return record, content


def plain_json(content: bytes) -> None:
    """Refuse a file that is no JSON, or has other names and texts than records may have.

    Raises:
        Refused: with the place and the reason.
    """
    said = _parsed(content)
    # Cells are known by their keys, which begin with a digit as often as not.
    _check_texts(list(said.values()) if isinstance(said, dict) else said, ())


def check_part(part: Part, name: str) -> None:
    """Refuse a part of a record that no record may hold under that name.

    Raises:
        Refused: with the place and the reason.
    """
    _check_texts(_parsed(json.dumps(part.model_dump()).encode()), (name,))


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(
            content,
            object_pairs_hook=_once,
            parse_int=_real,
            parse_float=_real,
            parse_constant=_real,
        )
    except (ValueError, RecursionError) as error:
        raise Refused("file", f"is no JSON that a record may be: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:TEXT_LIMIT]!r} is given twice")
        found[name] = value
    return found


def _real(text: str) -> None:
    if len(text) > 40 or not math.isfinite(float(text)):
        raise ValueError(f"{text[:40]} is no number, or too large")


def _check_texts(value: Any, place: tuple[str, ...]) -> None:
    """Refuse markup, control characters and novels; only errors speak freely."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not FIELD.fullmatch(key):
                reason = f"{key[:60]!r} is no name of a field or a setting"
                raise Refused(".".join(place) or "file", reason)
            _check_texts(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_texts(inner, (*place, str(number)))
    elif isinstance(value, str):
        free = place == ("error", "message")
        limit = MESSAGE_LIMIT if free else TEXT_LIMIT
        plain = value.replace("\n", " ").replace("\t", " ") if free else value
        # A pipeline is called by the names of its stages.
        names = value.split("+") if place == ("defense", "name") else [value]
        if len(value) > limit:
            reason = f"has {len(value):,} characters, at most {limit:,} are allowed"
        elif any(map(hidden, plain)) or (not free and unfit(value)):
            reason = f"{value[:60]!r} has characters that names and values do not have"
        elif place[-1:] == ("name",) and not all(map(_NAME.fullmatch, names)):
            reason = f"{value[:60]!r} is not lower-case words, at most {NAME_LIMIT} characters"
        else:
            return
        raise Refused(".".join(place), reason)


def check_named(folder: Path, evidence: Evidence, limit: int = EVIDENCE_LIMIT) -> bytes:
    """The content of a file beside a record, once it is known to be the one that it names.

    Raises:
        Refused: another file, none, or a large one.
    """
    content = regular(folder / evidence.file, limit)
    found = sha256(content)
    if found != evidence.sha256:
        raise Refused(
            "sha256", f"is {found[:12]}…, its record names {evidence.sha256[:12]}…; one was changed"
        )
    return content


def is_unfinished(path: Path) -> bool:
    """Whether it is a file that a run was killed over, which nobody reads."""
    plain = path.is_file() and not path.is_symlink()
    return plain and re.fullmatch(r"\.[0-9a-f]{32}\.tmp", path.name) is not None


def strangers(folder: Path, allowed: set[str], place: str = "") -> Iterator[Finding]:
    """What lies in a folder and belongs to no record.

    Args:
        place: how the folder is named in findings.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in allowed and not is_unfinished(path):
            shown = path.name.encode("unicode_escape").decode()[:80]
            yield Finding(f"{place}{shown}", "file", "belongs to no record; move it elsewhere")
