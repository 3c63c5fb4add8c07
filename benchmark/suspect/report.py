"""What a scan found, as one page that works without a network, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.leaderboard import page
from benchmark.leaderboard.page import pictures
from benchmark.records.files import write_whole
from benchmark.suspect.findings import Scan


def save(scan: Scan, folder: Path) -> tuple[Path, Path]:
    """Write ``index.html`` and ``scan.json`` into `folder`.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    shown, written = folder / "index.html", folder / "scan.json"
    content = json.dumps(scan.written(), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(shown, html(scan))
    write_whole(written, f"{content}\n".encode())
    return shown, written


def html(scan: Scan) -> bytes:
    """The page as UTF-8."""
    low, high = scan.accuracy.interval()
    facts = [
        ("trusted images", str(scan.images)),
        ("size", "x".join(map(str, scan.shape[1:]))),
        ("classes", str(len(scan.class_names))),
        ("accuracy on them", f"{scan.accuracy.value:.1%} ({low:.1%} to {high:.1%})"),
    ]
    shown = [
        (finding, None if finding.pictures is None else pictures.triggered(finding.pictures))
        for finding in scan.findings
    ]
    return page.html(
        "scan.html.jinja",
        room=__package__ or "",
        title=f"{scan.title}: {scan.answer}",
        scan=scan,
        facts=facts,
        findings=shown,
    )
