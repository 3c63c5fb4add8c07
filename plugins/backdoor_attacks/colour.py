"""Colour spaces: what one constant shift of an image means in each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Space = Literal["hsv", "lab", "yuv"]

#: RGB to Y'UV (BT.601), rows Y, U and V.
_YUV = ((0.299, 0.587, 0.114), (-0.14713, -0.28886, 0.436), (0.615, -0.51499, -0.10001))
#: Linear sRGB to XYZ over the white point D65.
_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)


def _mixed(matrix: tuple[tuple[float, ...], ...], images: Tensor, back: bool = False) -> Tensor:
    mix = torch.tensor(matrix, dtype=torch.float64)
    mix = (torch.linalg.inv(mix) if back else mix).to(images)
    return torch.einsum("ij,bjhw->bihw", mix, images)


def rgb_to_hsv(images: Tensor) -> Tensor:
    """Hue, saturation and value, each in [0, 1]; the hue of grey is 0."""
    largest, smallest = images.amax(1), images.amin(1)
    spread = largest - smallest
    red, green, blue = images.unbind(1)
    safe = torch.where(spread > 0, spread, 1)
    hue = torch.where(
        largest == red,
        (green - blue) / safe % 6,
        torch.where(largest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    saturation = torch.where(largest > 0, spread / torch.where(largest > 0, largest, 1), 0)
    return torch.stack([torch.where(spread > 0, hue / 6, 0), saturation, largest], 1)


def hsv_to_rgb(images: Tensor) -> Tensor:
    hue, saturation, value = images.unbind(1)

    def channel(offset: int) -> Tensor:
        place = (offset + hue * 6) % 6
        return value - value * saturation * torch.minimum(place, 4 - place).clamp(0, 1)

    return torch.stack([channel(offset) for offset in (5, 3, 1)], 1)


def rgb_to_lab(images: Tensor) -> Tensor:
    """CIE L*a*b* over 100, so that L lies in [0, 1], a and b within about 1 of 0."""
    linear = torch.where(images > 0.04045, ((images + 0.055) / 1.055) ** 2.4, images / 12.92)
    xyz = _mixed(_XYZ, linear)
    root = torch.where(
        xyz > (6 / 29) ** 3, xyz.clamp(min=1e-9) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29
    )
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1) / 100


def lab_to_rgb(images: Tensor) -> Tensor:
    level, a, b = (100 * images).unbind(1)
    y = (level + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(root > 6 / 29, root**3, 3 * (6 / 29) ** 2 * (root - 4 / 29))
    linear = _mixed(_XYZ, xyz, back=True).clamp(0, 1)
    return torch.where(
        linear > 0.0031308, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055, 12.92 * linear
    )


class ColourSpace(NamedTuple):
    """Conversions of (B, 3, H, W), and the range that shifted values are clipped to.

    Attributes:
        low, high: per channel; a channel without a range wraps around 1, as hue does.
    """

    from_rgb: Callable[[Tensor], Tensor]
    to_rgb: Callable[[Tensor], Tensor]
    low: tuple[float | None, float, float]
    high: tuple[float | None, float, float]


SPACES: dict[Space, ColourSpace] = {
    "hsv": ColourSpace(rgb_to_hsv, hsv_to_rgb, (None, 0, 0), (None, 1, 1)),
    "lab": ColourSpace(rgb_to_lab, lab_to_rgb, (0, -1.28, -1.28), (1, 1.28, 1.28)),
    "yuv": ColourSpace(
        lambda images: _mixed(_YUV, images),
        lambda images: _mixed(_YUV, images, back=True),
        (0, -0.436, -0.615),
        (1, 0.436, 0.615),
    ),
}


def shifted(images: Tensor, space: Space, shift: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] with one vector (3,) added to every pixel in a space.

    What leaves the space's range is clipped, but hue wraps. A grey image (C = 1) is taken as
    one of three equal channels, and their mean is given back.
    """
    chosen = SPACES[space]
    inside = chosen.from_rgb(images.expand(-1, 3, -1, -1))
    moved = []
    for channel, low, high in zip(
        (inside + shift.to(images).view(1, 3, 1, 1)).unbind(1), chosen.low, chosen.high, strict=True
    ):
        moved.append(channel % 1 if low is None else channel.clamp(low, high))
    found = chosen.to_rgb(torch.stack(moved, 1)).clamp(0, 1)
    return found if images.shape[1] == 3 else found.mean(1, keepdim=True)
