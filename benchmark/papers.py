"""Numbers as the papers print them."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from pydantic import BaseModel


class PublishedNumber(BaseModel):
    """A number as a paper prints it, a single run without an interval.

    Attributes:
        architecture: the paper's, whatever its first layer is made for.
        quantity: "cda" or "asr" before any defense; "auc" of the detector `defense`, its average
            precision "ap", or its "accuracy" at its own threshold; "asr_left", the lowest ASR
            within budget, of the repair `defense`; "asr_inverted", the best ASR of a trigger that
            the inverter `defense` found from one image.
        attack: its name, and the settings that the paper's table tells apart.
        m: a number, or a percentage of the training images.
        epochs: of the paper's training; empty where it does not matter or the paper does not tell.
        share: of trusted images; empty where there are none or the paper does not tell.
        note: what is known to contradict it, as "C1: text; C2: text".
    """

    paper: str
    table: str
    dataset: str
    architecture: str
    quantity: str
    attack: str
    m: str
    boost: int
    epochs: str
    defense: str
    share: str
    value: str
    note: str

    def amount(self, train: int) -> int:
        """m among so many training images."""
        return round(float(self.m[:-1]) * train / 100) if self.m.endswith("%") else int(self.m)

    def as_often(self, boost: int, epochs: int) -> bool:
        """Whether a training shows a poisoned image as often as the paper's did, boost x epochs.

        Where the paper does not tell its epochs, the boosting has to be the same. A clean model
        is shown none.
        """
        if self.m == "0":
            return True
        if not self.epochs:
            return boost == self.boost
        return boost * epochs == self.boost * int(self.epochs)

    def within(self, low: float, high: float) -> bool:
        """Whether a number that is printed like this lies in an interval."""
        half = 0.5 * 10.0 ** -len(self.value.partition(".")[2])
        # What lies on the bound is inside, whatever the sum rounds to.
        return low - half - 1e-9 <= float(self.value) <= high + half + 1e-9


@cache
def published() -> tuple[PublishedNumber, ...]:
    """All numbers that a protocol could be compared with.

    What a paper gives a clean model by definition, an ASR of 0 and an AUC of 0.5, is not
    among them.
    """
    text = files("benchmark").joinpath("published.csv").read_text("utf-8")
    return tuple(PublishedNumber.model_validate(row) for row in csv.DictReader(text.splitlines()))


def inverted(attack: str, inverter: str) -> float:
    """The ASR that an inverter's trigger is published with, for a data set that may be another.

    NaN where there is none.
    """
    for line in published():
        if (line.quantity, line.attack, line.defense) == ("asr_inverted", attack, inverter):
            return float(line.value)
    return float("nan")
