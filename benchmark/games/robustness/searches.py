"""What defenders found when they searched for their settings: one file per repair and share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from benchmark.games.robustness.curve import Point
from benchmark.games.settings import Part, Setting
from benchmark.metrics import Rate
from benchmark.records.cell import Tune
from benchmark.records.files import StoreError, read_plain, write_whole
from benchmark.records.record import ProtocolRef
from benchmark.texts import first_error

#: The chosen settings by name of the repair and trusted share.
Chosen = Mapping[tuple[str, float], Mapping[str, Setting]]


class Left(Part):
    """What is left of the own backdoor and of clean accuracy, at the checkpoint that is picked.

    Attributes:
        asr: of the own trigger on held-out trusted images.
        held_out: right answers to the same images without it.
        lost: how many of them the suspect answers rightly and this model wrongly.
        unseen: right answers to test images, which the search does not use.
    """

    asr: Rate
    held_out: Rate
    lost: Annotated[int, Field(ge=0)]
    unseen: Rate
    step: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, point: Point, unseen: Rate) -> Left:
        return cls(
            asr=point.asr,
            held_out=point.held_out,
            lost=point.lost,
            unseen=unseen,
            step=point.step,
        )


class Poisoning(Part):
    """One self-poisoned model: what the suspect answered before, and what it took."""

    suspect: Left
    poisoned: Left
    learning_rate: float


class Trial(Part):
    """What a repair with these settings left within budget, on every self-poisoned model."""

    params: dict[str, Setting]
    left: tuple[Left, ...]

    @property
    def asr(self) -> float:
        """Mean ASR of the own triggers."""
        return fmean(left.asr.value for left in self.left)

    @property
    def right(self) -> int:
        return sum(left.held_out.hits for left in self.left)


class Search(Part):
    """A whole grid and what it was tried on; see `benchmark.protocol.Tuning`.

    Attributes:
        suspect: the repetition whose clean model was poisoned; no game plays it.
        impossible: why nothing could be tried: a defender with few images may not be able to
            poison his own model within the budget. The protocol's own settings stand then.
    """

    protocol: ProtocolRef
    defense: str
    version: int
    trusted_share: float
    suspect: Annotated[int, Field(ge=1)]
    poisonings: tuple[Poisoning, ...]
    trials: tuple[Trial, ...]
    impossible: str | None = None

    @model_validator(mode="after")
    def _has_trials_or_a_reason(self) -> Search:
        if bool(self.trials) == (self.impossible is not None):
            raise ValueError("a search has either trials or a reason why there are none")
        return self

    @property
    def best(self) -> Trial:
        """The lowest ASR; of equals the most accurate, and then the first."""
        return min(self.trials, key=lambda trial: (trial.asr, -trial.right))

    def cost(self, trial: Trial) -> tuple[float, float]:
        """Accuracy that a trial costs against the suspect: on held-out and on unseen images."""
        pairs = [(own.suspect, left) for own, left in zip(self.poisonings, trial.left, strict=True)]
        held_out = fmean(a.held_out.value - b.held_out.value for a, b in pairs)
        return held_out, fmean(a.unseen.value - b.unseen.value for a, b in pairs)

    @property
    def instability(self) -> float:
        """Mean absolute difference of the ASR that is left, over all pairs of trials."""
        pairs = [abs(a.asr - b.asr) for a, b in combinations(self.trials, 2)]
        return fmean(pairs) if pairs else 0.0

    def save(self, path: Path) -> None:
        write_whole(path, (self.model_dump_json(indent=1) + "\n").encode())


def file_name(defense: str, share: float) -> str:
    return f"{defense}-r{share:g}.json"


def load(folder: Path) -> list[Search]:
    """All searches in a folder, in the order of their names; none where it does not exist.

    Raises:
        StoreError: a file is not a search.
    """
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Search:
    try:
        return Search.model_validate_json(read_plain(path))
    except ValidationError as error:
        raise StoreError("{}: {}: {}".format(path, *first_error(error))) from None


def result(task: Tune) -> Search | None:
    """What a task found when it was done, None if it was not.

    A search of the protocol, the recipe or the repair as they once were is none of this task.

    Raises:
        StoreError: the file is not a search.
    """
    if not task.path.is_file():
        return None
    found, suspect = _read(task.path), task.suspect
    same = (
        found.protocol.sha256 == suspect.protocol_sha256
        and (found.protocol.recipe, found.protocol.init) == (suspect.recipe, suspect.init)
        and (found.defense, found.version) == (task.repair.name, task.repair.version)
        and found.trusted_share == task.trusted_share
    )
    return found if same else None


def refuse_other_recipe(task: Tune) -> None:
    """Keep the search of another recipe, which has the same place.

    Raises:
        StoreError: there is one.
    """
    if not task.path.is_file():
        return
    there, asked = _read(task.path).protocol, task.suspect
    if there.sha256 == asked.protocol_sha256 and there.recipe != asked.recipe:
        raise StoreError(
            f"{task.path} was searched with recipe {there.recipe}; move it elsewhere to search "
            f"with {asked.recipe}"
        )


def chosen(searches: Iterable[Search]) -> dict[tuple[str, float], dict[str, Setting]]:
    """The winners of all searches that were possible."""
    return {
        (found.defense, found.trusted_share): found.best.params
        for found in searches
        if found.trials
    }


def copy_searches(searches: Iterable[Search], folder: Path, run: Path) -> None:
    """Put the searches of a folder that a run's settings come from beside its records."""
    for found in searches:
        name = file_name(found.defense, found.trusted_share)
        write_whole(run / "tuning" / name, (folder / name).read_bytes())
