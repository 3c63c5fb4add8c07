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
    if met.empty:
        return
    best = both if len(both) else met
    # Where all are found for certain, who keeps more of the backdoor comes closer.
    asr, hiding = best.asr_paper, 1 - best.auc
    closeness = pd.DataFrame({"both": asr * hiding, "either": asr + hiding})
    row = best.loc[closeness.sort_values(["both", "either"], kind="stable").index[-1]].to_dict()
    left, area = written(row, "asr_paper", Unit.RATE), written(row, "auc", Unit.AREA)
    numbers = f"{attack_label(row)}, with {left} % ASR left and an AUC of {area}"
    if len(both):
        said = joined([attack_label(one) for one in both.to_dict("records")], "attack")
        stays = f"{said} {'stays' if len(both) == 1 else 'stay'} robust and hidden"
        yield (
            f"{stays}: most of all {numbers}."
            if len(both) > 1
            else f"Robust and hidden: {numbers}."
        )
    else:
        yield f"No attack stays both robust and hidden; closest is {numbers}."
