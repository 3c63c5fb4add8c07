"""Whether a record is what its name, key and protocol say it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark import protocol as protocols
from benchmark.protocol import Protocol
from benchmark.runs.cells import CLEAN, Cell
from benchmark.runs.record import NONE, DefenseRef, PluginRef, Record, RobustnessRecord
from benchmark.specs import RegistryError, parse
from benchmark.verification.files import Refused

#: A field of a record, and what is wrong with it.
Wrong = tuple[str, str]

_STAGES = ("sanitize", "repair", "deploy", "detect", "invert")


def protocol_of(record: Record) -> Protocol:
    """The released protocol that a record was played by.

    Raises:
        Refused: there is none of that name and hash.
    """
    named, released = record.protocol, protocols.released()
    if named.name not in released:
        there = ", ".join(sorted(released))
        raise Refused("protocol.name", f"{named.name!r} is not released; there are {there}")
    if named.sha256 != released[named.name]:
        raise Refused(
            "protocol.sha256",
            f"is {named.sha256[:12]}…, {named.name} was released as "
            f"{released[named.name][:12]}…; play the released protocol",
        )
    return protocols.load(named.name)


def check(record: Record, file: str, protocol: Protocol) -> Iterator[Wrong]:
    """Key, file names, plugins, settings and status."""
    cell = Cell.of(record)
    yield from _plugins(record)
    if cell.key != record.key:
        yield "key", f"is {record.key[:12]}…, what was played has {cell.key[:12]}…"
    elif file != f"{cell.name}.json":
        yield "file", f"must be named {cell.name}.json"
    if record.game != cell.game:
        yield "game", f"is {record.game}, the defense plays {cell.game}"
    if record.evidence is not None and record.evidence.file != f"{cell.name}.npz":
        yield "evidence.file", f"must be {cell.name}.npz"
    picture = getattr(record, "picture", None)
    if picture is not None and picture.file != f"{cell.name}.png":
        yield "picture.file", f"must be {cell.name}.png"
    yield from _settings(record, cell, protocol)
    yield from _status(record)


def _plugins(record: Record) -> Iterator[Wrong]:
    attack, defense = record.attack, record.defense
    if attack.threat == NONE and attack != CLEAN:
        yield "attack.threat", f"is none, {attack.name!r} is no clean model"
    if attack.threat != NONE:
        yield from _label("attack", attack)
    for number, stage in enumerate(defense.stages):
        yield from _label(f"defense.stages.{number}", stage)
    if defense.name != ("+".join(stage.name for stage in defense.stages) or NONE):
        yield "defense.name", f"is {defense.name!r}, its stages are others"
    stages = [stage.stage for stage in defense.stages]
    alone = len(stages) == 1 or not {"detect", "invert"} & set(stages)
    if stages != sorted(set(stages), key=_STAGES.index) or not alone:
        yield "defense.stages", f"{' then '.join(stages)} is no pipeline"


def _label(place: str, ref: PluginRef) -> Iterator[Wrong]:
    """A label says the same as name and parameters; boards show the label."""
    try:
        name, settings = parse(ref.label)
    except RegistryError as error:
        yield f"{place}.label", str(error)
        return
    if name != ref.name:
        yield f"{place}.label", f"is of {name!r}, the plugin is {ref.name!r}"
    for key, text in settings.items():
        value = _parameter(ref.params, key.split("."))
        if text != str(value):
            yield f"{place}.label", f"says {key}={text}, the parameter is {value}"


def _parameter(params: Mapping[str, Any], path: list[str]) -> Any:
    """The value of a parameter, or the name of the plugin that it holds."""
    value = params.get(path[0])
    if isinstance(value, dict):
        inner = value.get("params")
        return _parameter(inner, path[1:]) if path[1:] and inner else value.get("name")
    return None if path[1:] else value


def _settings(record: Record, cell: Cell, protocol: Protocol) -> Iterator[Wrong]:
    attack, share, robust = record.attack, record.trusted_share, protocol.robustness
    games = {
        "robustness": robust,
        "detectability": protocol.detectability,
        "inversion": protocol.inversion,
    }
    if games[cell.game] is None:
        raise Refused("game", f"{protocol.name} has no {cell.game} game")
    if record.protocol.recipe not in protocol.recipes:
        yield "protocol.recipe", f"{record.protocol.recipe!r} is none of {protocol.name}"
    if attack.m > protocol.splits.train:
        yield "attack.m", f"is {attack.m}, there are {protocol.splits.train} training images"
    if attack.threat == "code" and cell.stage("sanitize"):
        yield "defense.stages", "who owns the training also decides what is trained on"
    if cell.game == "inversion" and attack.threat == NONE:
        yield "attack.threat", "is none, there is no trigger to reverse"
    seeds = max(
        robust.seeds,
        protocol.detectability.models if protocol.detectability else 0,
        protocol.inversion.models if protocol.inversion else 0,
    )
    if record.seed >= seeds:
        yield "seed", f"is {record.seed}, {protocol.name} has 0 to {seeds - 1}"
    allowed = _shares(record.defense, cell, protocol)
    if share not in allowed:
        yield "trusted_share", f"is {share}, allowed are {', '.join(map(str, allowed))}"
    target = getattr(record, "target", robust.target)
    if target != robust.target:
        yield "target", f"is {target}, the protocol's is {robust.target}"


def _shares(defense: DefenseRef, cell: Cell, protocol: Protocol) -> tuple[float | None, ...]:
    if cell.game == "detectability" and protocol.detectability is not None:
        return (protocol.detectability.share,)
    trusting = {stage.stage for stage in defense.stages} - {"sanitize", "invert"}
    return protocol.robustness.shares if trusting else (None,)


def _status(record: Record) -> Iterator[Wrong]:
    """What a record must and must not hold, by how the cell went."""
    if isinstance(record, RobustnessRecord):
        numbers = record.metrics is not None and bool(record.curve)
    else:
        numbers = bool(getattr(record, "scans", ()) or getattr(record, "tried", ()))
    if record.status == "failed":
        if record.error is None or numbers or record.evidence is not None:
            yield "status", "a failed cell has an error and no numbers"
        return
    if record.error is not None or (record.status == "invalid") != (record.reason is not None):
        yield "status", f"{record.status} does not fit the error and the reason that are given"
    if not numbers or record.evidence is None or record.victim_sha256 is None:
        yield "evidence", "is missing; a cell that was measured has numbers, evidence and a model"
    for name in ("seconds", "peak_memory_mb"):
        if getattr(record.cost, name) < 0:
            yield f"cost.{name}", f"is {getattr(record.cost, name)}, it cannot be negative"
