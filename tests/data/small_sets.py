"""Writers of small data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def random_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """uint8 (N, *shape), grey as (N, H, W) and colour as (N, H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(
    path: Path,
    images: Sequence[Any],
    labels: Sequence[Any],
    names: Sequence[str] | None = None,
    row_group_size: int | None = None,
) -> Path:
    """Write images, as arrays or bytes, in the Hugging Face image convention."""
    cells = [
        {"bytes": encode(image) if isinstance(image, np.ndarray) else image, "path": f"{row}.png"}
        for row, image in enumerate(images)
    ]
    table = pa.table({"image": pa.array(cells, HF_IMAGE), "label": pa.array(labels, pa.int64())})
    if names is not None:
        label = {"_type": "ClassLabel", "names": list(names)}
        features = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_fashion(folder: Path, level: int = 0, count: int = 10) -> Path:
    """A small stand-in for Fashion-MNIST, told apart by the `level` of all its pixels."""
    images = np.full((count, 28, 28), level, dtype=np.uint8)
    labels = [row % 10 for row in range(count)]
    names = [f"piece {label}" for label in range(10)]
    for split in ("train", "test"):
        write_parquet(folder / f"{split}-00000-of-00001.parquet", images, labels, names)
    return folder


def write_images(folder: Path, classes: dict[str, np.ndarray]) -> Path:
    """Write ``<class>/<row>.png`` for every class."""
    for name, images in classes.items():
        (folder / name).mkdir(parents=True)
        for row, image in enumerate(images):
            (folder / name / f"{row}.png").write_bytes(encode(image))
    return folder
