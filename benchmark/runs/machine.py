"""How much memory of the machine this process may use, as far as a container allows."""

from __future__ import annotations

from pathlib import Path

import psutil

#: Memory that one more task may need: torch, the data and a network's activations.
TASK_BYTES = 1536 << 20

#: Where Linux says what a container may use of memory and what it uses, in either version.
_GROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def memory_left(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that can still be had.

    Args:
        groups: where the container's limits are mounted.
    """
    left = int(psutil.virtual_memory().available)
    for most, used in _GROUPS:
        try:
            room = int((groups / most).read_text()) - int((groups / used).read_text())
            stat = (groups / used).with_name("memory.stat").read_text().split()
        except (OSError, ValueError):  # no such group, or "max"
            continue
        # Files that were read count as used until somebody needs the room.
        files = dict(zip(stat[::2], stat[1::2], strict=False)).get("inactive_file", "0")
        left = min(left, room + int(files))
    return max(0, left)
