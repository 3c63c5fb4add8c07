"""How fast a piece of work computes, beside what a core can do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def share_of_a_product(
    work: Callable[[], None], seconds: float, clock: Callable[[], float]
) -> float:
    """Operations per second of work that takes so long, over those of a float32 matrix product.

    Args:
        clock: what the seconds were taken with.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    matrix, products = torch.rand(1024, 1024), 8
    torch.mm(matrix, matrix)
    started = clock()
    for _ in range(products):
        torch.mm(matrix, matrix)
    product = products * 2 * 1024**3 / (clock() - started)
    return counter.get_total_flops() / seconds / product
