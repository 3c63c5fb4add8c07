"""The generator that tests draw from."""

from __future__ import annotations

from torch import Generator


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)
