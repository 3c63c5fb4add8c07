"""What a model is examined with unless told otherwise; `defaults.toml` names the plugins."""

from __future__ import annotations

import tomllib
from importlib.resources import files

DETECTORS: tuple[str, ...] = tuple(
    tomllib.loads(files(__package__).joinpath("defaults.toml").read_text("utf-8"))["detectors"]
)
