"""All tables that a board may have, in the order in which they are built and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from benchmark.games.all import GAMES
from benchmark.games.frames import Chapter, Frame
from benchmark.games.robustness.frames import VICTIMS
from benchmark.leaderboard import verdict
from benchmark.leaderboard.cells import REPLAYS, SEARCHES, UNFINISHED, told
from benchmark.leaderboard.costs import COSTS
from benchmark.leaderboard.defenders import DEFENDERS
from benchmark.leaderboard.front_plots import PARETO
from benchmark.leaderboard.published import COMPARISON
from benchmark.records.record import Record

PLAYED = tuple(game.chapter() for game in GAMES.values())
FRONTS = Chapter("Fronts", (PARETO, DEFENDERS), verdict=verdict.fronts)
OTHERS = (
    Chapter("Costs", (COSTS,)),
    Chapter("Published", (COMPARISON,)),
    Chapter("Cells", (SEARCHES, UNFINISHED, REPLAYS), verdict=told),
)

#: What stands first in every grid: attacks before any defense.
UNDEFENDED_ASR = VICTIMS.frames[0].column("asr")

#: In the order they are built in: a frame may read those built before it.
BUILT = (VICTIMS, *PLAYED, FRONTS, *OTHERS)
#: As they are shown.
CHAPTERS = (FRONTS, *PLAYED, VICTIMS, *OTHERS)


def worst_cases(unfinished: Sequence[Record], measured: Sequence[Record]) -> Iterator[Record]:
    """Numbers for records that have none; see `Chapter`."""
    for one in PLAYED:
        if one.worst and one.record:
            own = [record for record in unfinished if isinstance(record, one.record)]
            yield from one.worst(own, measured)


def frames() -> Iterator[Frame]:
    return (frame for chapter in BUILT for frame in chapter.frames)


def sentences(built: Mapping[str, pd.DataFrame]) -> list[str]:
    """Which attack to fear and which defender to use, in the paper's reading.

    Only attacks that worked undefended count. What the frames do not hold is not said.
    """
    return [said for one in CHAPTERS if one.verdict for said in one.verdict(built)]
