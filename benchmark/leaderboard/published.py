"""Numbers of the papers beside those of a board."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from benchmark.games.columns import ATTACK, TRUSTED, Column, Unit
from benchmark.games.detectability.shown import DETECTORS, scored
from benchmark.games.frames import Frame, Sources
from benchmark.games.means import settings
from benchmark.games.robustness.searches import Chosen, chosen
from benchmark.leaderboard.deviations import INSIDE, NOT_MEASURED, OPEN, OUTSIDE, explained
from benchmark.papers import PublishedNumber, published
from benchmark.protocol import Protocol
from benchmark.records.record import PluginRef
from benchmark.specs import parse, split_at

#: For each quantity the table that has it and its column there. What remains is the paper's
#: reading, as the papers publish no other.
_MEASURED = {
    "cda": ("victims", "cda"),
    "asr": ("victims", "asr"),
    "auc": (DETECTORS, "auc"),
    "accuracy": (DETECTORS, "native_accuracy"),
    "ap": (DETECTORS, "average_precision"),
    "asr_left": ("repairs", "asr_paper"),
}
_DEPLOYABLE = ("asr_deployable", "asr_deployable_low", "asr_deployable_high")


class _Found(NamedTuple):
    """A row of a board's table, with the plugins behind its names."""

    quantity: str
    attack: PluginRef
    defense: PluginRef | None
    row: dict[str, Any]

    @property
    def key(self) -> tuple[Any, ...]:
        defense = self.defense.name if self.defense else ""
        return self.row["recipe"], self.quantity, self.attack.name, self.row["m"], defense

    def at(self, share: str) -> bool:
        return not share or float(share) == self.row["trusted_share"]

    def has(self, wanted: Mapping[str, str]) -> bool:
        """Whether the attack has these settings."""
        there = settings(self.attack)
        return all(_same(there.get(name, ""), value) for name, value in wanted.items())


def comparison(sources: Sources) -> pd.DataFrame:
    """Every published number for a protocol's data set, and what was measured.

    Compared is an attack with the protocol's or its default settings, at the paper's m and with
    as many exposures, and a single defense at the paper's trusted share, whatever its settings. If
    several settings match, the one is taken that differs from the protocol's settings (tuned ones
    first) in the fewest parameters, then the one with the shortest label. Nothing is chosen by its
    result.

    Returns:
        One row per recipe and published number, none where the board has nothing to compare
        or the protocol is unknown; see `COLUMNS`.

    Raises:
        StoreError: explanations that cannot be shown.
    """
    return explained(_comparison(sources), sources.folders)


def _comparison(sources: Sources) -> pd.DataFrame:
    protocol = sources.protocol
    if protocol is None:
        return pd.DataFrame()
    lines = [line for line in published() if line.dataset == protocol.splits.dataset]
    own = _own_settings(protocol)
    searched = chosen(sources.searches)
    found: defaultdict[tuple[Any, ...], list[_Found]] = defaultdict(list)
    for one in _measurements(sources):
        if _as_prescribed(one.attack, own.get(one.attack.name, ())):
            found[one.key].append(one)

    def measured(recipe: str, line: PublishedNumber) -> _Found | None:
        attack, wanted = parse(line.attack)
        amount = line.amount(protocol.splits.train)
        key = recipe, line.quantity, attack, amount, line.defense
        epochs = protocol.recipes[recipe].epochs
        fitting = [
            one
            for one in found.get(key, ())
            if one.at(line.share) and one.has(wanted) and line.as_often(one.row["boost"], epochs)
        ]
        return min(fitting, key=lambda one: _distance(one, own, searched), default=None)

    compared = [
        (recipe, line, measured(recipe, line))
        for recipe in sorted({key[0] for key in found} & protocol.recipes.keys())
        for line in lines
    ]
    played = {recipe for recipe, _, one in compared if one}
    train = protocol.splits.train
    frame = pd.DataFrame([_compared(*one, train) for one in compared if one[0] in played])
    return frame if frame.empty else frame.astype({"models": "Int64"})


def _own_settings(protocol: Protocol) -> dict[str, list[dict[str, str]]]:
    """By plugin the settings that a protocol plays it with, in its order."""
    robustness, detectability = protocol.robustness, protocol.detectability
    specs = [entry.attack for entry in robustness.attacks]
    specs += [stage for defense in robustness.defenses for stage in split_at("+", defense)]
    if detectability is not None:
        specs += [population.attack for population in detectability.attacks]
        specs += detectability.detectors
    found: dict[str, list[dict[str, str]]] = {}
    for name, values in map(parse, specs):
        found.setdefault(name, []).append(values)
    return found


def _measurements(sources: Sources) -> Iterator[_Found]:
    """What the frames hold; `defense` is None where there is none, or several."""
    name = sources.name
    attacks = {name(one.attack): one.attack for one in sources.records}
    stages = {
        (name(stage), one.trusted_share): stage
        for one in sources.records
        for stage in one.defense.stages
    }
    for quantity, (table, column) in _MEASURED.items():
        frame = sources.frames[table]
        for row in (scored(frame) if table == DETECTORS else frame).to_dict("records"):
            by = row.get("defense") or row.get("detector")
            stage = stages.get((by, row["trusted_share"])) if by else None
            # A pipeline is called by no single stage, and no number was published of one.
            if pd.notna(row[column]):
                value = {"measured" + end: row[column + end] for end in ("", "_low", "_high")}
                yield _Found(quantity, attacks[row["attack"]], stage, row | value)


