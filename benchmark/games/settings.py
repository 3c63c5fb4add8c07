"""What settings of protocols are made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

#: Versions and boosting factors beyond this are no honest ones.
LARGEST = 10_000
#: What single precision can hold: networks compute with it, pages and plots show it.
LARGEST_SINGLE = 3.4e38
Whole = Annotated[int, Field(ge=0)]
Natural = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
#: A value of a grid: a number, or the name of a choice.
Setting = float | str


def absent_by_default(*names: str) -> Any:
    """A serializer that leaves out fields that came later, where they say nothing.

    So older files are written as they were, and hashes stay.
    """

    @model_serializer(mode="wrap")
    def dump(self: BaseModel, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in whole(self).items() if key not in names or value}

    return dump


class Part(BaseModel):
    """A part of a protocol, a record or an experiment: no unknown fields, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AttackEntry(Part):
    """An attack of the grid with its number of poisoned images m and their boosting b.

    Without m the protocol's `default_m` for the attack's threat model holds.
    """

    attack: str
    m: Whole | None = None
    boost: Annotated[int, Field(ge=1, le=LARGEST)] = 1
