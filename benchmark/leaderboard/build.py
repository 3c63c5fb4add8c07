"""Tables from records: a pure function, the same bytes wherever it runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.leaderboard.tables import repairs, share_text, unfinished, victims
from benchmark.metrics import REPAIRED
from benchmark.runs.record import ProtocolRef, Record
from benchmark.runs.store import Store, StoreError, write_whole

INTRODUCTION = """\
ASR is the share of triggered test images of other classes that the model puts into the
target class; CDA is its accuracy on clean test images. A cell shows the ASR that remains
after the best the defense may do within the budget of clean accuracy. The deployable reading
takes the last checkpoint whose accuracy on held-out validation images was in budget, which a
defender can really choose; the paper's reading takes the lowest ASR of any checkpoint in
budget on the test images, as Pick your Poison does. A backdoor that worked counts as
repaired, in bold, at an ASR of at most 5 %. Rates are in percent and means over seeds;
brackets are 95 % intervals, the wider of Wilson's over all images and Student's t over
seeds. r is the number of trusted images as a share of the training set.
"""


def build(folder: Path) -> str:
    """Write README.md and the CSV files beside the records of `folder`.

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
    frames = {"victims": victims(records), "repairs": repairs(records)}
    for name, frame in frames.items():
        text = frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        write_whole(folder / f"{name}.csv", text.encode())
    text = _markdown(protocol, records, frames)
    write_whole(folder / "README.md", text.encode())
    return text


def _common_protocol(folder: Path, records: Iterable[Record]) -> ProtocolRef:
    protocols = {record.protocol.sha256: record.protocol for record in records}
    if len(protocols) > 1:
        names = ", ".join(f"{p.name} {p.sha256[:12]}" for _, p in sorted(protocols.items()))
        raise StoreError(f"{folder}: records of different protocols share no table: {names}")
    return next(iter(protocols.values()))


def _markdown(protocol: ProtocolRef, records: list[Record], frames: dict[str, pd.DataFrame]) -> str:
    seeds = len({record.seed for record in records})
    parts = [
        f"# {protocol.name}",
        f"{len(records)} cells, {seeds} seed{'s' if seeds > 1 else ''}, "
        f"protocol `{protocol.sha256[:12]}`.",
        INTRODUCTION.rstrip(),
        "## Victims before any defense",
        _victims_table(frames["victims"]),
    ]
    for reading, title in (
        ("deployable", "Remaining ASR, deployable reading"),
        ("paper", "Remaining ASR, the paper's reading"),
    ):
        parts += [f"## {title}", _grid(frames["repairs"], reading)]
    parts += ["## Accuracy spent and backdoors repaired", _spent_table(frames["repairs"])]
    if problems := unfinished(records):
        rows = [{key: _cell_text(value) for key, value in row.items()} for row in problems]
        parts += ["## Failed and invalid cells", _table(rows)]
    return "\n\n".join(parts) + "\n"


def _percent(row: Any, column: str) -> str:
    """Mean and interval of one of a row's rates, in percent."""
    mean, low, high = (row[column + suffix] for suffix in ("", "_low", "_high"))
    return "–" if pd.isna(mean) else f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _number(value: float, digits: int = 1) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "No defense was played."
    text: str = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return text


def _victims_table(frame: pd.DataFrame) -> str:
    return _table(
        [
            {
                "attack": _cell_text(row["attack"]),
                "threat": row["threat"],
                "m": str(row["m"]),
                "CDA": _percent(row, "cda"),
                "ASR": _percent(row, "asr"),
                "ASR as in the game": _number(100 * row["asr_game"]),
                "ASR on clean model": _percent(row, "asr_clean"),
                "target confidence": _number(row["target_confidence"], 3),
            }
            for row in frame.to_dict("records")
        ]
    )


def _grid(frame: pd.DataFrame, reading: str) -> str:
    """Attacks down, defenses with their trusted shares across; repaired cells in bold."""
    lines: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for row in frame.to_dict("records"):
        share = "" if pd.isna(row["trusted_share"]) else f" r={share_text(row['trusted_share'])}"
        column = _cell_text(row["defense"]) + share
        attack = f"{_cell_text(row['attack'])} (m={row['m']})"
        text = _percent(row, f"asr_{reading}")
        repaired = row["asr_before"] > REPAIRED >= row[f"asr_{reading}"]
        lines.setdefault(attack, {})[column] = f"**{text}**" if repaired else text
        columns[column] = None
    return _table(
        [
            {"attack": attack} | {column: line.get(column, "–") for column in columns}
            for attack, line in lines.items()
        ]
    )


def _spent_table(frame: pd.DataFrame) -> str:
    """Per defense and share: mean loss of CDA in points, and how many attacks are repaired."""
    if frame.empty:
        return _table([])
    groups = frame.groupby(["defense", "trusted_share"], sort=False, dropna=False)
    return _table(
        [
            {
                "defense": _cell_text(defense),
                "r": share_text(share),
                "CDA loss, deployable (points)": _number(100 * group.cda_loss_deployable.mean(), 2),
                "CDA loss, paper (points)": _number(100 * group.cda_loss_paper.mean(), 2),
                "repaired, deployable": _repaired(group, "deployable"),
                "repaired, paper": _repaired(group, "paper"),
                "seconds": _number(group.seconds.mean()),
            }
            for (defense, share), group in groups
        ]
    )


def _repaired(group: pd.DataFrame, reading: str) -> str:
    """Count attacks that worked and no longer do."""
    working = group[group.asr_before > REPAIRED]
    return f"{int((working[f'asr_{reading}'] <= REPAIRED).sum())} of {len(working)}"


def _cell_text(text: str) -> str:
    """Escape what would break a Markdown table or turn into markup."""
    for mark in "\\|<>*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
