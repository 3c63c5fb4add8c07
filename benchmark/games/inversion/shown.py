"""What a board shows of the inversion game besides its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from benchmark.games.columns import Unit, attack_label, counted, written
from benchmark.games.frames import Picture, Sources
from benchmark.games.inversion.record import InversionRecord


def verdict(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Whose triggers work best on average, over the attacks that most inverters met."""
    if "inversions" not in frames:
        return
    means = frames["inversions"].groupby("inverter", sort=True).asr_selected.agg(["size", "mean"])
    means = means[means["size"] == means["size"].max()]
    best, number = means["mean"].idxmax(), int(means["size"].max())
    own = frames["inversions"][frames["inversions"].inverter == best]
    if means["mean"].notna().any():
        worst = own.loc[own.asr_selected.idxmin()].to_dict()
        left = written(worst, "asr_selected", Unit.RATE)
        yield (
            f"{best} reverses triggers best: {100 * means['mean'][best]:.1f} % ASR on average over "
            f"{counted(number, 'attack')}, {left} % at the least, of {attack_label(worst)}."
        )


def pictures(sources: Sources) -> list[Picture]:
    """Of the first model of each attack and inverter."""
    found: dict[tuple[str, str], Picture] = {}
    for record in sorted(sources.of(InversionRecord), key=lambda one: one.seed):
        if record.picture is not None:
            title = f"{record.attack}: {record.defense.name}"
            alt = "start images, inverted images and the true trigger"
            picture = Picture(title, alt, record.picture.file)
            found.setdefault((record.defense.stages[0].label, title), picture)
    return sorted(found.values(), key=lambda picture: (picture.title, picture.file))
