"""Texts that everybody reads: characters and lines of what strangers write, and counts."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

#: A name of a field, of a setting or of a reading.
FIELD = re.compile(r"(?!.{61})[A-Za-z][A-Za-z0-9_.-]*( [A-Za-z0-9_.-]+)*")
#: They would be markup or quotes somewhere.
MARKUP = frozenset("<>\"'`&\\")
#: Beside what ASCII has.
PUNCTUATION = frozenset("–—…×±°µ²³·≤≥≈→€™’‘“”")


def hidden(character: str) -> bool:
    """Whether a character is none of those that everybody sees in the order they are written in.

    Seen are digits, spaces, common punctuation, and letters that are written from left to right.
    Not so are combining marks, controls, fillers and blank patterns.
    """
    if character.isascii():
        return not character.isprintable()
    if character in PUNCTUATION:
        return False
    letter = unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo", "Nd")
    onward = unicodedata.bidirectional(character) == "L"
    return not (letter and onward) or "FILLER" in unicodedata.name(character, "FILLER")


def shown(text: str) -> str:
    """A text on one line that every screen and file takes: what cannot be printed is escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_error(error: ValidationError, skip: int = 0, whole: str = "file") -> tuple[str, str]:
    """Field and reason of the first thing that pydantic has against a value.

    Args:
        skip: how many parts of the place belong to no field.
        whole: what stands for a field where the whole value is wrong.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    return ".".join(map(str, first["loc"][skip:])) or whole, reason[:1].lower() + reason[1:]


def told(error: BaseException) -> str:
    """Kind and text of what a plugin raised; its text is made by the plugin, too."""
    try:
        said = str(error)
    except BaseException:
        said = "its text cannot be had"
    return f"{type(error).__name__}: {said}"


def unfit(text: str) -> list[str]:
    """Characters of a name or a value that those must not have."""
    return [character for character in text if character in MARKUP or hidden(character)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'this'?`` where a known name is near, else nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def flowing(text: str) -> str:
    """A docstring with a line for each paragraph, point of a list and argument, for any width."""
    return re.sub(r"(?<!\n)\n(?: {8}(?=\S)|  (?=\S)|(?=[^\s*-]))", " ", text.strip())
