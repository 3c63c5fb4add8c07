"""Whether a record is what its name, key and protocol say it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark import protocol as protocols
from benchmark.games.all import GAMES, UNDEFENDED
from benchmark.games.base import Wrong
from benchmark.games.settings import LARGEST
from benchmark.hooks import STAGES
from benchmark.protocol import Protocol
from benchmark.records.cell import CLEAN, Cell
from benchmark.records.record import NONE, VERSIONS, PluginRef, Record
from benchmark.records.strict import Refused
from benchmark.specs import RegistryError, joined, parse, written

#: Seconds are kept in thousandths.
ROUNDED = 1e-3


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
    stages = {stage.stage for stage in record.defense.stages}
    if not stages <= set(GAMES[record.game].stages) or not (stages or record.game == UNDEFENDED):
        yield "game", f"is {record.game}, the defense plays another"
    if record.evidence is not None and record.evidence.file != f"{cell.name}.npz":
        yield "evidence.file", f"must be {cell.name}.npz"
    if record.picture is not None and record.picture.file != f"{cell.name}.png":
        yield "picture.file", f"must be {cell.name}.png"
    yield from _settings(record, cell, protocol)
    yield from _costs(record)
    yield from _status(record)


def _plugins(record: Record) -> Iterator[Wrong]:
    attack, defense = record.attack, record.defense
    if attack.clean and attack != CLEAN:
        yield "attack.threat", f"is none, {attack.name!r} is no clean model"
    if not attack.clean:
        yield from _label("attack", attack)
    for number, stage in enumerate(defense.stages):
        yield from _label(f"defense.stages.{number}", stage)
    if defense.name != ("+".join(stage.name for stage in defense.stages) or NONE):
        yield "defense.name", f"is {defense.name!r}, its stages are others"
    stages = [stage.stage for stage in defense.stages]
    if stages != sorted(set(stages), key=STAGES.index):
        yield "defense.stages", f"{' then '.join(stages)} is no pipeline"


def _label(place: str, ref: PluginRef) -> Iterator[Wrong]:
    """A label says the same as name and parameters; boards show the label."""
    if not 1 <= ref.version <= LARGEST:
        yield f"{place}.version", f"is {ref.version}"
    if (nested := _no_plugin(ref.params)) is not None:
        yield f"{place}.params.{nested}", "is neither a value nor a plugin with its parameters"
        return
    try:
        name, settings = parse(ref.label)
    except RegistryError as error:
        yield f"{place}.label", str(error)
        return
    if name != ref.name:
        yield f"{place}.label", f"is of {name!r}, the plugin is {ref.name!r}"
    if ref.label != joined(name, settings):
        yield f"{place}.label", f"{ref.label!r} is not written as poisongames writes it"
    for key, text in settings.items():
        value = _parameter(ref.params, key.split("."))
        if text != written(value):
            yield f"{place}.label", f"says {key}={text}, the parameter is {value}"


def _no_plugin(params: Mapping[str, Any]) -> str | None:
    """The name of a parameter that holds what no parameter holds."""
    for key, value in params.items():
        if isinstance(value, list) and any(isinstance(part, list | dict) for part in value):
            return key
        if not isinstance(value, dict):
            continue
        if value.keys() != {"name", "version", "params"} or not isinstance(value["params"], dict):
            return key
        if not isinstance(value["name"], str) or not isinstance(value["version"], int):
            return key
        if (inner := _no_plugin(value["params"])) is not None:
            return f"{key}.params.{inner}"
    return None


def _parameter(params: Mapping[str, Any], path: list[str]) -> object:
    """The value of a parameter, or the name of the plugin that it holds."""
    value = params.get(path[0], "missing")
    if isinstance(value, dict):
        return _parameter(value["params"], path[1:]) if path[1:] else value["name"]
    return "missing" if path[1:] else value


def _settings(record: Record, cell: Cell, protocol: Protocol) -> Iterator[Wrong]:
    attack, share, game = record.attack, record.trusted_share, GAMES[cell.game]
    if game.settings(protocol) is None:
        raise Refused("game", f"{protocol.name} has no {cell.game} game")
    if record.protocol.recipe not in protocol.recipes:
        yield "protocol.recipe", f"{record.protocol.recipe!r} is none of {protocol.name}"
    elif (protocol.recipes[record.protocol.recipe].init is None) != (record.protocol.init is None):
        yield "protocol.init", "is the digest of a start where the recipe has one, and there only"
    if attack.m > protocol.splits.train:
        yield "attack.m", f"is {attack.m}, there are {protocol.splits.train} training images"
    if attack.boost > LARGEST:
        yield "attack.boost", f"is {attack.boost}"
    most = max(one.repetitions(protocol) for one in GAMES.values() if one.settings(protocol))
    if not 0 <= record.seed < most:
        yield "seed", f"is {record.seed}, {protocol.name} has seeds from 0 to {most - 1}"
    yield from game.rules(cell)
    if share not in (allowed := game.shares(record.defense, protocol)):
        yield "trusted_share", f"is {share}, allowed are {', '.join(map(str, allowed))}"


def _costs(record: Record) -> Iterator[Wrong]:
    """Versions are named, and no part of a cell takes longer than the cell."""
    if record.env.keys() != set(VERSIONS):
        found = ", ".join(record.env) or "nothing"
        yield "env", f"names {found[:100]}; a record names {', '.join(VERSIONS)}"
    whole, defense = record.cost.seconds, record.cost.defense_seconds
    if defense is not None and defense > whole + ROUNDED:
        yield "cost.defense_seconds", f"is {defense}, the whole cell took {whole}"
    if record.cost.victim_seconds is None and record.status != "failed":
        yield "cost.victim_seconds", "is missing; a cell that was measured has a victim"


def _status(record: Record) -> Iterator[Wrong]:
    """What a record must and must not hold, by how the cell went."""
    own = type(record).model_fields.keys() - Record.model_fields.keys()
    parts = [getattr(record, name) for name in (*own, "evidence", "picture")]
    if record.status == "failed":
        if record.error is None or record.reason is not None or any(parts):
            yield "status", "a failed cell has an error and no numbers"
        return
    if record.error is not None or (record.status == "invalid") != (record.reason is not None):
        yield "status", f"{record.status} does not fit the error and the reason that are given"
    if record.evidence is None or record.victim_sha256 is None:
        yield "evidence", "is missing; a cell that was measured has numbers, evidence and a model"
