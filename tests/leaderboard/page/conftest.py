"""Boards for a browser: committed ones and records made by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.leaderboard.board import Board, read_board
from benchmark.runs.record import Record, RobustnessRecord
from benchmark.runs.store import Store

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(params=["fashion-mnist-v1", "fashion-mnist-v2", "fashion-mnist-inversion-v1"])
def committed(request: pytest.FixtureRequest) -> Board:
    return read_board(ROOT / "leaderboards" / request.param)


@pytest.fixture(scope="session")
def both_games() -> Board:
    return read_board(ROOT / "leaderboards" / "fashion-mnist-v2")


@pytest.fixture(scope="session")
def with_pictures() -> Board:
    return read_board(ROOT / "leaderboards" / "fashion-mnist-inversion-v1")


def _rate(hits: int, total: int) -> dict[str, Any]:
    return {"hits": hits, "total": total, "value": hits / total}


def _point(stage: str, step: int, cda: int, asr: int) -> dict[str, Any]:
    rates = {"validation": _rate(cda, 100), "cda": _rate(cda, 100), "asr": _rate(asr, 90)}
    return {"stage": stage, "step": step, "asr_game": asr / 100, **rates}


@pytest.fixture(scope="session")
def record() -> Callable[..., Record]:
    """One cell: a model with 95 % CDA, and what a repair leaves of its backdoor."""

    def made(attack: str, defense: str | None, seed: int, asr: int, **changes: Any) -> Record:
        before, after = _point("victim", 0, 95, 90), _point("repair", 50, 94, asr)
        plugin = {"version": 1, "params": {}}
        stage = {"label": defense, "name": defense, "stage": "repair", **plugin}
        after = after if defense else before
        number = random.Random(f"{attack}{defense}{seed}").getrandbits(256)
        content: dict[str, Any] = {
            "schema": 1,
            "key": f"{number:064x}",
            "protocol": {"name": "made-up", "sha256": "a" * 64, "recipe": "standard"},
            "game": "robustness",
            "attack": {"label": attack, "name": attack, "m": 50, "boost": 1, **plugin}
            | {"threat": "poison-label"},
            "defense": {"name": defense or "none", "stages": [stage] if defense else []},
            "trusted_share": 0.05 if defense else None,
            "seed": seed,
            "status": "ok",
            "metrics": {
                **{key: after[key] for key in ("cda", "asr", "asr_game", "validation", "step")},
                "repaired": asr / 90 <= 0.05,
                "paper": after,
                "before": before,
                "asr_clean_model": _rate(1, 90),
                "target_confidence": 0.9,
                "guard": None,
            },
            "curve": [before, after] if defense else [before],
            "cost": {"seconds": 1.0, "victim_seconds": 2.0, "peak_memory_mb": 1.0, "device": "cpu"},
            "env": {},
        }
        return RobustnessRecord.model_validate(content | changes)

    return made


@pytest.fixture
def board_of(tmp_path: Path) -> Callable[..., Board]:
    def made(*records: Record) -> Board:
        folder = tmp_path / "run"
        for number, one in enumerate(records):
            Store(folder).save_record(f"r{number}-{one.key[:8]}", one)
        return read_board(folder)

    return made
