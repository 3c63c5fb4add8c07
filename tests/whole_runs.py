"""Runs as somebody starts them, and what they leave behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import misbehaving
import psutil

COMMAND = [sys.executable, "-m", "benchmark", "run"]


def records(out: Path) -> dict[str, dict[str, Any]]:
    """All records of a run, by name."""
    return {path.stem: json.loads(path.read_text()) for path in (out / "records").glob("*.json")}


def without_costs(out: Path) -> dict[str, dict[str, Any]]:
    """What must not depend on where and in what company a cell was played."""
    found = records(out)
    for record in found.values():
        del record["cost"]
        for scan in record.get("scans", ()):
            del scan["seconds"]
    return found


def left_behind() -> list[str]:
    """Command lines of processes that misbehaving plugins started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if misbehaving.MARK in words:
            found.append(" ".join(words))
    return found
