"""Readers of Parquet files in the Hugging Face image convention."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.data import DataError
from benchmark.data.formats import AS_THEY_ARE, Decoded, Reading, collect, reason

SPLITS = ("train", "test")
CONVENTION = "train-*.parquet and test-*.parquet"


def parquet_files(folder: Path) -> list[Path]:
    """The files ``train-*.parquet`` and ``test-*.parquet`` in `folder`, maybe none."""
    return [file for split in SPLITS for file in sorted(folder.glob(f"{split}-*.parquet"))]


def read_parquet(
    files: Sequence[Path],
    how: Reading = AS_THEY_ARE,
    class_names: tuple[str, ...] | None = (),
) -> Decoded:
    """Read the shards of one split in the Hugging Face image convention.

    One column is a struct with `bytes`, another one an integer. Names of classes are those in the
    files or `class_names`, else the numbers up to the largest label.

    Args:
        files: all shards of the split.
        class_names: names that are known from another split; None where that could not be read,
            so that nobody knows which labels are right.

    Raises:
        DataError: a shard that is missing, damaged or not in the convention.
    """
    rows, columns = 0, dict[Path, tuple[str, str]]()
    names = class_names or ()
    for file in files:
        shards = re.search(r"-of-(\d+)$", file.stem)
        if shards and int(shards[1]) != len(files):
            raise DataError(
                f"{file.parent} holds {len(files)} {file.name.split('-')[0]} files, {file.name} "
                f"is one of {int(shards[1])}; fetch the missing ones or remove those of another set"
            )
        with _parquet(file) as opened:
            rows += opened.metadata.num_rows
            columns[file] = _columns(file, opened.schema_arrow, how)
            found = _class_names(file, opened.schema_arrow, columns[file][1])
        if found and names and found != names:
            raise DataError(
                f"{file} names the classes {', '.join(found)}, expected "
                f"{', '.join(names)} as in the other files; keep one set per folder"
            )
        if not names and (twice := _twice(found)):
            raise DataError(
                f"{file} gives several classes the name {twice[0]}; each needs one of its own"
            )
        names = names or found
    if rows == 0:
        raise DataError(f"{files[0]} holds no rows, expected images; fetch it again")
    # Without names, more classes than images would be an error too.
    classes = len(names) or (None if class_names is None else rows)
    items = (item for file in files for item in _items(file, *columns[file]))
    pixels, labels = collect(items, rows, classes, how)
    return pixels, labels, names or tuple(map(str, range(int(labels.max()) + 1)))


@contextmanager
def _parquet(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as opened:
            yield opened
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file} is truncated or not a Parquet file ({reason(error)}); fetch it again"
        ) from error


def _twice(names: Sequence[str]) -> list[str]:
    return sorted(name for name, many in Counter(names).items() if many > 1)


def _columns(file: Path, schema: pa.Schema, how: Reading) -> tuple[str, str]:
    """Names of the columns of images and of labels.

    One that has the usual name is taken, or else the only one of its type.

    Raises:
        DataError: there is none, or several that nobody has chosen from.
    """
    fitting = {
        "image": [column.name for column in schema if _holds_images(column.type)],
        "label": [column.name for column in schema if pa.types.is_integer(column.type)],
    }
    chosen = []
    for what, names in fitting.items():
        wanted = getattr(how, what)
        usual = [name for name in names if name == what]
        if wanted in names:
            chosen.append(wanted)
        elif not wanted and (usual or len(names) == 1):
            chosen.append((usual or names)[0])
        elif not wanted and names:
            raise DataError(
                f"{file} has the {what} columns {', '.join(names)}; rename the right one to "
                f"{what}, or name it in a protocol, as in folder:path=…,{what}={names[0]}"
            )
        else:
            there = ", ".join(f"{column.name}: {column.type}" for column in schema)
            where = f" in {wanted}" if wanted else ""
            raise DataError(
                f"{file} has the columns {there or 'none'}, expected image: struct<bytes: binary> "
                f"and label: int64{where}; write it in the Hugging Face image convention"
            )
    if twice := [name for name in _twice(schema.names) if name in chosen]:
        raise DataError(
            f"{file} has several columns {twice[0]}; remove or rename all but one of them"
        )
    return chosen[0], chosen[1]


def _holds_images(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return bool(pa.types.is_binary(content) or pa.types.is_large_binary(content))


def _class_names(file: Path, schema: pa.Schema, label: str) -> tuple[str, ...]:
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (LookupError, TypeError, ValueError, RecursionError):
        return ()
    if names is None:
        return ()
    unfit = [one for one in names if not _is_name(one)] if isinstance(names, list) else [names]
    if unfit:
        raise DataError(
            f"{file} has {unfit[0]!a:.80} for names of classes, expected a list of texts that can "
            "be shown; correct the names in its metadata"
        )
    return tuple(map(str, names))


def _is_name(one: object) -> bool:
    # Whole numbers are names as well, as `datasets` has it.
    return isinstance(one, str | int) and str(one) != "" and str(one).isprintable()


def stored_images(file: Path) -> Iterator[BytesIO]:
    """The images of one file as they are stored, in their order.

    Raises:
        DataError: the file is damaged or not in the convention.
    """
    with _parquet(file) as opened:
        columns = _columns(file, opened.schema_arrow, AS_THEY_ARE)
    return (image for _, image, _ in _items(file, *columns))


def _items(file: Path, image: str, label: str) -> Iterator[tuple[str, BytesIO, int | None]]:
    row = 0
    with _parquet(file) as opened:
        for batch in opened.iter_batches(256, columns=[image, label]):
            columns = (batch.column(name).to_pylist() for name in (image, label))
            for cell, number in zip(*columns, strict=True):
                content, path = ((cell or {}).get(key) for key in ("bytes", "path"))
                if content is None and path:
                    raise DataError(
                        f"{file} row {row} holds the path {path!r:.80} and not the image; write "
                        "the images into the file (datasets: embed_external_files=True)"
                    )
                yield f"{file} row {row}", BytesIO(content or b""), number
                row += 1
