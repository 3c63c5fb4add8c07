"""Files of a run: records, evidence and artifacts, each written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from benchmark.errors import UserError
from benchmark.records.record import Evidence, Record

if TYPE_CHECKING:
    from torch import Tensor


class StoreError(UserError, RuntimeError):
    """A file of the run that cannot be written or read."""


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
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path}: {error.strerror}; make room or choose another folder, "
            "then run the same command to continue"
        ) from error


@dataclass(frozen=True)
class Store:
    """A run's folder.

    - ``records/NAME.json``: one per finished cell.
    - ``evidence/NAME.npz``: predictions and scores behind it.
    - ``artifacts/victims/KEY/``: weights, attack state and triggered images; they can be
      deleted and are then made again.
    """

    root: Path

    def _record(self, name: str) -> Path:
        return self.root / "records" / f"{name}.json"

    def has_record(self, name: str) -> bool:
        return self._record(name).is_file()

    def save_record(self, name: str, record: Record) -> None:
        write_whole(self._record(name), record.to_json().encode())

    def claim(self, data_sha256: str) -> None:
        """Note which pixels this folder's cells are played on.

        Raises:
            StoreError: cells were played on others, or the folder cannot be written.
        """
        path = self.root / "artifacts" / "data.sha256"
        noted = path.read_text() if path.is_file() else None
        there = noted or self._played_on()
        if there not in (None, data_sha256):
            raise StoreError(
                f"{self.root} was played on the images {there[:12]}, the data set now has "
                f"{data_sha256[:12]}; restore the images or choose another folder with --out"
            )
        if noted is None:
            write_whole(path, data_sha256.encode())

    def _played_on(self) -> str | None:
        """The digest of the images that the first record names, None where there is none."""
        first = next(iter(sorted((self.root / "records").glob("*.json"))), None)
        if first is None:
            return None
        try:
            found: str = json.loads(first.read_bytes())["data_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{first} is no record: {error}; remove it") from None
        return found

    def save_evidence(self, name: str, arrays: Mapping[str, np.ndarray]) -> Evidence:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return self._save(f"{name}.npz", buffer.getvalue())

    def save_picture(self, name: str, png: bytes) -> Evidence:
        return self._save(f"{name}.png", png)

    def _save(self, file: str, content: bytes) -> Evidence:
        write_whole(self.root / "evidence" / file, content)
        return Evidence(file=file, sha256=hashlib.sha256(content).hexdigest())

    def _victim(self, key: str) -> Path:
        return self.root / "artifacts" / "victims" / key[:32]

    def has_victim(self, key: str) -> bool:
        """Whether all of it is there; answers are the youngest part."""
        folder = self._victim(key)
        return all((folder / f).is_file() for f in ("victim.json", "answers.safetensors"))

    def save_victim(
        self, key: str, tensors: Mapping[str, Mapping[str, Tensor]], facts: dict[str, Any]
    ) -> None:
        """Save groups of tensors, then the facts, whose presence says that all is there."""
        from safetensors.torch import save

        for group, members in tensors.items():
            content = save({name: tensor.cpu().contiguous() for name, tensor in members.items()})
            write_whole(self._victim(key) / f"{group}.safetensors", content)
        write_whole(self._victim(key) / "victim.json", json.dumps(facts, indent=1).encode())

    def victim_tensors(self, key: str, group: str) -> dict[str, Tensor]:
        from safetensors.torch import load

        return load((self._victim(key) / f"{group}.safetensors").read_bytes())

    def victim_facts(self, key: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self._victim(key) / "victim.json").read_text())
        return facts
