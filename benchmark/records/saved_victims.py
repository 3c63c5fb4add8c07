"""Victims as they were saved, each file with a digest that is compared when it is read."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.protocol import digest
from benchmark.records.files import remove, sha256, vanished, write_in

if TYPE_CHECKING:
    from torch import Tensor


class DamagedVictim(Exception):
    """A saved victim is not what was written, or not there; `key` says which one."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the saved victim {key[:12]} is damaged")
        self.key = key


@dataclass(frozen=True)
class SavedVictims:
    """The victims of a run's folder, below ``artifacts/victims/KEY/``: weights, attack state,
    triggered images, and in ``victim.json`` facts and digests."""

    root: Path

    def _folder(self, key: str) -> Path:
        return self.root / _place(key)

    def has(self, key: str) -> bool:
        """Whether all of its files are there; whether they are sound is seen when they are read."""
        try:
            files = self._index(key)["files"]
        except DamagedVictim:
            return False
        return all((self._folder(key) / file).is_file() for file in files)

    def save(
        self, key: str, tensors: Mapping[str, Mapping[str, Tensor]], facts: dict[str, Any]
    ) -> None:
        """Save groups of tensors, then the facts, whose presence says that all is there.

        Tensors may be views of one another.
        """
        import torch
        from safetensors.torch import save

        self.discard(key)
        digests = {}
        for group, members in tensors.items():
            # Of its own, since the format refuses tensors that share memory.
            own = {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in members.items()
            }
            content = save(own)
            digests[f"{group}.safetensors"] = sha256(content)
            self._write(key, f"{group}.safetensors", content)
        index = {"facts": facts, "files": digests}
        content = json.dumps(index | {"sha256": digest(index)}, indent=1).encode()
        self._write(key, "victim.json", content)

    def discard(self, key: str) -> None:
        """From now on there is no such victim."""
        for path in (self._folder(key) / "victim.json", *self._folder(key).glob("*.npz")):
            remove(path)

    def keep(self, key: str, name: str, answers: np.ndarray) -> None:
        """Keep what can be asked again of a victim."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, answers=answers)
        self._write(key, f"{name}.npz", buffer.getvalue())

    def kept(self, key: str, name: str) -> np.ndarray | None:
        """What was kept, None where there is nothing or it is damaged: archives have checksums."""
        try:
            with np.load(self._folder(key) / f"{name}.npz", allow_pickle=False) as archive:
                found: np.ndarray = archive["answers"]
                return found
        except Exception:  # of many kinds, where it is damaged
            return None

    def tensors(self, key: str, group: str) -> dict[str, Tensor]:
        """A group of tensors as they were saved.

        Raises:
            DamagedVictim: the files are not what was written.
            StoreError: the run's folder is gone.
        """
        from safetensors.torch import load

        file = f"{group}.safetensors"
        content = self._read(key, file)
        if sha256(content) != self._index(key)["files"].get(file):
            raise DamagedVictim(key)
        return load(content)

    def facts(self, key: str) -> dict[str, Any]:
        """What was noted of a victim; raises as `tensors` does."""
        facts: dict[str, Any] = self._index(key)["facts"]
        return facts

    def _index(self, key: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._read(key, "victim.json"))
            sound = found.pop("sha256") == digest(found)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            sound = False
        if not sound:
            raise DamagedVictim(key)
        return found

    def _read(self, key: str, file: str) -> bytes:
        try:
            return (self._folder(key) / file).read_bytes()
        except OSError as error:
            if not self.root.is_dir():
                raise vanished(self.root) from None
            raise DamagedVictim(key) from error

    def files(self, key: str) -> dict[str, bytes]:
        """All files of a victim, by their place in the folder; raises as `tensors` does."""
        index = self._index(key)
        files = {file: self._read(key, file) for file in index["files"]}
        if any(sha256(files[file]) != digest for file, digest in index["files"].items()):
            raise DamagedVictim(key)
        for path in self._folder(key).glob("*.npz"):
            with suppress(OSError):  # it can be asked again
                files[path.name] = path.read_bytes()
        files["victim.json"] = self._read(key, "victim.json")
        return {_place(key, name): files[name] for name in files}

    def is_sound(self, key: str) -> bool:
        """Whether all files of a victim are what was written."""
        try:
            self.files(key)
        except DamagedVictim:
            return False
        return True

    def _write(self, key: str, file: str, content: bytes) -> None:
        write_in(self.root, _place(key, file), content)


def _place(key: str, file: str = "") -> str:
    return f"artifacts/victims/{key[:32]}/{file}"
