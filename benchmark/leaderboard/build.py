"""Tables from records: a pure function, the same bytes wherever it runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from benchmark.leaderboard.tables import repairs, unfinished, victims
from benchmark.metrics import REPAIRED
from benchmark.runs.record import ProtocolRef, Record
from benchmark.runs.store import Store, StoreError, write_whole

INTRODUCTION = """\
ASR is the share of triggered test images of other classes that the model puts into the
target class; CDA is its accuracy on clean test images. A cell shows the ASR that remains
after the best the defense may do within the budget
of clean accuracy: the deployable reading takes the last checkpoint whose accuracy on held-out
validation images was in budget, which a defender can really choose; the paper's reading
takes the lowest ASR of any checkpoint in budget on the test images, as Pick your Poison
does. A backdoor that worked counts as repaired, in bold, at an ASR of at most 5 %. Rates are
in percent and means over seeds; brackets are 95 % intervals, the wider of Wilson's over all
images and Student's t over seeds. r is the number of trusted images as a share of the
training set.
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


def _markdown(
    protocol: ProtocolRef, records: list[Record], frames: dict[str, pd.DataFrame]
) -> str:
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
    problems = unfinished(records)
    if len(problems):
        parts += ["## Failed and invalid cells", _plain(problems)]
    return "\n\n".join(parts) + "\n"


def _percent(mean: float, low: float, high: float) -> str:
    if pd.isna(mean):
        return "–"
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _plain(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True)


def _victims_table(frame: pd.DataFrame) -> str:
    shown = pd.DataFrame(
        {
            "attack": [_cell_text(name) for name in frame.attack],
            "threat": frame.threat,
            "m": frame.m.astype(str),
            "CDA": [_percent(*row) for row in zip(frame.cda, frame.cda_low, frame.cda_high)],
            "ASR": [_percent(*row) for row in zip(frame.asr, frame.asr_low, frame.asr_high)],
            "ASR as in the game": [_number(100 * v) for v in frame.asr_game],
            "ASR on clean model": [
                _percent(*row)
                for row in zip(frame.asr_clean, frame.asr_clean_low, frame.asr_clean_high)
            ],
            "target confidence": [_number(v, 3) for v in frame.target_confidence],
        }
    )
    return _plain(shown)


def _number(value: float, digits: int = 1) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


def _grid(frame: pd.DataFrame, reading: str) -> str:
    """Attacks down, defenses with their trusted shares across; repaired cells in bold."""
    texts = []
    for row in frame.itertuples():
        mean = getattr(row, f"asr_{reading}")
        text = _percent(
            mean, getattr(row, f"asr_{reading}_low"), getattr(row, f"asr_{reading}_high")
        )
        repaired = row.asr_before > REPAIRED >= mean
        texts.append(f"**{text}**" if repaired else text)
    share = ["" if pd.isna(r) else f" r={100 * r:g}%" for r in frame.trusted_share]
    cells = pd.DataFrame(
        {
            "attack": [
                f"{_cell_text(name)} (m={m})" for name, m in zip(frame.attack, frame.m)
            ],
            "column": [_cell_text(name) + s for name, s in zip(frame.defense, share)],
            "text": texts,
        }
    )
    if cells.empty:
        return "No defense was played."
    wide = cells.pivot(index="attack", columns="column", values="text")
    wide = wide.reindex(index=cells.attack.unique(), columns=cells.column.unique())
    return wide.fillna("–").reset_index().rename_axis(columns=None).to_markdown(
        index=False, disable_numparse=True
    )


def _spent_table(frame: pd.DataFrame) -> str:
    """Per defense and share: mean loss of CDA in points, and how many attacks are repaired."""
    if frame.empty:
        return "No defense was played."
    rows = []
    for (defense, share), group in frame.groupby(
        ["defense", "trusted_share"], sort=False, dropna=False
    ):
        rows.append(
            {
                "defense": _cell_text(str(defense)),
                "r": "–" if pd.isna(share) else f"{100 * share:g}%",
                "CDA loss, deployable (points)": _number(100 * group.cda_loss_deployable.mean(), 2),
                "CDA loss, paper (points)": _number(100 * group.cda_loss_paper.mean(), 2),
                "repaired, deployable": _repaired(group, "deployable"),
                "repaired, paper": _repaired(group, "paper"),
                "seconds": _number(group.seconds.mean()),
            }
        )
    return _plain(pd.DataFrame(rows))


def _repaired(group: pd.DataFrame, reading: str) -> str:
    """Count attacks that worked and no longer do."""
    working = group[group.asr_before > REPAIRED]
    return f"{int((working[f'asr_{reading}'] <= REPAIRED).sum())} of {len(working)}"


def _cell_text(text: str) -> str:
    """Escape what would break a Markdown table or turn into markup."""
    for mark in "\\|<>*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
