"""Structural similarity, which attacks keep high and inversions of filters lean on."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d

#: Side of the windows, and the constants that keep flat ones from dividing by nothing.
WINDOW, C1, C2 = 7, 0.01**2, 0.03**2


def structural_similarity(one: Tensor, other: Tensor) -> Tensor:
    """SSIM (B,) of images (B, C, H, W) in [0, 1] (Wang et al. 2004, with uniform windows).

    Windows have 7x7 pixels, or fewer where an image's side has; one in the middle of every pixel
    that has a whole one.
    """
    window = (min(WINDOW, one.shape[2]), min(WINDOW, one.shape[3]))
    unbiased = window[0] * window[1] / max(window[0] * window[1] - 1, 1)

    def mean(images: Tensor) -> Tensor:
        return avg_pool2d(images, window, 1)

    a, b = mean(one), mean(other)
    spread = unbiased * (mean(one**2) - a**2 + mean(other**2) - b**2)
    common = unbiased * (mean(one * other) - a * b)
    similar = (2 * a * b + C1) * (2 * common + C2) / ((a**2 + b**2 + C1) * (spread + C2))
    return similar.mean((1, 2, 3))
