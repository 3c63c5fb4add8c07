"""Pareto fronts: what attackers are left with, and defenders in their worst case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.leaderboard.populations import SCORE
from benchmark.leaderboard.tables import KEYS, share_text

#: Attackers who own the training can do more, so that they have a front of their own.
KINDS = ("data poisoning", "code poisoning")

_ASR = ["asr_paper", "asr_paper_low", "asr_paper_high"]
_DEPLOYABLE = ["asr_deployable", "asr_deployable_low", "asr_deployable_high"]
_AUC = ["auc", "auc_low", "auc_high"]
_POINT = [
    *(*KEYS, "threat", "kind", "detector", "detector_share", *_AUC, "models"),
    *("detectors_met", "detectors", "defense", "trusted_share", "asr_before", *_ASR, *_DEPLOYABLE),
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
        repairs: as `tables.repairs` and `tables.judged` make it; the paper's reading counts, the
            deployable one is that of the same responder.
        detectability: as `populations.detectability` and `tables.judged` make it; a detector's
            own score counts.

    Returns:
        One row per attack, m, boost and recipe; what a game that it was not played in would
        tell is NaN or None. `defenses_met` of the `defenses` (at a trusted share each) that any
        attack of its kind met and `detectors_met` of such `detectors` responded: who met fewer
        is flattered.
    """
    robust, detected = that_worked(repairs), that_worked(scored(detectability))
    rows: dict[Key, Row] = {}
    if not robust.empty:
        best = robust.sort_values(
            ["asr_paper", "cda_loss_paper", "defense", "trusted_share"], kind="stable"
        )
        wanted = ["threat", "defense", "trusted_share", "asr_before", *_ASR, *_DEPLOYABLE, "seeds"]
        _collect(rows, best, wanted, ("defense", "trusted_share"), "defenses")
    if not detected.empty:
        detected = detected.rename(columns={"trusted_share": "detector_share"})
        best = detected.sort_values(
            ["auc", "detector", "detector_share"], ascending=[False, True, True], kind="stable"
        )
        wanted = ["threat", "detector", "detector_share", *_AUC, "models"]
        _collect(rows, best, wanted, ("detector", "detector_share"), "detectors")
    found = [rows[key] | {"kind": _kind(rows[key]["threat"])} for key in sorted(rows)]
    return pd.DataFrame(found, columns=_POINT).astype(dict.fromkeys(_COUNTS, "Int64"))


def _kind(threat: str) -> str:
    return KINDS[threat == "code"]


def that_worked(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of attacks that worked undefended, see `tables.judged`."""
    return frame if frame.empty else frame[frame.worked]


def scored(detectability: pd.DataFrame) -> pd.DataFrame:
    """Rows of "detectability" that are a detector's own score."""
    return detectability if detectability.empty else detectability[detectability.reading == SCORE]


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


def attack_label(row: Mapping[str, Any]) -> str:
    """An attack with its m, boosting and recipe, the last two only where they are unusual."""
    boost = "" if row["boost"] == 1 else f", b={row['boost']}"
    recipe = "" if row["recipe"] == "standard" else f", {row['recipe']}"
    return f"{row['attack']} (m={row['m']}{boost}{recipe})"


def defender_label(name: str, share: float | None) -> str:
    return name if pd.isna(share) else f"{name} r={share_text(share)}"


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


def defense_points(repairs: pd.DataFrame, detectability: pd.DataFrame) -> pd.DataFrame:
    """Every defender in its worst case over the attacks that worked.

    Args:
        repairs, detectability: as for `attack_points`.

    Returns:
        One row per pipeline or detector and trusted share. `game` is "robustness", with the
        highest remaining ASR in either reading and the mean loss of CDA in the paper's, or
        "detectability", with the lowest AUC; `worst_attack` is the attack behind the ASR of the
        paper's reading or the AUC. An interval is that of one attack alone. `attacks` of the
        game's `of` attacks were played. Only who met all of them, and did not leave every victim
        as it was (`idle`), can be `front`: no other pipeline has as low a worst ASR at as low a
        loss of CDA, no other detector a higher worst AUC. It is None for others.
    """
    rows = []
    for game, frame, name, value in (
        ("robustness", that_worked(repairs), "defense", "asr_paper"),
        ("detectability", that_worked(scored(detectability)), "detector", "auc"),
    ):
        if frame.empty:
            continue
        everyone = len(frame[KEYS].drop_duplicates())
        for (defender, share), group in frame.groupby([name, "trusted_share"], dropna=False):
            worst = _worst(group, value, game)
            row = {"game": game, "defender": defender, "trusted_share": share}
            row |= {"attacks": len(group), "of": everyone, "idle": False}
            row |= {"worst_attack": attack_label(worst)}
            row |= {column: worst.get(column) for column in (*_ASR, *_AUC)}
            if game == "robustness":
                row["idle"] = bool((group.untouched_paper == group.seeds).all())
                row["cda_loss"] = group.cda_loss_paper.mean()
                deployable = _worst(group, "asr_deployable", game)
                row |= {column: deployable[column] for column in _DEPLOYABLE}
            rows.append(row)
    numbers = [*_ASR, *_DEPLOYABLE, *_AUC, "cda_loss"]
    columns = ["game", "defender", "trusted_share", "attacks", "of", "idle", "worst_attack"]
    found = pd.DataFrame(rows, columns=[*columns, *numbers]).astype(dict.fromkeys(numbers, float))
    return found.assign(front=pd.Series(_on_front(found), found.index, dtype=object))


def _worst(group: pd.DataFrame, value: str, game: str) -> Row:
    """The row of the attack that does most to a defender."""
    ordered = group.sort_values(KEYS).sort_values(
        value, ascending=game == "detectability", kind="stable"
    )
    return {str(column): found for column, found in ordered.iloc[0].items()}


def _on_front(defenders: pd.DataFrame) -> list[bool | None]:
    fair = (defenders.attacks == defenders.of) & ~defenders.idle.astype(bool)
    # What a game does not have is the same for all its players.
    costs = defenders[["asr_paper", "cda_loss"]].assign(auc=-defenders.auc).fillna(0)
    found: list[bool | None] = []
    for own in defenders.index:
        others = costs[fair & (defenders.game == defenders.game[own])]
        better = (others <= costs.loc[own]).all(axis=1) & (others < costs.loc[own]).any(axis=1)
        found.append(not better.any() if fair[own] else None)
    return found


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
