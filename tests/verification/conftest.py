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
    """Two victims of BadNets and a clean one, repaired and guarded."""
    kinds = ("none-m0-none", "badnets-m100-none", "badnets-m100-pivotal-tuning-r0.05")
    kinds += ("badnets-m100-strip-r0.05",)
    return cut(
        "fashion-mnist-v1",
        tuple(f"*/robustness-{kind}-s[01]-*" for kind in kinds),
        tmp_path / "played",
    )


@pytest.fixture
def examined(tmp_path: Path) -> Path:
    """Two pairs of models under two detectors."""
    kinds = ("none-m0-abs", "badnets-m100-abs", "badnets-m100-neural-cleanse-r")
    return cut(
        "fashion-mnist-v2",
        (*(f"*/detectability-{kind}*-s[01]-*" for kind in kinds), "tuning/*"),
        tmp_path / "examined",
    )


@pytest.fixture
def inverted(tmp_path: Path) -> Path:
    """One inverter with a smoothed classifier and one without, on one model."""
    kinds = ("blind-p-m0-smoothinv-s0", "blind-p-m0-plainadv-s0")
    return cut(
        "fashion-mnist-inversion-v1",
        tuple(f"*/inversion-{kind}-*" for kind in kinds),
        tmp_path / "inverted",
    )
