"""Small runs to verify and to submit, cut out of what a session plays once."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_board import cut


@pytest.fixture
def played(small_run: Path, small_released: None, tmp_path: Path) -> Path:
    """All seeds of BadNets and the clean model, repaired and guarded."""
    kinds = ("none-m0-none", "badnets-m40-none", "badnets-m40-pivotal-tuning-r0.05")
    kinds += ("badnets-m40-strip-r0.05",)
    patterns = (f"*/robustness-{kind}-s[012]-*" for kind in kinds)
    return cut(small_run, patterns, tmp_path / "played")


@pytest.fixture
def examined(small_run: Path, small_released: None, tmp_path: Path) -> Path:
    """A population of BadNets under one detector."""
    kinds = ("detectability-none-m0-abs-r", "detectability-badnets-m40-abs-r")
    kinds += ("robustness-none-m0-none", "robustness-badnets-m40-none")
    return cut(small_run, (f"*/{kind}*-s[0-9]-*" for kind in kinds), tmp_path / "examined")


@pytest.fixture
def inverted(small_run: Path, small_released: None, tmp_path: Path) -> Path:
    """One inverter with a smoothed classifier and one without, on both models."""
    kinds = ("inversion-blind-p-m0-smoothinv", "inversion-blind-p-m0-plainadv")
    kinds += ("robustness-none-m0-none", "robustness-blind-p-m0-none")
    patterns = (f"*/{kind}-s[01]-*" for kind in kinds)
    return cut(small_run, patterns, tmp_path / "inverted")
