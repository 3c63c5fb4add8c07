"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from benchmark.errors import UserError

#: What a disk says that is full, read-only, broken or away.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)


class StoreError(UserError, RuntimeError):
    """A file of the run that cannot be written or read.

    Attributes:
        size: bytes that could not be written, for another reason than those of `DISK`.
    """

    size = 0


def write_whole(path: Path, content: bytes) -> None:
    """Write so that a kill at any instant leaves the old file or the new one.

    Raises:
        StoreError: the disk is full, the folder cannot be written, or a folder is in its place.
    """
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if path.is_dir():
            raise in_its_place(path) from error
        refused = unwritable(path, error.strerror)
        refused.size = 0 if error.errno in DISK else len(content)
        raise refused from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_in(root: Path, place: str, content: bytes) -> None:
    """Write a file of a run's folder; raises as `write_whole` does, and where the folder is gone.

    Args:
        place: below the folder, with slashes.
    """
    if not root.is_dir():
        raise vanished(root)
    write_whole(root / place, content)


def read_plain(path: Path) -> bytes:
    """The content of a file.

    Raises:
        StoreError: it is a folder, a link to nothing, or a pipe, at which one would wait for ever.
    """
    if path.is_dir():
        raise in_its_place(path)
    if not path.is_file():
        raise StoreError(f"{path} is no plain file; remove it, then run the same command again")
    return path.read_bytes()


def remove(path: Path) -> None:
    """Remove a file that may be gone; raises as `write_whole` does."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if path.is_dir():
            raise in_its_place(path) from error
        raise unwritable(path, error.strerror) from error


def in_its_place(path: Path) -> StoreError:
    return StoreError(
        f"{path} is a folder, where a file belongs; remove this folder, then run the same command "
        "to continue"
    )


def unwritable(path: Path, why: str | None) -> StoreError:
    return StoreError(
        f"cannot write {path}: {why}; make room or choose another folder, "
        "then run the same command to continue"
    )


def vanished(root: Path) -> StoreError:
    return StoreError(f"the folder {root} has vanished; run the same command to begin anew")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
