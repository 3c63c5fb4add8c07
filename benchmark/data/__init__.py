"""Loads data sets: found on disk or fetched, decoded once, mapped into memory ever after."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmark import images
from benchmark.api import Dataset, Source
from benchmark.data.decoding import DecodingFolder, Progress, Unwritten, decoding_at
from benchmark.errors import UserError
from benchmark.images import ImageSet
from benchmark.protocol import digest
from benchmark.specs import identity
from benchmark.texts import shown

__all__ = ["DataError", "load", "sha256", "summary"]

#: Where the sets lie on machines that come with them, from the current folder.
_NEIGHBOUR = Path("../shared/data")

#: Written last into a cache entry: names the classes, and the arrays as they were written.
_MARKER = "entry.json"

#: Folder of images that are being decoded.
_DECODED = "decoded"


class DataError(UserError, ValueError):
    """A data set that is missing, damaged or not what it should be: one sentence per problem."""

    def __str__(self) -> str:
        problems = [shown(str(problem)) for problem in self.args]  # names of files are in them
        if len(problems) == 1:
            return problems[0]
        lines = "".join(f"\n  - {problem}" for problem in problems)
        return f"{len(problems)} problems with the data:{lines}"


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/poisongames or ~/.cache/poisongames."""
    if variable := os.environ.get("XDG_CACHE_HOME"):
        return Path(variable) / "poisongames"
    try:
        return Path.home() / ".cache" / "poisongames"
    except RuntimeError:  # no $HOME, and a user whom nobody knows
        raise DataError(
            "there is no home folder to keep decoded data in; set $XDG_CACHE_HOME to a folder"
        ) from None