def _as_prescribed(attack: PluginRef, own: Iterable[Mapping[str, str]]) -> bool:
    """Whether all settings that a label changes are changed like this by the protocol."""
    changed = parse(attack.label)[1]
    return not changed or any(
        changed.keys() <= values.keys()
        and all(_same(value, values[key]) for key, value in changed.items())
        for values in own
    )


def _distance(
    found: _Found,
    own: Mapping[str, Sequence[Mapping[str, str]]],
    searched: Chosen,
) -> tuple[Any, ...]:
    """How far a defense, and then the attack, is from what the protocol plays."""
    order: list[Any] = []
    share = found.row.get("trusted_share", 0.0)
    for plugin in filter(None, (found.defense, found.attack)):
        first: Mapping[str, Any] = next(iter(own.get(plugin.name, ())), {})
        wanted = {**first, **searched.get((plugin.name, share), {})}
        there = settings(plugin)
        wrong = sum(not _same(there.get(key, ""), value) for key, value in wanted.items())
        order += [wrong, len(plugin.label), plugin.label]
    return *order, share


def _same(one: object, other: object) -> bool:
    try:
        return float(str(one)) == float(str(other))
    except ValueError:
        return str(one).lower() == str(other).lower()


def _compared(
    recipe: str, line: PublishedNumber, found: _Found | None, train: int
) -> dict[str, Any]:
    row: Mapping[str, Any] = found.row if found else {}
    nothing = float("nan")
    value, measured = float(line.value), row.get("measured", nothing)
    low, high = row.get("measured_low", nothing), row.get("measured_high", nothing)
    verdict = INSIDE if line.within(low, high) else OUTSIDE
    models = row.get("models", row.get("seeds"))
    return {
        "paper": line.paper,
        "table": line.table,
        "attack": line.attack,
        "m": line.amount(train),
        "boost": row.get("boost", line.boost),
        "recipe": recipe,
        "quantity": line.quantity,
        "defense": line.defense,
        "trusted_share": float(line.share) if line.share else nothing,
        "published": value,
        "measured": measured,
        "measured_low": low,
        "measured_high": high,
        "models": models,
        "difference": measured - value,
        "verdict": verdict if found else NOT_MEASURED,
        "asr_before": row.get("asr_before", nothing),
        **{column: row.get(column, nothing) for column in _DEPLOYABLE},
        "attack_played": found.attack.label if found else "",
        "defense_played": found.defense.label if found and found.defense else "",
        "network": line.architecture,
        "note": line.note,
    }


def summary(frame: pd.DataFrame) -> str:
    """How many of the published numbers hold up, for each recipe, and what is known of them."""
    said = []
    for recipe, own in frame.groupby("recipe"):
        counts = own.verdict.value_counts()
        said.append(
            f"Recipe {recipe}: {len(own) - counts.get(NOT_MEASURED, 0)} of {len(own)} published "
            f"numbers measured, {counts.get(INSIDE, 0)} inside, {counts.get(OUTSIDE, 0)} outside, "
            f"of which {(own.explanation == OPEN).sum()} open."
        )
    return " ".join(said)


TEXT = """\
What papers printed for this data set: single runs or means without intervals, of networks of their
own, on all training images, with triggers and seeds of their own. An attack is compared where the
training shows a poisoned image as often as the paper's did, boost times epochs. A published number
is inside if, as it is rounded, it lies in the 95 % interval of the mean that was measured here.
That says only that both may be true, as few models make a wide interval; and a single run may well
lie outside where nothing is wrong. So what is outside is a difference to explain, and no
refutation: it has its explanation, or is open. Numbers are shares from 0 to 1."""


def _share(key: str, title: str, doc: str, **options: Any) -> Column:
    return Column(key, title, Unit.AREA, doc, digits=3, **options)


COLUMNS = (
    *ATTACK,
    Column("quantity", "number", Unit.TEXT, "cda or asr before any defense; asr_left in the "
           "paper's reading; auc, ap (average precision) or accuracy of a detector", brief=True,
           menu=True),
    Column("defense", "defense", Unit.TEXT, "the defense or detector with its trusted share r",
           brief=True, menu=True, names="defender", share="trusted_share"),
    TRUSTED,
    _share("published", "published", "as a paper prints it", brief=True),
    _share("measured", "measured", "mean of this board", interval=True, brief=True),
    Column("verdict", "verdict", Unit.TEXT, "whether the published number lies in the interval",
           brief=True, menu=True),
    Column("explanation", "explanation", Unit.TEXT, "what people wrote on a number that is outside",
           brief=True),
    _share("difference", "difference", "measured less published"),
    Column("models", "models", Unit.COUNT, "models or seeds that were measured"),
    _share("asr_before", "ASR before", "attack success rate without the defense"),
    _share("asr_deployable", "deployable", "ASR left in the deployable reading", interval=True),
    Column("attack_played", "attack as played", Unit.TEXT, "its whole label"),
    Column("defense_played", "defense as played", Unit.TEXT, "its whole label"),
    Column("note", "notes", Unit.TEXT, "what is known to contradict the published number"),
    Column("network", "network", Unit.TEXT, "the paper's"),
    Column("paper", "paper", Unit.TEXT, "where it was published"),
    Column("table", "table", Unit.TEXT, "its table there"),
)  # fmt: skip


def _outside_first(frame: pd.DataFrame) -> pd.DataFrame:
    order = [OUTSIDE, INSIDE, NOT_MEASURED].index
    return frame.sort_values("verdict", key=lambda verdicts: verdicts.map(order), kind="stable")


COMPARISON = Frame(
    "comparison", "Beside what was published", TEXT, comparison, COLUMNS, summary=summary,
    order=_outside_first,
)  # fmt: skip
