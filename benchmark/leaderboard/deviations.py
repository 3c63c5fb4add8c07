"""What people write beside a board on published numbers that it disagrees with."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.records.files import StoreError
from benchmark.texts import unfit

#: What a comparison says of a published number.
INSIDE, OUTSIDE, NOT_MEASURED = "inside", "outside", "not measured"

FILE = "explanations.csv"
COLUMNS = ["paper", "recipe", "quantity", "attack", "defense", "share", "text"]
#: Characters that a text may have.
TEXT_LIMIT = 400
#: What stands for a text where nobody wrote one.
OPEN = "open"

#: Paper and recipe, and quantity, attack, defense and share as `PublishedNumber` has them.
Key = tuple[str, ...]


def explained(frame: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    """A comparison with the column `explanation`: for what is `OUTSIDE` the text that
    `FILE` in one of the folders has for it, else `OPEN`.

    Raises:
        StoreError: the file is not as it should be.
    """
    texts = {key: text for folder in folders for key, text in _explanations(folder / FILE).items()}
    if frame.empty:
        return frame
    keys = _keys(frame)
    return frame.assign(explanation=["" if key is None else texts.get(key, OPEN) for key in keys])


def refuse_unused(frame: pd.DataFrame, folder: Path) -> None:
    """Refuse a folder whose `FILE` explains what does not disagree in its whole comparison.

    Raises:
        StoreError: it names the first such line.
    """
    if unused := sorted(_explanations(folder / FILE).keys() - set(_keys(frame))):
        raise StoreError(
            f"{folder / FILE}: no disagreement of this board is {_written(unused[0])}; remove the "
            "line"
        )


def _keys(frame: pd.DataFrame) -> list[Key | None]:
    """By row; None where nothing is to be explained."""
    return [_key(row) if row["verdict"] == OUTSIDE else None for row in frame.to_dict("records")]


def _key(row: Mapping[str, Any]) -> Key:
    share = row["trusted_share"]
    text = "" if pd.isna(share) else f"{share:g}"
    return row["paper"], row["recipe"], row["quantity"], row["attack"], row["defense"], text


def _written(key: Key) -> str:
    return ascii(",".join(key)[:TEXT_LIMIT])


def _explanations(path: Path) -> dict[Key, str]:
    """What people wrote, which nobody has checked and everybody will be shown."""
    if not path.exists():
        return {}
    try:
        content = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
        lines = [line for line in csv.reader(content, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path} cannot be read as CSV: {error}") from None
    if lines[:1] != [COLUMNS] or any(len(line) != len(COLUMNS) for line in lines):
        raise StoreError(
            f"{path}: every line has the columns {','.join(COLUMNS)}, as the first says"
        )
    found: dict[Key, str] = {}
    for *names, text in lines[1:]:
        key = tuple(names)
        where = f"{path}: the text for {_written(key)}"
        if not text.strip() or len(text) > TEXT_LIMIT:
            raise StoreError(f"{where} has {len(text)} characters, 1 to {TEXT_LIMIT} are allowed")
        if bad := unfit(text):
            raise StoreError(f"{where} has {bad[0]!a}, which no text of a board may have")
        if key in found:
            raise StoreError(f"{where} is given twice; keep one")
        found[key] = text
    return found