def load(
    dataset: Dataset,
    data_dir: Path | None = None,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Source:
    """Find, decode and cache a data set.

    A set that needs files is looked for in `data_dir`, in the folder $POISONGAMES_DATA, in
    ``../shared/data``, among what was downloaded before, and is downloaded at last. Its
    decoded arrays are kept in the cache and mapped into memory, so a set may be larger than
    memory; do not write to them. Changed files are decoded anew, and so is a damaged cache entry.
    A decoding that was killed goes on from where it was.

    Args:
        data_dir: holds ``<name>/`` or ``data/<name>/``, a hyphen in the name written as an
            underscore, or is itself the folder of the set.
        cache: where decoded arrays are kept; by default $XDG_CACHE_HOME/poisongames, or
            ~/.cache/poisongames.
        progress: called with (images decoded, images in all) of each part; never where there is
            nothing to decode.

    Raises:
        DataError: missing, damaged or wrong files, a failed download, or a cache that cannot
            be written.
    """
    files = dataset.files(_folders(data_dir))
    if files is not None and not files:
        return dataset.decode(files)
    if cache is None:
        cache = cache_folder()
    entry = cache / f"{dataset.name}-{_fingerprint(dataset, files or ())[:16]}"
    return _open(entry) or _fill(entry, dataset, files, progress)


def sha256(source: Source) -> str:
    """SHA-256 over all pixels and labels of a data set, however it was stored."""
    sha = hashlib.sha256()
    for part in filter(None, (source.train, source.test)):
        for array in (part.pixels, part.labels):
            sha.update(f"{array.dtype}|{tuple(array.shape)}|".encode())
            for rows in array.split(4096):
                sha.update(rows.contiguous().numpy().data)
    return sha.hexdigest()


def summary(source: Source) -> list[str]:
    """What a data set holds, in lines: images, sizes, colours, classes, what was left out."""
    shape = source.train.pixels.shape[1:]
    colour = "grey" if shape[0] == 1 else "RGB"
    there = f"{len(source.train):,} images"
    if source.test is not None:
        there = f"{len(source.train):,} training and {len(source.test):,} test images"
    counts = torch.bincount(source.train.labels, minlength=len(source.class_names))
    low, high = int(counts.min()), int(counts.max())
    each = f"{low:,} to {high:,}" if low < high else f"{low:,}"
    names = ", ".join(source.class_names[:10]) + (", …" if len(source.class_names) > 10 else "")
    return [
        f"{there} of {shape[1]}x{shape[2]} pixels, {colour}",
        f"{len(source.class_names)} classes of {each} images to learn from: {names}",
        *source.notes,
    ]


def _folders(data_dir: Path | None) -> list[Path]:
    folders = []
    if data_dir is not None:
        folders.append(_existing(data_dir, "--data-dir"))
    if variable := os.environ.get("POISONGAMES_DATA"):
        folders.append(_existing(Path(variable), "$POISONGAMES_DATA"))
    if _NEIGHBOUR.is_dir():
        folders.append(_NEIGHBOUR)
    return folders


def _existing(folder: Path, option: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; {option} must name the one that holds data sets")
    return folder


def _fingerprint(dataset: Dataset, files: Sequence[Path]) -> str:
    """Changes with the set, its version and parameters, and with any of its files."""
    sources = []
    for file in files:
        try:
            # Not resolve(), which has an error of its own for a link to itself.
            sources.append([os.path.realpath(file), *_stamp(file)])
        except OSError as error:
            raise DataError(
                f"{file} cannot be read ({error.strerror}); restore or remove it"
            ) from error
    return digest([identity(dataset), sources])


def _open(entry: Path) -> Source | None:
    """Map a cache entry into memory, or return None where there is no sound one."""
    try:
        marker = json.loads((entry / _MARKER).read_text())
        arrays = {}
        for name, stamp in marker["arrays"].items():
            if _stamp(entry / name) != stamp:
                return None
            arrays[name] = _map(entry / name)
        parts = [
            ImageSet(arrays[f"{split}_pixels.npy"], arrays[f"{split}_labels.npy"])
            for split in ("train", "test")
            if f"{split}_pixels.npy" in arrays
        ]
        names, notes = tuple(marker["class_names"]), tuple(marker.get("notes", ()))
        return Source(parts[0], parts[1] if parts[1:] else None, names, notes)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _map(path: Path) -> torch.Tensor:
    """Map an array into memory; writing to it changes a copy, or is forbidden where it is large."""
    # Linux refuses a copy-on-write mapping that could outgrow the memory, a read-only one never.
    large = path.stat().st_size > images.RESIDENT_BYTES
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.load(path, mmap_mode="r" if large else "c"))


def _fill(
    entry: Path, dataset: Dataset, files: Sequence[Path] | None, progress: Progress
) -> Source:
    with _workshop(entry) as work:
        # Another process may have filled the entry while this one waited for it.
        source = _open(entry)
        if source is None:
            try:
                with decoding_at(work / _DECODED, progress) as decoding:
                    source = dataset.download(work) if files is None else dataset.decode(files)
            except Unwritten as error:
                raise _unwritable(entry.parent, error) from error
            except OSError as error:
                # What decodes may write into the same folder, too.
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _unwritable(entry.parent, error) from error
                if error.filename is None:  # it is not about a file, such as a broken pipe
                    raise
                why = error.strerror or error
                raise DataError(
                    f"{error.filename} cannot be read ({why}); permit or restore it"
                ) from error
            _write(source, work / "entry", entry, decoding)
        return _open(entry) or source


@contextmanager
def _workshop(entry: Path) -> Iterator[Path]:
    """Keep other processes from filling `entry`, and lend a folder beside it.

    It is empty, but for what an earlier run had decoded before it was killed.
    """
    work = entry.with_name(f"{entry.name}.part")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = entry.with_name(f"{entry.name}.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Whoever holds the lock is alone here: what there is was left by a killed run.
        for left in work.glob("*"):
            if left.name != _DECODED:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        work.mkdir(exist_ok=True)
    except OSError as error:
        raise _unwritable(entry.parent, error) from error
    with lock:
        try:
            yield work
        except KeyboardInterrupt:
            raise  # as where it is killed, what was decoded is kept
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)


def _write(source: Source, folder: Path, entry: Path, decoding: DecodingFolder) -> None:
    """Write the decoded arrays into `folder` and move it to `entry` when all is there."""
    arrays = {"train_pixels": source.train.pixels, "train_labels": source.train.labels}
    if source.test is not None:
        arrays |= {"test_pixels": source.test.pixels, "test_labels": source.test.labels}
    try:
        folder.mkdir()
        for name, array in arrays.items():
            if (decoded := decoding.file_of(array)) is not None:
                os.replace(decoded, folder / f"{name}.npy")
                continue
            with (folder / f"{name}.npy").open("wb") as file:
                np.save(file, array.numpy())
                file.flush()
                os.fsync(file.fileno())
        stamps = {path.name: _stamp(path) for path in folder.iterdir()}
        marker = {"class_names": source.class_names, "notes": source.notes, "arrays": stamps}
        (folder / _MARKER).write_text(json.dumps(marker))
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(folder, entry)
    except OSError as error:
        raise _unwritable(entry.parent, error) from error


def _stamp(path: Path) -> list[int]:
    """Size and time of the last change: tells a damaged array without reading all of it."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _unwritable(cache: Path, error: OSError) -> DataError:
    return DataError(
        f"the cache {cache} cannot be written ({error.strerror}); make that possible, or set "
        "$XDG_CACHE_HOME to another folder"
    )
