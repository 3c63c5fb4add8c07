"""The commands that the documentation shows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def commands(pages: Iterable[Path]) -> list[str]:
    """Lines of `poisongames` in blocks of the shell, in their order, each once."""
    blocks = [
        block
        for page in pages
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (line.split("  #")[0].strip() for line in lines if line.startswith("poisongames "))
    return list(dict.fromkeys(found))
