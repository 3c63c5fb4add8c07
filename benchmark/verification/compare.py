"""Compares the numbers of a record with those that its evidence gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from benchmark.games.base import Wrong
from benchmark.metrics import Rate

#: How far rounding may put a number, as a share of it; a game names those that may be off more.
TOLERANCE = 1e-6
#: What models are ranked by, where the smallest difference breaks a tie.
_RANKED = ("score", "also")


def differences(
    found: Any, right: Any, close: Mapping[str, float], place: str = ""
) -> Iterator[Wrong]:
    """Fields that are not what they should be, and what they should be.

    Args:
        found: a part of a record.
        right: the same as the evidence gives it.
        close: see `benchmark.games.base.Game`.
    """
    name = place.rpartition(".")[2]
    if isinstance(found, BaseModel) and type(found) is type(right):
        for field in type(found).model_fields:
            # A metric that is younger than the record, which then does not show it either.
            if field not in found.model_fields_set and getattr(found, field) is None:
                continue
            inner = f"{place}.{field}" if place else field
            yield from differences(getattr(found, field), getattr(right, field), close, inner)
    elif _parts(found) and _parts(right) and len(found) == len(right):
        for number, pair in enumerate(zip(found, right, strict=True)):
            yield from differences(*pair, close, f"{place}.{number}")
    elif not _same(found, right, 0.0 if name in _RANKED else close.get(name, TOLERANCE)):
        yield place, f"is {_text(found)}, the evidence gives {_text(right)}"


def _parts(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], BaseModel)


def _same(found: Any, right: Any, tolerance: float) -> bool:
    if isinstance(found, float) and isinstance(right, float):
        return math.isclose(found, right, rel_tol=tolerance, abs_tol=tolerance / 1000)
    if isinstance(found, Rate) or isinstance(right, Rate):
        return bool(found == right)
    if isinstance(found, tuple) and isinstance(right, tuple):
        pairs = zip(found, right, strict=False)
        return len(found) == len(right) and all(_same(*pair, tolerance) for pair in pairs)
    if isinstance(found, dict) and isinstance(right, dict):
        same = found.keys() == right.keys()
        return same and all(_same(found[key], right[key], tolerance) for key in found)
    return bool(found == right)


def _text(value: Any) -> str:
    if isinstance(value, Rate):
        return f"{value.hits} of {value.total}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"[:100]
    return f"{value!r}"[:100]
