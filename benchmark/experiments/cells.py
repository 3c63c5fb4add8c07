"""Which cells an experiment plays."""

from __future__ import annotations

from benchmark.experiments.declared import Cells, PaperExperiment
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
            # Undefended cells are those of the robustness game; other games have more of them.
            seeds=seeds or (None if part.defenses else protocol.robustness.seeds),
            tuned=tuned,
        )
        found |= {cell.key: cell for cell in planned if _is_wanted(cell, part)}
    return list(found.values())


def _is_wanted(cell: Cell, part: Cells) -> bool:
    """Whether a cell is at one of the shares; other games have one of their own."""
    if not part.defenses and (cell.game != UNDEFENDED or cell.defense.stages):
        return False
    return not part.shares or cell.game != UNDEFENDED or cell.trusted_share in (None, *part.shares)
