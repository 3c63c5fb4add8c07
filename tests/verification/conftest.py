"""Small runs to verify and to submit, cut out of the committed boards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def cut(board: str, patterns: tuple[str, ...], run: Path) -> Path:
    """Copy the records that match, with what lies beside them."""
    for pattern in patterns:
        found = sorted((ROOT / "leaderboards" / board).glob(pattern))
        assert found, pattern
        for path in found:
            place = run / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return run


@pytest.fixture
def played(tmp_path: Path) -> Path:
    """All seeds of BadNets and the clean model, repaired and guarded."""
    kinds = ("none-m0-none", "badnets-m100-none", "badnets-m100-pivotal-tuning-r0.05")
    kinds += ("badnets-m100-strip-r0.05",)
    return cut(
        "fashion-mnist-v1",
        tuple(f"*/robustness-{kind}-s[012]-*" for kind in kinds),
        tmp_path / "played",
    )


@pytest.fixture
def examined(tmp_path: Path) -> Path:
    """A population of BadNets under one detector."""
    kinds = ("detectability-none-m0-abs-r", "detectability-badnets-m100-abs-r")
    kinds += ("robustness-none-m0-none", "robustness-badnets-m100-none")
    return cut(
        "fashion-mnist-v2",
        (*(f"*/{kind}*-s[0-9]-*" for kind in kinds), "tuning/*"),
        tmp_path / "examined",
    )


@pytest.fixture
def inverted(tmp_path: Path) -> Path:
    """One inverter with a smoothed classifier and one without, on both models."""
    kinds = ("inversion-blind-p-m0-smoothinv", "inversion-blind-p-m0-plainadv")
    kinds += ("robustness-none-m0-none", "robustness-blind-p-m0-none")
    return cut(
        "fashion-mnist-inversion-v1",
        tuple(f"*/{kind}-s[01]-*" for kind in kinds),
        tmp_path / "inverted",
    )
