"""Boards for a browser: records made by hand, and what was committed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_records import board_of_both_games, board_of_inversion, played, save

from benchmark.leaderboard.board import Board, read_board
from benchmark.records.record import Record

ROOT = Path(__file__).parent.parent.parent.parent
COMMITTED = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/records"))


@pytest.fixture(scope="session")
def both_games(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return read_board(board_of_both_games(tmp_path_factory.mktemp("both")))


@pytest.fixture(scope="session")
def with_pictures(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return read_board(board_of_inversion(tmp_path_factory.mktemp("inversion")))


@pytest.fixture(params=["both_games", "with_pictures", *COMMITTED], ids=lambda one: Path(one).name)
def shown_board(request: pytest.FixtureRequest) -> Board:
    """Every kind of board, and those that are committed."""
    if isinstance(request.param, Path):
        return read_board(request.param)
    board: Board = request.getfixturevalue(request.param)
    return board


@pytest.fixture(scope="session")
def record() -> Callable[..., Record]:
    """One cell: a model with 95 % CDA, and what a repair leaves of its backdoor at 94 %."""

    def made(attack: str, defense: str | None, seed: int, asr: int, **changes: Any) -> Record:
        left = None if defense is None else asr
        return played(attack, defense, seed, left, left, cda=(95, 94, 94), **changes)

    return made


@pytest.fixture
def board_of(tmp_path: Path) -> Callable[..., Board]:
    def made(*records: Record) -> Board:
        return read_board(save(tmp_path / "run", records))

    return made
