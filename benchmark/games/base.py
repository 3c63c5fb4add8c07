"""What a game is: how it is planned, played, scored, and what its records must obey."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from benchmark.metrics import Rate
from benchmark.protocol import Protocol
from benchmark.records.cell import Cell
from benchmark.records.record import DefenseRef, Reason, Record

if TYPE_CHECKING:
    from benchmark.games.experiment import Experiment, Progress
    from benchmark.games.frames import Chapter
    from benchmark.runs.context import RunContext
    from benchmark.runs.planner import Planner

#: Arrays that a cell leaves behind, by name.
Arrays = Mapping[str, np.ndarray]
#: What a score needs and no array holds, such as the steps that were measured.
Extra = Mapping[str, Any]
#: A field of a record, and what is wrong with it.
Wrong = tuple[str, str]

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Played:
    """What playing a cell left behind.

    Attributes:
        seconds: what the defense took, without the measuring; None without one.
        fields: what else the record says, beside its numbers.
        reason: why the numbers are not to be trusted, if they are not.
        picture: a PNG.
    """

    evidence: Arrays
    extra: Extra
    seconds: float | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    reason: Reason | None = None
    picture: bytes | None = None


class Number(NamedTuple):
    """A headline number with its 95 % interval, whose bounds are NaN where it has none."""

    value: float
    low: float
    high: float


class Claim(NamedTuple):
    """A field of a record, the thing that it is about, and what is said of it."""

    field: str
    about: str
    said: str


class Game(ABC, Generic[R]):
    """One game; all that is particular to it is in its folder.

    Attributes:
        name: in records, and of its section in a protocol file.
        stages: of the defenses that play it.
        players: what these defenses are called together.
        record: its records.
        close: for numbers that older records hold in less precision than the evidence gives,
            how far they may be off, as a share.
    """

    name: ClassVar[str]
    stages: ClassVar[tuple[str, ...]]
    players: ClassVar[str]
    record: type[R]
    close: ClassVar[Mapping[str, float]] = {}

    def settings(self, protocol: Protocol) -> Any:
        """The game's section of a protocol; None where the protocol does not have the game."""
        return getattr(protocol, self.name)

    @abstractmethod
    def defenses(self, protocol: Protocol) -> tuple[str, ...]:
        """Specs of the defenses that a protocol plays, none where it has not this game."""

    @abstractmethod
    def repetitions(self, protocol: Protocol) -> int:
        """How many seeds a row of the game has."""

    @abstractmethod
    def shares(self, defense: DefenseRef, protocol: Protocol) -> tuple[float | None, ...]:
        """Trusted shares that a defense may have; None for no trusted images."""

    @abstractmethod
    def cells(
        self, planner: Planner, attacks: Sequence[str], defenses: Sequence[str]
    ) -> list[Cell]:
        """Cells to play; see `benchmark.runs.plan.plan`."""

    def check_enough(self, experiment: Experiment, cell: Cell) -> None:
        """Find out, before anything is trained, that a cell has too few images.

        Raises:
            ProtocolError: it has.
        """

    def turn(self, cell: Cell, protocol: Protocol) -> int:
        """Priority of a defended cell: those with 0 are played first, those with 2 last."""
        return 2

    @abstractmethod
    def play(self, context: RunContext, cell: Cell, progress: Progress) -> Played:
        """Play a cell whose victims are trained.

        Raises:
            Exception: whatever a plugin raises.
        """

    @abstractmethod
    def score(self, evidence: Arrays, extra: Extra, protocol: Protocol) -> dict[str, Any]:
        """The numbers of a record, by field: a pure function, and their only source."""

    @abstractmethod
    def extra(self, record: R) -> Extra:
        """What `score` was given beside the arrays when the record was made."""

    @abstractmethod
    def check(self, record: R, evidence: Arrays, protocol: Protocol) -> Iterator[Wrong]:
        """What in a record and its evidence is not as the game leaves it, numbers aside.

        Raises:
            Refused: evidence that the numbers cannot be made of.
        """

    def rules(self, cell: Cell) -> Iterator[Wrong]:
        """What in a cell the game does not allow."""
        yield from ()

    def claims(self, record: R, evidence: Arrays) -> Iterator[Claim]:
        """What a record says of things that it shares with others, which must say the same."""
        yield from ()

    def answered(self, record: R, evidence: Arrays) -> Mapping[str, np.ndarray]:
        """What the undefended victim says of the first test images, (N,), by what they are.

        Other records of the same model have nearly the same; another precision changes a few.
        """
        return {}

    @abstractmethod
    def fingerprint(self, record: R, evidence: Arrays) -> np.ndarray:
        """A 1-d array that differs between any two models or repairs, so that equal ones show
        copied evidence.

        Floats are measured, and differ; integers are mistakes, of which two models share some.
        """

    @abstractmethod
    def defended(self, record: R) -> float:
        """How well the defense did, higher is better; `submit` replays a row's best and worst."""

    def rates(self, record: R) -> Mapping[str, Rate]:
        """Counts that differ from one repetition to the next."""
        return {}

    @abstractmethod
    def chapter(self) -> Chapter:
        """Its tables on boards."""

    @abstractmethod
    def headline(self, record: R) -> dict[str, Number]:
        """The numbers that a replay must find again."""
