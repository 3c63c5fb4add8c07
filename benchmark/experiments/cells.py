"""Which cells an experiment plays."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.experiments.declared import PaperExperiment
from benchmark.games.all import UNDEFENDED
from benchmark.games.robustness.searches import Chosen
from benchmark.protocol import Protocol
from benchmark.records.cell import Cell
from benchmark.registry import Registry
from benchmark.runs.plan import plan


def cells_of(
    experiment: PaperExperiment,
    protocol: Protocol,
    tuned: Chosen,
    registry: Registry,
    seeds: int | None,
) -> list[Cell]:
    """All cells of an experiment, each once, in the order of a run.

    Args:
        tuned, seeds: as for `benchmark.runs.plan.plan`, whose errors are raised.
    """
    found: dict[str, Cell] = {}
    for part in experiment.cells:
        planned = plan(
            protocol,
            registry,
            attacks=part.attacks,
            defenses=part.defenses,
            seeds=seeds,
            tuned=tuned,
        )
        found |= {cell.key: cell for cell in planned if _is_wanted(cell, part.shares)}
    return list(found.values())


def _is_wanted(cell: Cell, shares: Sequence[float]) -> bool:
    """Whether a cell is at one of these shares; other games have one of their own."""
    return not shares or cell.game != UNDEFENDED or cell.trusted_share in (None, *shares)
