"""An inversion record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from benchmark.games.settings import Part
from benchmark.metrics import Rate
from benchmark.records.record import Record, Sha256


class Tried(Part):
    """One run of one configuration, from every start image.

    Attributes:
        restart: 0 where the method began as it prescribes.
        selection, evaluation: for each start image, how many images of other classes its
            trigger puts into the target class.
    """

    params: dict[str, float]
    restart: Annotated[int, Field(ge=0)]
    selection: tuple[int, ...]
    evaluation: tuple[int, ...]


class Inverted(Part):
    """What came of one start image.

    Attributes:
        label: its class.
        chosen: number of the run that worked best on the selection images, among those
            without restarts; what follows is about its trigger.
        overlap: intersection over union with the pixels that the true trigger changes here;
            None where it changes none, or more than half of the evaluation images.
        distance: L2 distance of the inverted to the triggered start image, as a share of the
            true trigger's scale.
        norm: L2 norm of what the trigger changes on the start image, likewise.
        reasr: its success on the true trigger's pixels of each image only; None where those
            are more than half of all.
        on_clean_model: its success on the clean model of the same repetition.
    """

    label: Annotated[int, Field(ge=0)]
    chosen: Annotated[int, Field(ge=0)]
    overlap: Annotated[float, Field(ge=0, le=1)] | None
    distance: Annotated[float, Field(ge=0)]
    norm: Annotated[float, Field(ge=0)]
    reasr: Rate | None
    on_clean_model: Rate


class Swept(Part):
    """What triggers reversed for every class do at one radius (Fig. 8 of Sun and Kolter).

    Attributes:
        radius: L2 norm in [0, 1] pixels; None for an inverter that has none.
        classes: for each of the first start images and each class, the success of that class's
            trigger on images of other classes.
    """

    radius: Annotated[float, Field(gt=0)] | None
    classes: tuple[tuple[Rate, ...], ...]


class Smoothed(Part):
    """The smoothed classifier at one noise level: accuracy, ASR of the true trigger, and the
    share of target answers on untriggered images of other classes."""

    sigma: float
    clean: Rate
    asr: Rate
    untriggered: Rate


class InversionRecord(Record):
    """One inverter on one backdoored model.

    Attributes:
        scale: mean L2 norm of what the true trigger changes, which no inverter is told.
        selection, evaluation: images of other classes that runs were selected and reported on.
        uses: hashes of what else went into the result, such as a denoiser's weights.
    """

    game: Literal["inversion"] = "inversion"
    scale: float | None = None
    selection: Annotated[int, Field(ge=0)] = 0
    evaluation: Annotated[int, Field(ge=0)] = 0
    tried: tuple[Tried, ...] = ()
    starts: tuple[Inverted, ...] = ()
    swept: tuple[Swept, ...] = ()
    smoothed: tuple[Smoothed, ...] = ()
    uses: dict[str, Sha256] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _counts_agree(self) -> InversionRecord:
        first = [number for number, run in enumerate(self.tried) if not run.restart]
        for run in self.tried:
            for part in ("selection", "evaluation"):
                counts, total = getattr(run, part), getattr(self, part)
                if len(counts) != len(self.starts):
                    raise ValueError(f"{len(counts)} {part} counts for {len(self.starts)} starts")
                if wrong := [count for count in counts if not 0 <= count <= total]:
                    raise ValueError(f"{wrong[0]} of {total} {part} images")
        for row, start in enumerate(self.starts):
            # Of equals the first; those with restarts do not count.
            best = max(first, key=lambda number: self.tried[number].selection[row], default=-1)
            if start.chosen != best:
                raise ValueError(f"start {row} chose run {start.chosen}, run {best} worked best")
            if start.label == self.target:
                raise ValueError(f"start {row} is of class {start.label}, which is the target")
        rows = [rates for level in self.swept for rates in level.classes]
        if any(not 0 < len(level.classes) <= len(self.starts) for level in self.swept):
            raise ValueError(f"{len(self.starts)} starts, all classes from none or from more")
        if rows and not self.target < len(rows[0]) == max(map(len, rows)) == min(map(len, rows)):
            raise ValueError(f"{len(rows[0])} classes, not the same everywhere or no target")
        if self.status == "ok" and not (self.tried and self.starts and self.swept and self.scale):
            raise ValueError("a record that is ok needs runs, starts, all classes and a scale")
        return self
