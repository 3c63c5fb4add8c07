"""Readers of Parquet files and of image folders, image by image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from benchmark.api import Source
from benchmark.data import DataError
from benchmark.images import ImageSet, empty_bytes

#: Where an image came from, the image or what PIL opens as one, and its label.
Item = tuple[str, Image.Image | Path | BytesIO, int | None]

#: uint8 pixels (N, C, H, W), int64 labels (N,) and the names of the K classes.
Decoded = tuple[Tensor, Tensor, tuple[str, ...]]

SPLITS = ("train", "test")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"}
CONVENTION = "train-*.parquet and test-*.parquet"


def collect(
    items: Iterable[Item], count: int, classes: int, size: int = 0
) -> tuple[Tensor, Tensor]:
    """Decode `count` images into uint8 (N, C, H, W) and their labels into int64 (N,).

    C is 1 for grey images, 3 for all others. Pixels that would crowd the memory go to a file.

    Args:
        classes: labels are in [0, K).
        size: resize to `size` x `size` bilinearly; 0 keeps the images as they are.

    Raises:
        DataError: bytes that are no image, images of unlike shapes, a label out of range.
    """
    pixels = torch.empty(0, dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    for row, (where, image, label) in enumerate(items):
        if label is None or not 0 <= label < classes:
            raise DataError(
                f"{where} has label {label}, expected 0 to {classes - 1}; correct the label or "
                "the names of the classes"
            )
        array = _decode(where, image, size)
        if row == 0:
            pixels = empty_bytes((count, *array.shape))
        elif array.shape != pixels.shape[1:]:
            raise DataError(
                f"{where} is {_describe(array.shape)}, expected {_describe(pixels.shape[1:])} as "
                "before it; make all images alike in size (folder:size=… does it) and colour"
            )
        pixels.numpy()[row] = array
        labels[row] = label
    return pixels, labels


def _decode(where: str, image: Image.Image | Path | BytesIO, size: int) -> npt.NDArray[np.uint8]:
    """Pixels (C, H, W) of one image."""
    try:
        with image if isinstance(image, Image.Image) else Image.open(image) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"mode {opened.mode} has more than 8 bits per channel")
            decoded = opened.convert("L" if opened.mode in ("1", "L", "LA") else "RGB")
    except Exception as error:  # PIL meets damaged bytes with errors of many types
        raise DataError(
            f"{where} is not an image that can be read ({_reason(error)}), expected 8-bit grey "
            "or RGB; replace or remove it"
        ) from error
    if size:
        decoded = decoded.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(decoded)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _describe(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[2]} {'grey' if shape[0] == 1 else 'RGB'}"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def parquet_files(folder: Path) -> list[Path]:
    """The files ``train-*.parquet`` and ``test-*.parquet`` in `folder`, maybe none."""
    return [file for split in SPLITS for file in sorted(folder.glob(f"{split}-*.parquet"))]


def read_parquet(
    files: Sequence[Path], size: int = 0, class_names: tuple[str, ...] = ()
) -> Decoded:
    """Read the shards of one split in the Hugging Face image convention.

    Column `image` is a struct with `bytes`, column `label` an integer. Names of classes are
    those in the files or `class_names`, else the numbers up to the largest label.

    Args:
        files: all shards of the split.
        size: as for `collect`.
        class_names: names that are known from another split.

    Raises:
        DataError: a shard that is missing, damaged or not in the convention.
    """
    rows = 0
    for file in files:
        shards = re.search(r"-of-(\d+)$", file.stem)
        if shards and int(shards[1]) != len(files):
            raise DataError(
                f"{file.parent} holds {len(files)} {file.name.split('-')[0]} files, {file.name} "
                f"is one of {int(shards[1])}; fetch the missing ones or remove those of another set"
            )
        with _parquet(file) as opened:
            rows += opened.metadata.num_rows
            found = _class_names(opened.schema_arrow)
        if found and class_names and found != class_names:
            raise DataError(
                f"{file} names the classes {', '.join(found)}, expected "
                f"{', '.join(class_names)} as in the other files; keep one set per folder"
            )
        class_names = class_names or found
    if rows == 0:
        raise DataError(f"{files[0]} holds no rows, expected images; fetch it again")
    # Without names, more classes than images would be an error too.
    items = (item for file in files for item in _items(file))
    pixels, labels = collect(items, rows, len(class_names) or rows, size)
    return pixels, labels, class_names or tuple(map(str, range(int(labels.max()) + 1)))


def _parquet(file: Path) -> pq.ParquetFile:
    """Open a file and check that it has the two columns."""
    try:
        opened = pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from error
    types = {field.name: field.type for field in opened.schema_arrow}
    image, label = types.get("image", pa.null()), types.get("label", pa.null())
    content = pa.null()
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        content = image.field("bytes").type
    is_binary = pa.types.is_binary(content) or pa.types.is_large_binary(content)
    if not (is_binary and pa.types.is_integer(label)):
        columns = ", ".join(f"{name}: {kind}" for name, kind in types.items())
        raise DataError(
            f"{file} has the columns {columns or 'none'}, expected image: struct<bytes: binary> "
            "and label: int64; write it in the Hugging Face image convention"
        )
    return opened


def _class_names(schema: pa.Schema) -> tuple[str, ...]:
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features["label"]["names"]))
    except (LookupError, TypeError, ValueError):
        return ()


def _items(file: Path) -> Iterator[Item]:
    try:
        row = 0
        with _parquet(file) as opened:
            for batch in opened.iter_batches(256, columns=["image", "label"]):
                for image, label in zip(*(column.to_pylist() for column in batch), strict=True):
                    yield f"{file} row {row}", BytesIO((image or {}).get("bytes") or b""), label
                    row += 1
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{file} is truncated or not a Parquet file ({_reason(error)}); fetch it again"
    )


def image_files(root: Path) -> list[Path]:
    """The images in ``<class>/``, or in ``train/<class>/`` and, if there, ``test/<class>/``.

    Raises:
        DataError: nothing of that kind, a class without images, or a test split alone.
    """
    parts = [root / split for split in SPLITS if _subfolders(root / split)] or [root]
    if parts == [root / "test"]:
        raise DataError(
            f"{root} holds test images and no training images, expected train/<class>/ beside "
            "test/<class>/; add them, or give the path of the test folder itself"
        )
    found: list[Path] = []
    for part in parts:
        for folder in _subfolders(part):
            images = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
            if not images:
                raise DataError(
                    f"{folder} holds no images, expected some {', '.join(sorted(SUFFIXES))}; add "
                    "them or remove the folder"
                )
            found += images
    if not found:
        raise DataError(
            f"{root} holds no data set, expected {CONVENTION}, or images in <class>/ or in "
            "train/<class>/ and test/<class>/; check the path"
        )
    return found


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and sub.name[0] != ".")


def read_image_folder(
    files: Sequence[Path], size: int = 0, class_names: tuple[str, ...] = ()
) -> Decoded:
    """Read the images of one split; each one's class is the name of its folder.

    Args:
        files: images ``<class>/<any name>``.
        size: as for `collect`.
        class_names: names that are known from another split, else sorted from the folders.

    Raises:
        DataError: a file that is no image, unlike shapes, a class that is not in `class_names`.
    """
    names = class_names or tuple(sorted({file.parent.name for file in files}))
    for file in files:
        if file.parent.name not in names:
            raise DataError(
                f"{file.parent} is not among the classes of the training images, expected "
                f"{', '.join(names)}; rename or remove it"
            )
    items = ((str(file), file, names.index(file.parent.name)) for file in files)
    return *collect(items, len(files), len(names), size), names


def read_source(train: Sequence[Path], test: Sequence[Path], size: int = 0) -> Source:
    """Read the files of both splits; no test files make a source without test images.

    Raises:
        DataError: as the readers above, and where the splits do not fit each other.
    """
    if not train:
        raise DataError(
            f"{test[0].parent} holds no train-*.parquet, expected {CONVENTION}; fetch the others"
        )
    read = read_parquet if train[0].suffix == ".parquet" else read_image_folder
    pixels, labels, names = read(train, size)
    if not test:
        return Source(ImageSet(pixels, labels), None, names)
    test_pixels, test_labels, _ = read(test, size, names)
    if test_pixels.shape[1:] != pixels.shape[1:]:
        raise DataError(
            f"{test[0]} holds {_describe(test_pixels.shape[1:])} images, expected "
            f"{_describe(pixels.shape[1:])} as for training; keep one set per folder or resize it"
        )
    return Source(ImageSet(pixels, labels), ImageSet(test_pixels, test_labels), names)
