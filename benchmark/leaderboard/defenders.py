"""Every defender in its worst case over the attacks that worked."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmark.games.columns import DEFENDER, GAME, KEYS, TRUSTED, Column, Unit, attack_label
from benchmark.games.detectability.game import DetectabilityGame
from benchmark.games.detectability.shown import DETECTORS, scored
from benchmark.games.frames import Frame, Sources
from benchmark.games.means import met_by_several
from benchmark.games.robustness.game import RobustnessGame
from benchmark.leaderboard.fronts import ASR, AUC, DEPLOYABLE, that_worked

#: What the games are called in the column `game`.
ROBUSTNESS, DETECTABILITY = RobustnessGame.name, DetectabilityGame.name


def defense_points(repairs: pd.DataFrame, detectability: pd.DataFrame) -> pd.DataFrame:
    """One row per pipeline or detector and trusted share.

    Args:
        repairs, detectability: as for `attack_points`.

    Returns:
        See `COLUMNS`. `front` is None for a defender that did not meet all attacks, as the worst
        may still come, and for one that left every victim as it was.
    """
    rows = []
    for game, frame, name, value in (
        (ROBUSTNESS, that_worked(repairs), "defense", "asr_paper"),
        (DETECTABILITY, that_worked(scored(detectability)), "detector", "auc"),
    ):
        if frame.empty:
            continue
        frame = met_by_several(frame, name)
        everyone = len(frame[KEYS].drop_duplicates())
        for (defender, share), group in frame.groupby([name, "trusted_share"], dropna=False):
            worst = _worst(group, value, game)
            row = {"game": game, "defender": defender, "trusted_share": share}
            row |= {"attacks": len(group), "of": everyone, "idle": False}
            row |= {"worst_attack": attack_label(worst)}
            row |= {column: worst.get(column) for column in (*ASR, *AUC)}
            if game == ROBUSTNESS:
                row["idle"] = bool((group.untouched_paper == group.seeds).all())
                row["cda_loss"] = group.cda_loss_paper.mean()
                deployable = _worst(group, "asr_deployable", game)
                row |= {column: deployable[column] for column in DEPLOYABLE}
            rows.append(row)
    numbers = [*ASR, *DEPLOYABLE, *AUC, "cda_loss"]
    columns = ["game", "defender", "trusted_share", "attacks", "of", "idle", "worst_attack"]
    found = pd.DataFrame(rows, columns=[*columns, *numbers]).astype(dict.fromkeys(numbers, float))
    return found.assign(front=pd.Series(_on_front(found), found.index, dtype=object))


def _worst(group: pd.DataFrame, value: str, game: str) -> dict[str, Any]:
    """The row of the attack that does most to a defender."""
    ordered = group.sort_values(KEYS).sort_values(
        value, ascending=game == DETECTABILITY, kind="stable"
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


def defenders(sources: Sources) -> pd.DataFrame:
    return defense_points(sources.frames["repairs"], sources.frames[DETECTORS])


TEXT = """\
The worst that the attacks of this board do to each defender: those that worked undefended and that
several defenders met. It is on the front if no other one dominates it, in the ASR that
is left and the CDA that is lost, or in the AUC of a detector. One that did not meet every attack is
on no front, as the worst may still come; neither is an idle one, of which every chosen model is the
untouched victim. Brackets are 95 % intervals against one attack alone."""

COLUMNS = (
    GAME,
    DEFENDER,
    TRUSTED,
    Column("front", "front", Unit.YES_NO, "whether it is on the front of defenders", brief=True,
           menu=True),
    Column("asr_paper", "highest ASR left", Unit.RATE, "highest remaining ASR, paper's reading",
           interval=True, brief=True, favours="attacker"),
    Column("cda_loss", "CDA loss (points)", Unit.POINTS, "mean loss of accuracy, paper's reading",
           brief=True),
    Column("asr_deployable", "highest ASR left, deployable", Unit.RATE,
           "highest remaining ASR, deployable reading", interval=True, favours="attacker"),
    Column("auc", "lowest AUC", Unit.AREA, "lowest ROC AUC", interval=True, brief=True,
           favours="defender"),
    Column("worst_attack", "against", Unit.TEXT, "the attack behind the ASR in the paper's "
           "reading, or the AUC", brief=True),
    Column("attacks", "attacks met", Unit.COUNT, "attacks that it met", brief=True),
    Column("of", "attacks", Unit.COUNT, "attacks of the game", brief=True),
    Column("idle", "idle", Unit.YES_NO, "whether it left every victim as it was"),
)  # fmt: skip

DEFENDERS = Frame(
    "defenders", "Defenders in the worst case", TEXT, defenders, COLUMNS, split="game"
)
