"""Columns of a board's tables, each declared once, and how their cells are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

import pandas as pd

from benchmark.texts import counted

#: A row of a frame.
Row = Mapping[str, Any]
#: What tells one attack of a board from another.
KEYS = ["attack", "m", "boost", "recipe"]
MISSING = "–"
#: As in the CSV files, so that a page is the same wherever it is made.
DIGITS = 6


class Unit(Enum):
    """What the values of a column are."""

    TEXT = "text"
    YES_NO = "yes or no"
    RATE = "share, in percent"
    AREA = "share, from 0 to 1"  # such as a ROC AUC
    POINTS = "difference of shares, in percentage points"
    SECONDS = "seconds"
    COUNT = "count"
    NUMBER = "number"
    SHARE = "trusted images, as a share of the training set"

    @property
    def bounded(self) -> bool:
        """Whether values lie in [0, 1], so that a bar can stand for them."""
        return self in (Unit.RATE, Unit.AREA)


#: By what numbers are multiplied to be written, and digits; significant ones where below 0.
WRITTEN = {
    Unit.RATE: (100, 1),
    Unit.AREA: (1, 2),
    Unit.POINTS: (100, 2),
    Unit.SECONDS: (1, 1),
    Unit.COUNT: (1, 0),
    Unit.NUMBER: (1, -4),
}


@dataclass(frozen=True)
class Column:
    """A column of a frame.

    Attributes:
        key: its name in the frame and the CSV file; an interval adds `_low` and `_high`.
        title: its heading on pages.
        doc: one sentence on what it holds.
        brief: README.md, small screens and the first view of a page show it.
        hidden: only the CSV file has it.
        menu: the page filters by its values.
        names: whose names it holds, "attack", "defender" or "submission". An attack is shown with
            `KEYS`, and a defender with the trusted share in the column `share`.
        favours: which side a large number is good for.
        digits: if not those of the unit.
    """

    key: str
    title: str
    unit: Unit
    doc: str
    interval: bool = False
    brief: bool = False
    hidden: bool = False
    menu: bool = False
    names: Literal["", "attack", "defender", "submission"] = ""
    share: str = ""
    favours: Literal["", "attacker", "defender"] = ""
    digits: int | None = None

    def missing(self, row: Row) -> bool:
        value = row.get(self.key)
        return bool(pd.isna(value)) or value == ""

    def text(self, row: Row) -> str:
        """The cell with its interval, `MISSING` where nothing was measured."""
        if self.missing(row):
            return MISSING
        value = row[self.key]
        if self.names in ("attack", "defender"):
            return attack_label(row) if self.names == "attack" else self._defender(row)
        if self.unit is Unit.TEXT:
            return str(value)
        if self.unit is Unit.YES_NO:
            return "yes" if value else "no"
        if self.unit is Unit.SHARE:
            return share_text(value)
        bounds = [self._number(bound) for bound in self.bounds(row)]
        return self._number(value) + (f" [{', '.join(bounds)}]" if bounds else "")

    def short(self, row: Row) -> str:
        """The same in few characters: no decimals in percent from 10 % on."""
        if self.unit is not Unit.RATE or self.missing(row):
            return self.text(row)
        mean, *bounds = (
            f"{100 * value:.{0 if round(100 * value, 1) >= 10 or value == 0 else 1}f}"
            for value in (row[self.key], *self.bounds(row))
        )
        return mean + (f" [{', '.join(bounds)}]" if bounds else "")

    def bounds(self, row: Row) -> list[float]:
        """Of the interval; empty where there is none."""
        if not self.interval:
            return []
        found = [row.get(f"{self.key}_{end}", float("nan")) for end in ("low", "high")]
        return [] if pd.isna(found[0]) else found

    def _defender(self, row: Row) -> str:
        return defender_label(row[self.key], row.get(self.share))

    def _number(self, value: float) -> str:
        factor, digits = WRITTEN[self.unit]
        digits = digits if self.digits is None else self.digits
        # What rounds to zero has no sign.
        shown = factor * value
        return f"{shown:.{-digits}g}" if digits < 0 else f"{round(shown, digits) + 0.0:.{digits}f}"

    def attackers_gain(self, value: float) -> float:
        """How good a share is for the attacker, from 0 to 1; an AUC at chance is best for him."""
        good = value if self.favours == "attacker" else 1 - value
        return min(1.0, max(0.0, 2 * good if self.unit is Unit.AREA else good))


GAME = Column("game", "game", Unit.TEXT, "the game that the defender plays", hidden=True)
SEED = Column("seed", "seed", Unit.COUNT, "the repetition", brief=True)
SEEDS = Column("seeds", "seeds", Unit.COUNT, "repetitions that the means are taken over")
#: Shown beside the name of the defender.
TRUSTED = Column(
    "trusted_share", "r", Unit.SHARE, "trusted images, as a share of the training set", hidden=True
)
DEFENDER = Column(
    "defender", "defender", Unit.TEXT, "the defender with its trusted share r",
    brief=True, menu=True, names="defender", share="trusted_share",
)  # fmt: skip
DEFENSE = Column(
    "defense", "defense", Unit.TEXT, "the defense with its trusted share r, or a pipeline of them",
    brief=True, menu=True, names="defender", share="trusted_share",
)  # fmt: skip
WORKED = Column("worked", "worked", Unit.YES_NO, "whether the attack worked undefended")
FAILED = Column(
    "failed", "failed", Unit.COUNT,
    "repetitions that failed or were refused; in means they are the worst case for whoever would "
    "profit from their absence",
)  # fmt: skip
HANDED_IN = (
    Column(
        "replayed", "replayed", Unit.COUNT, "records behind the row that were played again when "
        "it was handed in, with numbers that agree",
    ),
    Column(
        "submission", "submission", Unit.TEXT, "the submissions that brought records of the row",
        menu=True, names="submission",
    ),
)  # fmt: skip
BOOST = Column("boost", "b", Unit.COUNT, "how often each poisoned image is repeated")
RECIPE = Column("recipe", "recipe", Unit.TEXT, "how the victim was trained")
#: Columns that tell an attack; with `KEYS` it is shown in one.
ATTACK = (
    Column(
        "attack", "attack", Unit.TEXT,
        "the attack, with its number m of poisoned images and, where they are unusual, the "
        "boosting b and the training recipe",
        brief=True, menu=True, names="attack",
    ),
    Column("threat", "threat", Unit.TEXT, "what the attacker changes: images alone "
           "(clean-label), labels too (poison-label), or the training code (code)", menu=True),
    Column("m", "m", Unit.COUNT, "poisoned images", hidden=True),
    replace(BOOST, hidden=True),
    replace(RECIPE, hidden=True),
)  # fmt: skip


def attack_label(row: Row, *, with_m: bool = True) -> str:
    """An attack with its m, boosting and recipe, the last two only where they are unusual."""
    recipe = "" if row["recipe"] == "standard" else row["recipe"]
    if not row.get("m") and row.get("threat") == "none":
        return f"clean models ({recipe})" if recipe else "clean models"
    boost = "" if row["boost"] == 1 else f"b={row['boost']}"
    unusual = ", ".join(filter(None, (f"m={row['m']}" if with_m else "", boost, recipe)))
    return f"{row['attack']} ({unusual})" if unusual else str(row["attack"])


def defender_label(name: str, share: float | None) -> str:
    return name if pd.isna(share) else f"{name} r={share_text(share)}"


def share_text(share: float | None) -> str:
    """A trusted share in percent, a dash where the defense has no trusted images."""
    return MISSING if share is None or pd.isna(share) else f"{100 * share:g}%"


def share_key(share: float | None) -> float:
    """A trusted share to group by: where there is none 0, since no two NaN are the same."""
    return 0.0 if share is None or pd.isna(share) else share


def joined(names: Sequence[str], noun: str) -> str:
    """Up to four names in a sentence, or how many there are."""
    if len(names) > 4:
        return counted(len(names), noun)
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def written(row: Row, key: str, unit: Unit) -> str:
    """A number of a row with its interval."""
    return Column(key, "", unit, "", interval=True).text(row)
