"""Whether what becomes of an image depends on the images beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.conformance.subject import same

#: Sums in another order are no dependence: so much of a batch may differ by so little.
AGREEING, TOLERANCE = 0.99, 1 / 255

#: Turns images (B, C, H, W) into results (B, …) with equal seeds every time, and says whether
#: random numbers were drawn for them.
Ask = Callable[[Tensor], tuple[Tensor, bool]]


def depends_on_others(ask: Ask, images: Tensor) -> bool:
    """Whether the results of one half of the images change with the other half.

    The other half is exchanged, which takes no random number more or less and so must not
    change a bit; and, where nothing is drawn, each half is asked for alone.
    """
    first, second = images.chunk(2)
    whole, drew = ask(images)
    exchanged, _ = ask(torch.cat([first, 1 - second]))
    if not same(whole[: len(first)], exchanged[: len(first)]):
        return True
    if drew:
        return False
    alone = torch.cat([ask(first)[0], ask(second)[0]])
    return torch.isclose(whole, alone, rtol=0, atol=TOLERANCE).float().mean().item() < AGREEING
