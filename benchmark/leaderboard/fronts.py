"""Pareto fronts: how robust and how hidden attacks stay against the best defenders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from benchmark.games.columns import ATTACK, KEYS, TRUSTED, Column, Unit, attack_label, joined
from benchmark.games.detectability.shown import DETECTORS, scored
from benchmark.games.frames import Sources

#: Attackers who own the training can do more, so that they have a front of their own.
KINDS = ("data poisoning", "code poisoning")

ASR = ["asr_paper", "asr_paper_low", "asr_paper_high"]
DEPLOYABLE = ["asr_deployable", "asr_deployable_low", "asr_deployable_high"]
AUC = ["auc", "auc_low", "auc_high"]
_POINT = [
    *(*KEYS, "threat", "kind", "detector", "detector_share", *AUC, "models"),
    *("detectors_met", "detectors", "defense", "trusted_share", "asr_before", *ASR, *DEPLOYABLE),
    *("seeds", "defenses_met", "defenses"),
]
_COUNTS = ["models", "detectors_met", "detectors", "seeds", "defenses_met", "defenses"]

Key = tuple[Any, ...]
Row = dict[str, Any]


def attack_points(repairs: pd.DataFrame, detectability: pd.DataFrame) -> pd.DataFrame:
    """Every attack that worked, with the best response to it in either game.

    Pick your Poison, Fig. 7. The best of several responders is chosen on the very numbers that
    are shown: its estimate is biased in the defender's favour, the more so the more responders
    there are, and its interval is that of the chosen responder alone.

    Args:
        repairs: the frame of that name; the paper's reading counts, the deployable one is that
            of the same responder.
        detectability: the frame of that name; a detector's own score counts.

    Returns:
        One row per attack, m, boost and recipe; what a game that it was not played in would
        tell is NaN or None. `defenses_met` of the `defenses` (at a trusted share each) that any
        attack of its kind met and `detectors_met` of such `detectors` responded; the point is
        better than it is where fewer of them were played.
    """
    robust, detected = that_worked(repairs), that_worked(scored(detectability))
    rows: dict[Key, Row] = {}
    if not robust.empty:
        best = robust.sort_values(
            ["asr_paper", "cda_loss_paper", "defense", "trusted_share"], kind="stable"
        )
        wanted = ["threat", "defense", "trusted_share", "asr_before", *ASR, *DEPLOYABLE, "seeds"]
        _collect(rows, best, wanted, ("defense", "trusted_share"), "defenses")
    if not detected.empty:
        detected = detected.rename(columns={"trusted_share": "detector_share"})
        best = detected.sort_values(
            ["auc", "detector", "detector_share"], ascending=[False, True, True], kind="stable"
        )
        wanted = ["threat", "detector", "detector_share", *AUC, "models"]
        _collect(rows, best, wanted, ("detector", "detector_share"), "detectors")
    found = [rows[key] | {"kind": _kind(rows[key]["threat"])} for key in sorted(rows)]
    return pd.DataFrame(found, columns=_POINT).astype(dict.fromkeys(_COUNTS, "Int64"))


def _kind(threat: str) -> str:
    return KINDS[threat == "code"]


def that_worked(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of attacks that worked undefended."""
    return frame if frame.empty else frame[frame.worked]


def _collect(
    rows: dict[Key, Row], best: pd.DataFrame, wanted: list[str], who: tuple[str, str], count: str
) -> None:
    """Add the first row of each attack, and how many of all responders it met."""
    kinds = best.threat.map(_kind)
    # A sanitizer meets nobody who owns the training.
    everyone = {kind: len(own[list(who)].drop_duplicates()) for kind, own in best.groupby(kinds)}
    for key, group in best.groupby(KEYS):
        first = group.iloc[0]
        met = {f"{count}_met": len(group), count: everyone[_kind(first.threat)]}
        own = rows.setdefault(key, dict(zip(KEYS, key, strict=True)))
        own |= {name: first[name] for name in wanted} | met


