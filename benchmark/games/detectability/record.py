"""A detectability record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from benchmark.games.settings import Part
from benchmark.metrics import Rate
from benchmark.records.record import Amount, Record, Single


class Found(Part):
    """What one examination of a suspect found.

    Attributes:
        score: higher is more suspicious.
        class_scores: likewise per class.
        guess: the class with the largest score, the first of equals.
        flagged: the detector's own yes or no.
        also: other readings of the same examination, none of them called score.
        norms: L1 norm of the trigger reversed for every class.
        success: what the trigger reversed for the attack's target does to test images.
        reasr: the same, restricted to the pixels of the true trigger (ReASR of Li et al.); none
            where these are most of the image.
    """

    score: Single
    class_scores: tuple[Single, ...]
    guess: Annotated[int, Field(ge=0)]
    flagged: bool | None
    also: dict[str, Single]
    norms: tuple[Single, ...] | None
    success: Rate | None
    reasr: Rate | None
    seconds: Amount

    @model_validator(mode="after")
    def _fits(self) -> Found:
        if "score" in self.also:
            raise ValueError("score is the name of the detector's own reading")
        if self.norms is not None and len(self.norms) != len(self.class_scores):
            raise ValueError(f"{len(self.norms)} norms for {len(self.class_scores)} classes")
        return self


class DetectabilityRecord(Record):
    """One detector on one suspect model, a member of the population that `attack` made."""

    game: Literal["detectability"] = "detectability"
    scans: tuple[Found, ...] = ()

    @model_validator(mode="after")
    def _scans_agree(self) -> DetectabilityRecord:
        for number, scan in enumerate(self.scans[1:], start=1):
            if scan.also.keys() != self.scans[0].also.keys():
                raise ValueError(f"scan {number} has other readings than scan 0")
            if len(scan.class_scores) != len(self.scans[0].class_scores):
                raise ValueError(f"scan {number} has other classes than scan 0")
        if self.status == "ok" and not self.scans:
            raise ValueError("a record that is ok needs scans")
        return self
