"""Evidence that is too alike: copied from another repetition, or drawn instead of measured."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from benchmark.games.all import GAMES
from benchmark.metrics import Rate
from benchmark.records.cell import Cell
from benchmark.records.evidence import Arrays
from benchmark.records.record import Record
from benchmark.records.strict import Finding

#: Of the mistakes that either of two models makes, trained ones share about a half; copies all.
SHARED, MISTAKES = 0.95, 12
#: Scores of two models differ by less of their spread only where one was copied.
CLOSE = 0.05
#: A row whose counts are as equal as these, with this chance, was not measured.
CHANCE = 1e-6
#: Scores of fewer values, which are more than half of them repeated, are too coarse to tell.
FINE = 30
#: All models answer the same images, so that hits vary less than a binomial of n draws, but by more
#: than half its standard deviation, which is that of n / 4 draws.
FEWER = 4
#: So many mistakes of a record are kept: those whose hashes are the smallest.
KEPT = 1000


@dataclass
class _Seen:
    """What is kept of a record: scores, or the smallest hashes of its mistakes."""

    file: str
    seed: int
    victim: str
    model: str
    repair: str
    mark: NDArray[np.generic]

    def may_agree(self, other: _Seen) -> bool:
        """Whether both may answer alike: one model, or one trained again on other hardware.

        Different repairs leave different models of it; a repair may have inert settings.
        """
        one = self.model == other.model or self.victim == other.victim
        return one and (self.repair == other.repair or not (self.repair and other.repair))


@dataclass
class Likeness:
    """Fingerprints of records, by row; see `benchmark.games.base.Game.fingerprint`."""

    _rows: defaultdict[str, list[_Seen]] = field(default_factory=lambda: defaultdict(list))
    _rates: defaultdict[tuple[str, str], dict[int, tuple[Rate, str]]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def add(self, record: Record, cell: Cell, arrays: Arrays, file: str) -> None:
        if record.status != "ok":  # whoever answers by chance does so in every repetition
            return
        game, row = GAMES[record.game], cell.row
        for name, rate in game.rates(record).items():
            self._rates[row, name][record.seed] = rate, file
        mark = game.fingerprint(record, arrays)
        if record.victim_sha256 is not None and _tells(mark):
            kept = mark if mark.dtype.kind == "f" else _smallest(mark)
            stage = cell.stage("repair")
            repair = stage.name if stage else ""
            model = record.victim_sha256
            seen = _Seen(file, record.seed, cell.defended.key, model, repair, kept)
            self._rows[row].append(seen)

    def findings(self, board: Likeness | None = None) -> Iterator[Finding]:
        """Copies among the records, and between them and those of a board; impossible rows."""
        yield from self._copies(board or Likeness())
        for (row, name), own in self._rates.items():
            there = board._rates.get((row, name), {}) if board else {}
            found = there | own
            rates = [rate for rate, _ in found.values()]
            if (chance := equality(rates)) < CHANCE:
                counts = ", ".join(str(rate.hits) for rate in rates)
                reason = (
                    f"of {name}: {counts} of {rates[0].total} in {len(rates)} repetitions; chance "
                    f"makes them as equal in {chance:.0e} of all cases"
                )
                yield Finding(next(iter(own.values()))[1], "metrics", reason)

    def _copies(self, board: Likeness) -> Iterator[Finding]:
        first: dict[bytes, _Seen] = {}
        for other in (one for seen in board._rows.values() for one in seen):
            first.setdefault(_digest(other.mark), other)
        for row, seen in self._rows.items():
            told = set()
            for one in seen:
                other = first.setdefault(_digest(one.mark), one)
                if not one.may_agree(other):
                    told.add(one.file)
                    yield _finding(one, other, "the same")
            for one, other in combinations([*seen, *board._rows.get(row, ())], 2):
                near = one.seed != other.seed and not one.may_agree(other)
                if near and not told & {one.file, other.file} and _near(one.mark, other.mark):
                    told.add(one.file)
                    same = np.array_equal(one.mark, other.mark)
                    yield _finding(one, other, "the same" if same else "nearly the same")


def _finding(one: _Seen, other: _Seen, how: str) -> Finding:
    of = "repair" if one.victim == other.victim else "model"
    reason = f"says {how} as that of {other.file}, which is of another {of}"
    return Finding(one.file, "evidence", reason)


def _digest(mark: NDArray[np.generic]) -> bytes:
    return hashlib.sha256(f"{mark.dtype}{mark.shape}".encode() + mark.tobytes()).digest()


def _tells(mark: NDArray[np.generic]) -> bool:
    """Whether there is enough in it to tell one model from another."""
    if mark.dtype.kind == "f":
        return len(np.unique(mark)) > min(len(mark) / 2, FINE)
    return len(mark) >= MISTAKES


def _smallest(codes: NDArray[np.generic]) -> NDArray[np.generic]:
    """A sketch of a set of numbers (Broder 1997), which is the set itself where it is small."""
    hashed = codes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.sort(hashed ^ (hashed >> np.uint64(32)))[:KEPT]


def _spread(scores: NDArray[np.generic]) -> float:
    low, high = np.quantile(scores.astype(np.float64), [0.25, 0.75])
    return float(high - low)


def _near(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    if one.dtype.kind == "f":
        if one.shape != other.shape:
            return False
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
        # One class that stands out, as it may in all models, hides no others.
        return bool(apart <= CLOSE * max(map(_spread, (one, other))))
    # Of the smallest hashes of both together the same share is common as of all mistakes.
    both = np.union1d(one, other)[:KEPT]
    return bool(np.mean(np.isin(both, one) & np.isin(both, other)) >= SHARED)


def equality(rates: Sequence[Rate]) -> float:
    """The chance that as many repetitions lie as close together as these, by the binomial.

    A row of one repetition, and one whose rate is next to 0 or 1, may look like anything: 1.
    """
    totals = {rate.total for rate in rates}
    if len(rates) < 2 or len(totals) > 1:
        return 1.0
    whole = totals.pop()
    total, hits = whole // FEWER, np.array([rate.hits for rate in rates])
    share = float(hits.mean() / whole) if total else 0.0
    if not 0.02 < share < 0.98:
        return 1.0
    reach, low = int(np.ptp(hits)), np.arange(total + 1)

    def below(k: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(k < 0, 0.0, special.bdtr(np.clip(k, 0, total), total, share))

    # The smallest of the counts is k, and the others are at most `reach` above it.
    at_least = below(low + reach) - below(low - 1)
    more = below(low + reach) - below(low)
    return float(np.sum(at_least ** len(rates) - more ** len(rates)))