def front_table(points: pd.DataFrame) -> pd.DataFrame:
    """Which points are on their front, and who dominates whom.

    Only those are compared that were played in both games against everyone. One point dominates
    another of the same front if its attack keeps at least as much ASR and is at most as
    detectable, and not both the same; "clearly" if the intervals of both are apart on both axes.
    Points that are the same do not dominate each other.

    Args:
        points: as `attack_points` returns it.

    Returns:
        `points` with `front`, which is None for who cannot be compared, and with labels of
        attacks, joined by "; ": `dominates`, `clearly_dominates`, `dominated_by`,
        `clearly_dominated_by`.
    """
    rows = points.to_dict("records")
    found = []
    for row in rows:
        others = [o for o in rows if o["kind"] == row["kind"] and _fair(o) and _fair(row)]
        below = [other for other in others if _dominates(row, other)]
        above = [other for other in others if _dominates(other, row)]
        found.append(
            {
                "front": not above if _fair(row) else None,
                "dominates": _names(below),
                "clearly_dominates": _names(other for other in below if _clearly(row, other)),
                "dominated_by": _names(above),
                "clearly_dominated_by": _names(other for other in above if _clearly(other, row)),
            }
        )
    added = ["front", "dominates", "clearly_dominates", "dominated_by", "clearly_dominated_by"]
    return points.join(pd.DataFrame(found, index=points.index, columns=added, dtype=object))


def in_both(points: pd.DataFrame) -> pd.DataFrame:
    """Points that were played in both games."""
    return points.dropna(subset=["asr_paper", "auc"])


def _fair(row: Row) -> bool:
    if pd.isna(row["asr_paper"]) or pd.isna(row["auc"]):
        return False
    return bool(row["defenses_met"] == row["defenses"] and row["detectors_met"] == row["detectors"])


def _dominates(one: Row, other: Row) -> bool:
    asr, auc = (one[column] - other[column] for column in ("asr_paper", "auc"))
    return bool(asr >= 0 >= auc and (asr, auc) != (0, 0))


def _clearly(one: Row, other: Row) -> bool:
    return bool(
        one["asr_paper_low"] > other["asr_paper_high"] and one["auc_high"] < other["auc_low"]
    )


def _names(rows: Any) -> str:
    return "; ".join(map(attack_label, rows))


def hypervolume(asr: Sequence[float], auc: Sequence[float]) -> float:
    """Area of [0, 1]² that points dominate: the union of [0, ASR] x [AUC, 1], from 0 to 1.

    It is 1 for an attack that nobody repairs and everybody mistakes for clean.
    """
    area, lowest = 0.0, 1.0
    for width, level in sorted(zip(asr, auc, strict=True), key=lambda point: (-point[0], point[1])):
        if level < lowest:
            area += width * (lowest - level)
            lowest = level
    return area


def hypervolumes(points: pd.DataFrame) -> dict[str, float]:
    """Hypervolume of each of `KINDS`, 0 for one without points that can be compared."""
    whole = points[points.front.notna()]
    groups = {kind: whole[whole.kind == kind] for kind in KINDS}
    return {kind: hypervolume(own.asr_paper, own.auc) for kind, own in groups.items()}


