"""What a board says, in a few sentences made from its frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from benchmark import metrics
from benchmark.games.columns import Unit, attack_label, joined, written

#: A detector that ranks models no better than this guesses; half-way from there to certainty.
GUESSING, HALF_WAY = 0.5, 0.75


def fronts(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Which attacks stay robust, clearly not repaired, and hidden: a detector may be guessing."""
    if "pareto" not in frames:
        return
    frame = frames["pareto"]
    met = frame[frame.front.notna()]
    hidden = (met.auc_low <= GUESSING) & (met.auc < HALF_WAY)
    both = met[(met.asr_paper_low > metrics.REPAIRED) & hidden]
    if len(both):
        yield f"{_listed(both)} {'stays' if len(both) == 1 else 'stay'} robust and hidden."
    elif len(met):
        row = met.loc[(met.asr_paper * (1 - met.auc)).idxmax()].to_dict()
        left, area = written(row, "asr_paper", Unit.RATE), written(row, "auc", Unit.AREA)
        yield (
            f"No attack stays both robust and hidden; closest is {attack_label(row)}, with "
            f"{left} % ASR left and an AUC of {area}."
        )


def _listed(frame: pd.DataFrame) -> str:
    return joined([attack_label(row) for row in frame.to_dict("records")], "attack")
