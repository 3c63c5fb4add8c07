"""What detectors found in a suspect, and what that says: a verdict and its sentence."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics import Rate
from benchmark.suspect.population import Comparison

#: A class is suspected if its trigger is smaller than this share of the median class's.
TINY = 0.4
#: One that a detector flags is not suspected if its trigger is larger than this share.
USUAL = 2 / 3
#: A trigger of more of the image says nothing: as large a change would fool any model.
MOST = 0.5


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one detector found.

    Attributes:
        score: higher is more suspicious; None where the detector failed.
        suspect_class: the class that it holds for the target.
        class_scores: by class.
        flagged: its own yes or no, None where it has none.
        readings: other numbers that it gives, by name.
        success: share of the trusted images of other classes that the reversed trigger puts
            into the class.
        size: L1 norm of that trigger's mask, as a share of the pixels; None without a mask.
        relative: that trigger's norm as a share of the median of all classes' triggers; None for
            a detector that scores by something else than its triggers' norms.
        comparison: with clean models of the same kind, None where none are known.
        pictures: uint8 (2, n, C, H, W), images without and with that trigger.
        error: why it failed.
    """

    detector: str
    seconds: float
    score: float | None = None
    suspect_class: str = ""
    class_scores: dict[str, float] = dataclasses.field(default_factory=dict)
    flagged: bool | None = None
    readings: dict[str, float] = dataclasses.field(default_factory=dict)
    success: float | None = None
    size: float | None = None
    relative: float | None = None
    comparison: Comparison | None = None
    pictures: NDArray[np.uint8] | None = None
    error: str = ""

    @property
    def suspicious(self) -> bool | None:
        """Whether it counts as a backdoor; its own verdict where it does not score by norms.

        Ten equal classes lie by chance so far apart that an anomaly index calls one of three
        clean models backdoored, and the norms of a short scan so far that it calls none so. How
        small the trigger is beside the usual one tells them apart, see docs/measured.md.
        """
        if self.flagged is None or self.too_large:
            return None
        if self.relative is None:
            return self.flagged
        return self.relative < TINY or (self.flagged and self.relative < USUAL)

    @property
    def too_large(self) -> bool:
        """Whether its trigger covers most of an image, so that its own verdict says nothing."""
        return self.flagged is not None and self.size is not None and self.size > MOST

    @property
    def sentence(self) -> str:
        who = self.detector.partition(":")[0]
        if self.score is None:
            return f"{who} failed: {self.error}."
        verdicts = {
            True: f"says there is a backdoor for class {self.suspect_class}",
            False: "finds nothing",
            None: f"gives a score, highest for class {self.suspect_class}, and no verdict",
        }
        verdict = verdicts[self.suspicious]
        if self.too_large:
            verdict = "gives no verdict, since its trigger covers most of an image"
        elif self.suspicious and not self.flagged:
            verdict = (
                f"does not flag the model itself, but its trigger for class {self.suspect_class} "
                "is suspiciously small"
            )
        said = f"{who} {verdict} (score {self.score:.4g})"
        if self.success is not None:
            changes = "" if self.size is None else f"changes {self.size:.1%} of an image and "
            said += (
                f"; the trigger it reversed {changes}puts {self.success:.0%} of the others into "
                f"{self.suspect_class}"
            )
            if self.relative is not None and self.flagged is not None:
                said += f", at {self.relative:.0%} of the median size for a class"
        if self.comparison is None:
            return (
                f"{said}. No clean models of this kind are known to compare the score with; "
                "`--population` names a board that has some."
            )
        return f"{said}. {self.comparison.sentence}"


@dataclasses.dataclass(frozen=True)
class Scan:
    """What all detectors found in a model.

    Attributes:
        images: how many were trusted.
        accuracy: of the model on them.
        notes: what was noticed or assumed on the way.
    """

    title: str
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    images: int
    accuracy: Rate
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def found(self) -> bool | None:
        """Whether a detector says so; None where none does and one failed, or none can."""
        verdicts = [finding.suspicious for finding in self.findings]
        if True in verdicts:
            return True
        unsure = any(finding.score is None or finding.too_large for finding in self.findings)
        return False if False in verdicts and not unsure else None

    @property
    def answer(self) -> str:
        classes = sorted({finding.suspect_class for finding in self.findings if finding.suspicious})
        if self.found:
            return f"Suspicious: there may be a backdoor for class {' or '.join(classes)}."
        if self.found is None:
            return "Undecided: no detector gave a verdict, or one failed to."
        return "Nothing found; that does not prove that there is nothing."

    def __str__(self) -> str:
        return "\n".join([self.answer, *(finding.sentence for finding in self.findings)])

    def written(self) -> dict[str, Any]:
        """All of it as JSON takes it, but for the pictures."""
        written = dataclasses.asdict(self)
        written["accuracy"] = {"hits": self.accuracy.hits, "total": self.accuracy.total}
        for finding, own in zip(written["findings"], self.findings, strict=True):
            del finding["pictures"]
            finding["suspicious"] = own.suspicious
        return {"found": self.found, "answer": self.answer, **written}
