"""Decodes many images: on all cores, into a file from which a decoding that was killed goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count as numbers
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.images import empty_bytes

#: Images that are handed to the threads at once; twice as many are in memory.
CHUNK = 64
#: After so many bytes the disk holds what is noted as done.
SYNCED_BYTES = 64 << 20

Array = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]


class Unwritten(OSError):
    """Decoded images cannot be written, unlike images that cannot be read."""


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritten(*error.args) from error


@dataclass
class DecodingFolder:
    """Where the images of a data set are decoded.

    Attributes:
        folder: keeps one file for each part; what an earlier decoding left there is gone on with.
        progress: told (images done, images in all) of every part.
    """

    folder: Path
    progress: Progress
    _parts: Iterator[int] = field(default_factory=numbers)
    _files: dict[int, Path] = field(default_factory=dict)

    def part(self, count: int) -> Filed:
        """The next part, of `count` images; parts come in the same order every time."""
        return Filed(self.folder / f"{next(self._parts)}.npy", count, self)

    def file_of(self, array: Tensor) -> Path | None:
        """The file that holds a part's pixels, None for what lies in memory."""
        return self._files.get(array.data_ptr())

    def keep(self, array: Tensor, path: Path) -> Tensor:
        self._files[array.data_ptr()] = path
        return array


_decoding: ContextVar[DecodingFolder | None] = ContextVar("decoding", default=None)


@contextmanager
def decoding_at(folder: Path, progress: Progress) -> Iterator[DecodingFolder]:
    """For as long as this lasts, images are decoded into files below `folder`."""
    with _writing():
        folder.mkdir(parents=True, exist_ok=True)
    decoding = DecodingFolder(folder, progress)
    token = _decoding.set(decoding)
    try:
        yield decoding
    finally:
        _decoding.reset(token)


class InMemory:
    """Pixels (N, C, H, W) that are wanted at once; what would crowd the memory is mapped."""

    done = 0

    def __init__(self, count: int) -> None:
        self.count = count
        self.pixels = torch.empty(0, dtype=torch.uint8)
        self.shape: tuple[int, ...] = ()

    def begin(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.pixels = empty_bytes((self.count, *shape))

    def write(self, row: int, images: Sequence[Array]) -> None:
        self.pixels[row : row + len(images)] = torch.from_numpy(np.stack(images))

    def finish(self) -> Tensor:
        return self.pixels


class Filed:
    """Pixels (N, C, H, W) in a file, and beside it how many of its rows are done.

    Attributes:
        done: images that an earlier decoding has finished.
        shape: (C, H, W), empty as long as none is decoded.
    """

    def __init__(self, path: Path, count: int, decoding: DecodingFolder) -> None:
        self.path, self.count, self._decoding = path, count, decoding
        self._noted = path.with_suffix(".done")
        self._unsynced = 0
        self._file, self._offset, self.done = -1, 0, 0
        self.shape: tuple[int, ...] = ()
        try:
            done = int(self._noted.read_text())
            there = np.load(path, mmap_mode="r")
            if len(there) == count and 0 <= done <= count:
                self.done = done
                self._open(there.shape[1:], there.offset)
        except (OSError, ValueError):
            pass  # it begins anew
        decoding.progress(self.done, count)

    @_writing()
    def begin(self, shape: tuple[int, ...]) -> None:
        self._noted.unlink(missing_ok=True)
        whole = (self.count, *shape)
        self._open(shape, np.lib.format.open_memmap(self.path, "w+", np.uint8, whole).offset)

    def _open(self, shape: tuple[int, ...], offset: int) -> None:
        self.shape, self._offset = shape, offset
        self._file = os.open(self.path, os.O_RDWR)

    def write(self, row: int, images: Sequence[Array]) -> None:
        """Write images from `row` on; all rows before it were written."""
        self._write(row, images)
        self._decoding.progress(row + len(images), self.count)

    @_writing()
    def _write(self, row: int, images: Sequence[Array]) -> None:
        content = memoryview(np.stack(images).tobytes())
        # Not through a map, whose pages would count as this process's memory.
        written, start = 0, self._offset + row * int(np.prod(self.shape))
        while written < len(content):
            written += os.pwrite(self._file, content[written:], start + written)
        self._unsynced += len(content)
        if self._unsynced > SYNCED_BYTES:
            self._note(row + len(images))

    def _note(self, done: int) -> None:
        os.fdatasync(self._file)
        self._unsynced = 0
        new = self._noted.with_suffix(".new")
        new.write_text(str(done))
        os.replace(new, self._noted)

    @_writing()
    def finish(self) -> Tensor:
        if self._file < 0:
            return torch.empty(0, dtype=torch.uint8)
        self._note(self.count)
        os.close(self._file)
        pixels = torch.from_numpy(np.load(self.path, mmap_mode="r+"))
        return self._decoding.keep(pixels, self.path)


def pixel_store(count: int) -> InMemory | Filed:
    """Where the next `count` images are decoded to."""
    decoding = _decoding.get()
    return InMemory(count) if decoding is None else decoding.part(count)


def in_chunks(
    items: Iterable[Any], work: Callable[[Any], Any]
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Items in chunks with what `work` makes of each, on all cores; the next chunk is begun ahead.

    An error of the items themselves comes after what was before it.
    """
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        chunks, ahead = _chunks(items), None
        for chunk, error in chunks:
            begun = (chunk, pool.map(work, chunk))
            if ahead is not None:
                yield ahead[0], list(ahead[1])
            ahead = begun
            if error is not None:
                yield ahead[0], list(ahead[1])
                raise error
        if ahead is not None:
            yield ahead[0], list(ahead[1])


def _chunks(items: Iterable[Any]) -> Iterator[tuple[list[Any], Exception | None]]:
    chunk: list[Any] = []
    iterator = iter(items)
    while True:
        try:
            chunk.append(next(iterator))
        except StopIteration:
            break
        except Exception as error:
            yield chunk, error
            return
        if len(chunk) == CHUNK:
            yield chunk, None
            chunk = []
    if chunk:
        yield chunk, None
