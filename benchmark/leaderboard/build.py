"""Tables from records: a pure function, the same bytes wherever it runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmark.leaderboard import inversions, plots
from benchmark.leaderboard.markdown import page
from benchmark.leaderboard.populations import curves, detectability, norms, pareto
from benchmark.leaderboard.tables import repairs, short_names, victims
from benchmark.runs import tuned
from benchmark.runs.record import (
    DetectabilityRecord,
    InversionRecord,
    ProtocolRef,
    Record,
    RobustnessRecord,
)
from benchmark.runs.store import Store, StoreError, write_whole

#: Tables that a board may have; those without rows are left out.
KNOWN = (
    *("victims", "repairs", "detectability", "norms", "curves", "pareto"),
    *("inversions", "configurations", "smoothed"),
)


def build(folder: Path) -> str:
    """Write README.md, CSV files and plots beside the records of `folder`.

    Returns:
        The Markdown text.

    Raises:
        StoreError: no records, damaged ones, or records of more than one protocol.
    """
    records = list(Store(folder).records())
    if not records:
        raise StoreError(
            f"{folder / 'records'} holds no records; play a protocol with `poisongames run` first"
        )
    protocol = _common_protocol(folder, records)
    robust = [record for record in records if isinstance(record, RobustnessRecord)]
    name = short_names(records)
    frames = {"victims": victims(robust, name), "repairs": repairs(robust, name)}
    examined = [record for record in records if isinstance(record, DetectabilityRecord)]
    if examined:
        frames["detectability"] = detectability(examined, name)
        frames["norms"] = norms(examined, name)
        frames["curves"] = curves(frames["victims"], frames["detectability"])
        frames["pareto"] = pareto(frames["repairs"], frames["detectability"])
    inverted = [record for record in records if isinstance(record, InversionRecord)]
    if inverted:
        frames["inversions"] = inversions.inversions(inverted, name)
        frames["configurations"] = inversions.configurations(inverted, name)
        frames["smoothed"] = inversions.smoothed(inverted, name)
    shown = {title: frame for title, frame in frames.items() if not frame.empty}
    frames = {"victims": frames["victims"], **shown}
    for title, frame in frames.items():
        text = frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        write_whole(folder / f"{title}.csv", text.encode())
    for title, figure in (
        ("curves", plots.curves),
        ("pareto", plots.pareto),
        ("configurations", plots.configurations),
        ("smoothed", plots.smoothed),
    ):
        if title in frames:
            write_whole(folder / f"{title}.svg", figure(frames[title]))
    for title in KNOWN:
        if title not in frames:
            for ending in ("csv", "svg"):
                (folder / f"{title}.{ending}").unlink(missing_ok=True)
    text = page(protocol, records, frames, tuned.load(folder / "tuning"))
    write_whole(folder / "README.md", text.encode())
    return text


def _common_protocol(folder: Path, records: Iterable[Record]) -> ProtocolRef:
    protocols = {record.protocol.sha256: record.protocol for record in records}
    if len(protocols) > 1:
        names = ", ".join(f"{p.name} {p.sha256[:12]}" for _, p in sorted(protocols.items()))
        raise StoreError(f"{folder}: records of different protocols share no table: {names}")
    return next(iter(protocols.values()))
