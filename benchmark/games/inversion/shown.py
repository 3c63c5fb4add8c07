"""What a board shows of the inversion game besides its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from benchmark.games.columns import Unit, attack_label, joined, written
from benchmark.games.frames import Picture, Sources
from benchmark.games.inversion.record import InversionRecord
from benchmark.texts import counted

HOW = """\
An inverter gets the model, one clean start image of another class and the target, and returns a
trigger, which is judged by the share of other test images of other classes that it puts into the
target class. "Selected" takes the configuration that worked best on other images; "best" is the
paper's reading: for every start image the best of an inverter's configurations on the very images
that are reported, an oracle. Inverters with few configurations are run again from other starts
until they have had as many runs as those with many: the columns "with restarts". Radii are L2 norms
in [0, 1] pixels, the same for every attack. Brackets are 95 % intervals, the wider of Wilson's over
all images and Student's t over the start images of the models that were played, so that they say
little about other models where these are few."""

PICTURES = """\
Rows are start images, each with its selected configuration: how the inverted image comes about, its
difference from the start scaled to the full range, and the true trigger likewise."""


def verdict(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Whose triggers work best on average, among those who met most attacks that worked."""
    if "inversions" not in frames or (frame := frames["inversions"]).empty:
        return
    frame = frame[frame.worked]
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