def compare(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """What became of every point of two sets of records, which name their attacks alike.

    Args:
        old, new: as `front_table` returns it.

    Returns:
        One row per attack that can be compared in either set, with `change` ("new", "gone",
        "moved" or "same"), ASR, AUC and `front` before and after, and for what is new or
        moved the other old points of its front that it `dominates` and is `dominated_by`.
    """
    before, after = (
        {tuple(row[key] for key in KEYS): row for row in frame.to_dict("records") if _fair(row)}
        for frame in (old, new)
    )
    rows = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        change = _change(was, now)
        row = (now or was or {}) | {"change": change}
        for column in ("asr_paper", "auc", "front"):
            row[f"{column}_before"] = was and was[column]
            row[f"{column}_after"] = now and now[column]
        others = [
            other
            for name, other in before.items()
            if change in ("new", "moved") and name != key and other["kind"] == row["kind"]
        ]
        row["dominates"] = _names(other for other in others if _dominates(row, other))
        row["dominated_by"] = _names(other for other in others if _dominates(other, row))
        rows.append(row)
    sides = [f"{c}_{s}" for c in ("asr_paper", "auc", "front") for s in ("before", "after")]
    columns = [*KEYS, "threat", "kind", "change", *sides, "dominates", "dominated_by"]
    return pd.DataFrame(rows, columns=columns)


def _change(was: Row | None, now: Row | None) -> str:
    if was is None or now is None:
        return "gone" if now is None else "new"
    same = all(was[column] == now[column] for column in ("asr_paper", "auc"))
    return "same" if same else "moved"


def pareto(sources: Sources) -> pd.DataFrame:
    """The front table, without rows where no attack was played in both games."""
    points = attack_points(sources.frames["repairs"], sources.frames[DETECTORS])
    return front_table(points if len(in_both(points)) else points[:0])


def summary(frame: pd.DataFrame) -> str:
    """Sentences on the hypervolumes of the fronts, and on who is on none of them."""
    there = set(frame.kind[frame.front.notna()])
    found = hypervolumes(frame)
    said = [f"{found[kind]:.3f} for {kind}" for kind in KINDS if kind in there]
    rest = [attack_label(row) for row in frame[frame.front.isna()].to_dict("records")]
    missing = ""
    if rest:
        who = joined(rest, "attack")
        missing = f"Not met by every repair and detector, so on no front: {who}."
    volume = f"Hypervolume: {'; '.join(said)}." if said else ""
    return " ".join(filter(None, (volume, missing)))


COLUMNS = (
    *ATTACK,
    Column("kind", "kind", Unit.TEXT, "whether the attacker owns the data or the training code",
           menu=True),
    Column("front", "front", Unit.YES_NO, "whether no other attack of its kind is as robust and as "
           "hidden; empty where opponents are missing", brief=True, menu=True),
    Column("asr_before", "ASR before", Unit.RATE, "attack success rate without a defense"),
    Column("asr_paper", "ASR left", Unit.RATE, "attack success rate under the defense that helps "
           "most, in the paper's reading", interval=True, brief=True, favours="attacker"),
    Column("asr_deployable", "deployable", Unit.RATE, "what the same defense leaves in the "
           "deployable reading", interval=True, favours="attacker"),
    Column("defense", "best defense", Unit.TEXT, "the defense that leaves least", brief=True,
           menu=True, names="defender", share="trusted_share"),
    TRUSTED,
    Column("auc", "AUC", Unit.AREA, "ROC AUC of the detector that finds the attack best",
           interval=True, brief=True, favours="defender"),
    Column("detector", "best detector", Unit.TEXT, "that detector", brief=True, menu=True,
           names="defender", share="detector_share"),
    Column("detector_share", "r of the detector", Unit.SHARE, "its trusted images", hidden=True),
    Column("dominated_by", "dominated by", Unit.TEXT, "attacks that are at least as robust and as "
           "hidden"),
    Column("clearly_dominated_by", "clearly by", Unit.TEXT, "those of them whose intervals are "
           "apart on both axes"),
    Column("defenses_met", "defenses met", Unit.COUNT, "defenses that the attack met"),
    Column("defenses", "defenses", Unit.COUNT, "defenses that any attack of its kind met"),
    Column("detectors_met", "detectors met", Unit.COUNT, "detectors that the attack met"),
    Column("detectors", "detectors", Unit.COUNT, "detectors that any attack of its kind met"),
    Column("seeds", "seeds", Unit.COUNT, "repetitions behind the ASR"),
    Column("models", "models", Unit.COUNT, "poisoned models behind the AUC"),
    Column("dominates", "dominates", Unit.TEXT, "attacks that are less robust and less hidden",
           hidden=True),
    Column("clearly_dominates", "clearly dominates", Unit.TEXT, "those with intervals apart",
           hidden=True),
)  # fmt: skip
