"""What a board shows of the inversion game besides its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from benchmark.games.columns import Unit, attack_label, joined, written
from benchmark.games.frames import Picture, Sources
from benchmark.games.inversion.record import InversionRecord
from benchmark.texts import counted


def verdict(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Whose triggers work best on average, among those who met most attacks."""
    if "inversions" not in frames:
        return
    frame = frames["inversions"]
    found = frame.groupby("inverter").asr_selected.agg(["count", "mean"]).round(6)
    found = found[(found["count"] > 0) & (found["count"] == found["count"].max())]
    best = found.index[found["mean"] == found["mean"].max()]
    if len(best):
        number, mean = found.loc[best[0]]
        own = frame[frame.inverter == best[0]]
        worst = own.loc[own.asr_selected.idxmin()].to_dict()
        whose = f"of {best[0]} " if len(best) > 1 else ""
        reverses = "reverses" if len(best) == 1 else "reverse"
        lowest = written(worst, "asr_selected", Unit.RATE)
        yield (
            f"{joined(list(best), 'inverter')} {reverses} triggers best: {100 * mean:.1f} % ASR on "
            f"average over {counted(int(number), 'attack')}, {whose}{lowest} % at the least, "
            f"against {attack_label(worst)}."
        )


def pictures(sources: Sources) -> list[Picture]:
    """Of the first model of each attack and inverter."""
    found: dict[tuple[str, str], Picture] = {}
    for record in sorted(sources.of(InversionRecord), key=lambda one: one.seed):
        if record.picture is not None:
            title = f"{record.attack}: {sources.name(record.defense.stages[0])}"
            alt = "start images, inverted images and the true trigger"
            picture = Picture(title, alt, record.picture.file)
            found.setdefault((record.defense.stages[0].label, title), picture)
    return sorted(found.values(), key=lambda picture: (picture.title, picture.file))
