"""The site of the documentation: `make docs` writes it to build/docs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import reference

project = "PoisonGames"
copyright = "the PoisonGames authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "PoisonGames"
myst_heading_anchors = 3
# Written for GitHub, where files lie beside each other.
suppress_warnings = ["myst.xref_missing"]


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda _: reference.write(Path(__file__).parent / "reference"))
