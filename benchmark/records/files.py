"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from benchmark.errors import UserError


class StoreError(UserError, RuntimeError):
    """A file of the run that cannot be written or read; `size` are the bytes that had no room."""

    size = 0


def write_whole(path: Path, content: bytes) -> None:
    """Write so that a kill at any instant leaves the old file or the new one.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
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
        refused = unwritable(path, error.strerror)
        refused.size = len(content)
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


def unwritable(path: Path, why: str | None) -> StoreError:
    return StoreError(
        f"cannot write {path}: {why}; make room or choose another folder, "
        "then run the same command to continue"
    )


def vanished(root: Path) -> StoreError:
    return StoreError(f"the folder {root} has vanished; run the same command to begin anew")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
