"""The result of one cell: a small file that anyone can read and check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from benchmark.games.settings import LARGEST_SINGLE, Part, absent_by_default
from benchmark.hooks import Stage
from benchmark.metrics import source_class
from benchmark.protocol import Protocol

if TYPE_CHECKING:
    from benchmark.records.cell import Victim

NONE = "none"

#: Versions that a record names, see `benchmark.runs.report.environment`.
VERSIONS = ("poisongames", "python", "torch", "torchvision", "numpy", "system")

#: Characters that the message of an error may have.
MESSAGE_LIMIT = 10_000

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: Seconds, or megabytes.
Amount = Annotated[float, Field(ge=0, le=1e9)]
Single = Annotated[float, Field(ge=-LARGEST_SINGLE, le=LARGEST_SINGLE)]


class ProtocolRef(Part):
    """A protocol as it was played.

    Attributes:
        init: digest of the weights that the recipe's victims start from, where there are any.
    """

    name: str
    sha256: Sha256
    recipe: str
    init: Sha256 | None = None

    @classmethod
    def of(cls, protocol: Protocol, victim: Victim) -> ProtocolRef:
        return cls(
            name=protocol.name, sha256=protocol.sha256, recipe=victim.recipe, init=victim.init
        )

    _as_before = absent_by_default("init")


class PluginRef(Part):
    """A plugin as it was used; `label` builds it again from the command line."""

    label: str
    name: str
    version: int
    params: dict[str, Any]


class AttackRef(PluginRef):
    threat: Literal["poison-label", "clean-label", "code", "none"]
    m: Annotated[int, Field(ge=0)]
    boost: Annotated[int, Field(ge=1)]

    @property
    def clean(self) -> bool:
        """Whether it is no attack: models of it have no backdoor."""
        return self.threat == NONE

    def source_class(self, target: int, classes: int) -> int | None:
        """The only class whose images the attack is for, None for all but the target.

        It is that of the attack's parameter `source`, or of the attack that it wraps.
        """
        params = self.params
        while isinstance(base := params.get("base"), dict) and isinstance(base.get("params"), dict):
            params = base["params"]
        offset = params.get("source")
        return source_class(offset if isinstance(offset, int) else None, target, classes)

    def __str__(self) -> str:
        boost = "" if self.boost == 1 else f", b={self.boost}"
        return f"{self.label} (m={self.m}{boost})"


class StageRef(PluginRef):
    stage: Stage


class DefenseRef(Part):
    """One defense or a pipeline of up to three; none is the identity."""

    name: str
    stages: tuple[StageRef, ...]

    @property
    def sanitizes(self) -> bool:
        """Whether the victim learnt what a sanitizer left."""
        return any(stage.stage == "sanitize" for stage in self.stages)


class Cost(Part):
    """Wall-clock seconds, peak memory, and where it ran.

    `seconds` are those of the whole cell, `defense_seconds` what the defense took of them
    without the measuring, `victim_seconds` what the victim's training took.
    """

    seconds: Amount
    defense_seconds: Amount | None
    victim_seconds: Amount | None
    peak_memory_mb: Amount
    device: str


class Evidence(Part):
    """A file beside the record: what every number can be recomputed from, or a picture."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9._-]+\.(npz|png)$")]
    sha256: Sha256


class Error(Part):
    kind: str
    message: str
    where: str


#: Why the sanity gate refuses numbers.
Reason = Literal["near-chance", "victim-not-reproduced", "weights-not-finite"]
REASONS: dict[str, str] = {
    "near-chance": "the victim's clean accuracy is near chance",
    "victim-not-reproduced": "the saved victim does not give the answers it gave before",
    "weights-not-finite": "the measured model has weights that are not finite",
}


class Record(Part):
    """What records of all games say. `status` tells whether their numbers count:

    - ok: measured.
    - invalid: measured, but the sanity gate found one of `REASONS` to distrust it.
    - failed: a plugin raised `error`; there are no metrics.

    Attributes:
        target: the class that this repetition's attacks are for.
        data_sha256: digest of all pixels and labels of the data set.
        picture: of games that leave one.
    """

    schema_version: Literal[2] = Field(2, alias="schema")
    key: Sha256
    protocol: ProtocolRef
    game: str
    attack: AttackRef
    defense: DefenseRef
    trusted_share: float | None
    seed: Annotated[int, Field(ge=0)]
    target: Annotated[int, Field(ge=0)]
    data_sha256: Sha256
    status: Literal["ok", "invalid", "failed"]
    reason: Reason | None = None
    error: Error | None = None
    victim_sha256: Sha256 | None = None
    evidence: Evidence | None = None
    picture: Evidence | None = None
    cost: Cost
    env: dict[str, str]

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=1) + "\n"
