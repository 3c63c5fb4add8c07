"""Files of a run: records, evidence and artifacts, each written whole or not at all."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmark.records.files import (
    StoreError,
    read_plain,
    remove,
    sha256,
    unwritable,
    vanished,
    write_in,
)
from benchmark.records.record import Evidence, Record
from benchmark.records.saved_victims import SavedVictims

#: Where a run's folder keeps what tasks make.
_MADE = ("records", "evidence", "artifacts/victims", "artifacts/records")


@dataclass(frozen=True)
class Store:
    """A run's folder.

    - ``records/NAME.json``: one per finished cell.
    - ``evidence/NAME.npz``: predictions and scores behind it.
    - ``artifacts/``: what can be deleted and is then made again. ``victims/KEY/`` holds weights,
      attack state and triggered images, with a digest of each; ``records/NAME.sha256`` the digest
      of a record as it was written; ``deaths/KEY.txt`` how processes died that played a task.
    """

    root: Path

    @property
    def victims(self) -> SavedVictims:
        return SavedVictims(self.root)

    def _write(self, path: Path, content: bytes) -> None:
        write_in(self.root, path.relative_to(self.root).as_posix(), content)

    def record(self, name: str) -> Path:
        """Where the record of a cell is, or would be."""
        return self.root / "records" / f"{name}.json"

    def _digest(self, name: str) -> Path:
        return self.root / "artifacts" / "records" / f"{name}.sha256"

    def as_written(self, name: str, content: bytes) -> bool:
        """Whether this is what a record was when it was saved, as far as that was noted."""
        noted = self._digest(name)
        try:
            return not noted.is_file() or noted.read_text(errors="replace") == sha256(content)
        except OSError:
            return False

    def save_record(self, name: str, record: Record) -> None:
        content = record.to_json().encode()
        # Killed between the two, the digest is an older one, and the cell is played again.
        self._write(self.record(name), content)
        self._write(self._digest(name), sha256(content).encode())

    def begin(self) -> None:
        """Make the folder.

        Raises:
            StoreError: that cannot be done, or nothing can be written there.
        """
        try:
            for part in _MADE:
                (self.root / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.root, error.strerror) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise unwritable(self.root, "no permission, or a read-only disk")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder: one would take the other's files for damaged.

        Raises:
            StoreError: another run plays there.
        """
        try:
            folder = os.open(self.root, os.O_RDONLY)
        except OSError as error:
            raise vanished(self.root) from error
        try:
            with suppress(OSError):  # of a disk that has no locks
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise StoreError(
                        f"another run plays into {self.root}; wait for its end, or choose another "
                        "folder with --out"
                    ) from None
            yield
        finally:
            # Processes that were forked meanwhile have the folder open, too.
            with suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_UN)
            os.close(folder)

    def works(self, size: int) -> bool:
        """Whether this process can write so many bytes into the folder."""
        probe = self.root / "artifacts" / f".{uuid4().hex}.tmp"
        try:
            self._write(probe, bytes(size))
            probe.unlink()
        except (StoreError, OSError):
            return False
        return True

    def claim(self, data_sha256: str) -> None:
        """Note which pixels this folder's cells are played on.

        Raises:
            StoreError: cells were played on others, or the folder cannot be written.
        """
        noted = self.claimed()
        there = noted or (self._first() or {}).get("data_sha256")
        if there not in (None, data_sha256):
            raise StoreError(
                f"{self.root} was played on the images {there[:12]}, the data set now has "
                f"{data_sha256[:12]}; restore the images or choose another folder with --out"
            )
        if noted is None:
            self._write(self._claim, f"{data_sha256}\n{data_sha256}\n".encode())

    @property
    def _claim(self) -> Path:
        return self.root / "artifacts" / "data.sha256"

    def claimed(self) -> str | None:
        """The digest that was noted, twice; None where none was or where it is damaged."""
        noted = self._claim.read_text(errors="replace") if self._claim.is_file() else ""
        twice = re.fullmatch(r"([0-9a-f]{64})\n\1\n", noted)
        return twice[1] if twice else None

    def keep_to(self, name: str, sha256: str) -> None:
        """See that the folder's cells are those of one protocol, since a board is of one.

        Raises:
            StoreError: they are of another one, maybe of the same name before it was changed.
        """
        there = (self._first() or {}).get("protocol")
        if there is not None and there["sha256"] != sha256:
            raise StoreError(
                f"{self.root} has records of {there['name']} {there['sha256'][:12]}, and this is "
                f"{name} {sha256[:12]}; choose another folder with --out"
            )

    def _first(self) -> dict[str, Any] | None:
        """What the first record says that is as it was written, None where there is none."""
        for path in sorted((self.root / "records").glob("*.json")):
            # One that is damaged is played again.
            with suppress(OSError, StoreError, ValueError, KeyError, TypeError):
                if self.as_written(path.stem, content := read_plain(path)):
                    said: dict[str, Any] = json.loads(content)
                    if said["data_sha256"] and said["protocol"]["sha256"]:
                        return said
        return None

    def save_evidence(self, name: str, arrays: Mapping[str, np.ndarray]) -> Evidence:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return self._save(f"{name}.npz", buffer.getvalue())

    def save_picture(self, name: str, png: bytes) -> Evidence:
        return self._save(f"{name}.png", png)

    def _save(self, file: str, content: bytes) -> Evidence:
        self._write(self.root / "evidence" / file, content)
        return Evidence(file=file, sha256=sha256(content))

    def note_death(self, key: str, line: str) -> int:
        """Note that a process died while it played a task; returns how often one did."""
        path = self._deaths(key)
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        self._write(path, "".join(f"{one}\n" for one in [*lines, line]).encode())
        return len(lines) + 1

    def forget_deaths(self, key: str) -> None:
        remove(self._deaths(key))

    def _deaths(self, key: str) -> Path:
        return self.root / "artifacts" / "deaths" / f"{key[:32]}.txt"

    def made(self, known: Collection[str]) -> dict[str, bytes]:
        """Files that tasks made, by their place in the folder, but for those that are known."""
        found = (path for part in _MADE for path in (self.root / part).rglob("*"))
        places = {path.relative_to(self.root).as_posix(): path for path in found if _whole(path)}
        return {place: path.read_bytes() for place, path in places.items() if place not in known}

    def take(self, files: Mapping[str, bytes]) -> None:
        """Write files that tasks made elsewhere; those that say that all is there come last."""
        for place in sorted(files, key=lambda place: (place.endswith(".json"), place)):
            self._write(self.root / place, files[place])

    def clear(self) -> None:
        """Remove all files that tasks made."""
        for part in _MADE:
            shutil.rmtree(self.root / part, ignore_errors=True)


def _whole(path: Path) -> bool:
    """Whether this is a file that was written to its end."""
    return path.is_file() and not path.name.endswith(".tmp")
