"""Small networks that tests build in the place of large ones, as deep in stages."""

from __future__ import annotations

from pathlib import Path

import open_clip

open_clip.add_model_config(Path(__file__).parent / "clip")

#: By the name of the architecture.
STAND_INS = {"vit": "vit:layers=4,width=32,heads=2", "clip": "clip:model=tiny-clip"}
