"""Pictures inside the page, as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.games.frames import MAGNIFIED


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png(path: Path) -> str:
    """A picture as it lies there."""
    return _uri("png", path.read_bytes())


def triggered(pixels: NDArray[np.uint8]) -> str:
    """Clean images, below them triggered ones, below them what changed, times five.

    An uncompressed bitmap: compressors of different versions give different bytes.

    Args:
        pixels: uint8 (2, n, C, H, W) with one or three channels: clean, then triggered.
    """
    clean, after = pixels.astype(int)
    change = np.clip(MAGNIFIED * np.abs(after - clean), 0, 255)
    lines = np.stack([clean, after, change]).astype(np.uint8)
    lines = np.pad(lines, [(0, 0)] * 3 + [(0, 1)] * 2, constant_values=127)
    rows, n, channels, height, width = lines.shape
    sheet = lines.transpose(0, 3, 1, 4, 2).reshape(rows * height, n * width, channels)
    sheet = sheet[:-1, :-1]
    buffer = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(buffer, "BMP")
    return _uri("bmp", buffer.getvalue())
