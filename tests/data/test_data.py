"""Where sets are found, and how they are cached."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from small_sets import random_images, write_fashion, write_images, write_parquet

from benchmark import Source, images
from benchmark.data import DataError, load
from benchmark.data.named import FashionMnist, Folder
from benchmark.data.parquet import read_parquet


class Fetched:
    """What torchvision hands out: a sequence of (PIL image, label)."""

    def __init__(self, level: int) -> None:
        self.level = level

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return Image.new("L", (28, 28), self.level), row


def level(source: Source) -> int:
    return int(source.train.pixels[0, 0, 0, 0])


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one name whenever files are decoded."""
    calls: list[str] = []
    for dataset in (FashionMnist, Folder):

        def counted(
            self: Any, files: Any, decode: Callable[..., Source] = dataset.decode
        ) -> Source:
            calls.append(self.name)
            return decode(self, files)

        monkeypatch.setattr(dataset, "decode", counted)
    return calls


@pytest.mark.parametrize("below", ["fashion_mnist", "data/fashion_mnist", "."])
@pytest.mark.parametrize("option", ["data_dir", "variable"])
def test_found_in_a_folder(
    below: str, option: str, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(sets / below, level=7)
    if option == "variable":
        monkeypatch.setenv("POISONGAMES_DATA", str(sets))
    source = load(FashionMnist(), sets if option == "data_dir" else None)
    assert level(source) == 7


def test_order_of_look_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FashionMnist, "fetch", lambda *_: Fetched(level=4))
    assert level(load(FashionMnist())) == 4
    monkeypatch.setattr(FashionMnist, "fetch", lambda *_: pytest.fail("was downloaded before"))
    assert level(load(FashionMnist())) == 4
    write_fashion(tmp_path / "shared/data/fashion_mnist", level=3)
    assert level(load(FashionMnist())) == 3
    write_fashion(tmp_path / "two", level=2)
    monkeypatch.setenv("POISONGAMES_DATA", str(tmp_path / "two"))
    assert level(load(FashionMnist())) == 2
    write_fashion(tmp_path / "one/data/fashion_mnist", level=1)
    assert level(load(FashionMnist(), tmp_path / "one")) == 1
    (tmp_path / "empty").mkdir()
    assert level(load(FashionMnist(), tmp_path / "empty")) == 2


def test_options_that_name_no_folder(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"typo is no folder; --data-dir must name"):
        load(FashionMnist(), sets / "typo")
    monkeypatch.setenv("POISONGAMES_DATA", str(sets / "slip"))
    with pytest.raises(DataError, match=r"slip is no folder; \$POISONGAMES_DATA must name"):
        load(FashionMnist())


def test_decoded_once_and_mapped(sets: Path, tmp_path: Path, decodings: list[str]) -> None:
    write_fashion(sets, level=9)
    first = load(FashionMnist(), sets)
    second = load(FashionMnist(), sets)
    assert decodings == ["fashion_mnist"]
    assert second.test is not None
    assert second.class_names == first.class_names == tuple(f"piece {k}" for k in range(10))
    assert torch.equal(second.train.pixels, torch.full((10, 1, 28, 28), 9, dtype=torch.uint8))
    assert torch.equal(second.test.labels, torch.arange(10))
    cache = tmp_path / "xdg" / "poisongames"
    names = {path.name for path in entries(cache)[0].iterdir()}
    arrays = {f"{split}_{of}.npy" for split in ("train", "test") for of in ("pixels", "labels")}
    assert names == {*arrays, "entry.json"}
    second.train.pixels.zero_()
    assert level(load(FashionMnist(), sets)) == 9, "writing must not reach the cache"
    assert decodings == ["fashion_mnist"]


def test_decoded_anew_when_something_changed(
    sets: Path, cache: Path, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(sets, {"a": random_images(2, 8, 8)})
    assert load(Folder(str(sets)), cache=cache).train.pixels.shape == (2, 1, 8, 8)
    assert load(Folder(str(sets), size=4), cache=cache).train.pixels.shape == (2, 1, 4, 4)
    assert len(decodings) == 2
    os.utime(sets / "a" / "0.png", ns=(1, 1))
    load(Folder(str(sets)), cache=cache)
    assert len(decodings) == 3
    write_images(sets, {"b": random_images(1, 8, 8)})
    assert load(Folder(str(sets)), cache=cache).class_names == ("a", "b")
    assert len(decodings) == 4
    monkeypatch.setattr(Folder, "version", Folder.version + 1)
    load(Folder(str(sets)), cache=cache)
    assert len(decodings) == 5
    load(Folder(str(sets)), cache=cache)
    assert len(decodings) == 5


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train_pixels.npy", lambda path: os.truncate(path, path.stat().st_size - 1)),
        ("test_labels.npy", lambda path: path.write_bytes(b"")),
        ("test_pixels.npy", Path.unlink),
        ("train_pixels.npy", flip_a_byte),
        ("entry.json", Path.unlink),
        ("entry.json", lambda path: path.write_text('{"class_names": ["')),
        ("entry.json", lambda path: path.write_text("[]")),
        ("entry.json", lambda path: path.write_text('{"class_names": [], "arrays": {}}')),
    ],
)
def test_damaged_entry_is_decoded_anew(
    name: str, damage: Callable[[Path], Any], sets: Path, cache: Path, decodings: list[str]
) -> None:
    write_fashion(sets, level=9)
    load(FashionMnist(), sets, cache)
    time.sleep(0.02)  # file times may tick slowly
    damage(entries(cache)[0] / name)
    for _ in range(2):
        source = load(FashionMnist(), sets, cache)
        assert source.test is not None
        assert (source.train.pixels == 9).all()
        assert torch.equal(source.test.labels, torch.arange(10))
        assert len(source.class_names) == 10
    assert len(decodings) == 2


def in_process(work: Callable[[], Any]) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_killed_run_leaves_nothing_half_done(
    at: str, sets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(sets, level=9)
    with monkeypatch.context() as patched:
        patched.setattr(os, at, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        process = in_process(lambda: load(FashionMnist(), sets, cache))
        process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert [path.suffix for path in entries(cache)] == [".part"]
    assert level(load(FashionMnist(), sets, cache)) == 9
    assert [path.suffix for path in entries(cache)] == [""]


def test_processes_at_once_decode_once(
    sets: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(sets, level=9)
    log, decode = tmp_path / "log", FashionMnist.decode

    def slow(self: FashionMnist, files: Any) -> Source:
        with log.open("a") as file:
            file.write("decoded\n")
        time.sleep(0.3)
        return decode(self, files)

    monkeypatch.setattr(FashionMnist, "decode", slow)

    def work() -> None:
        assert level(load(FashionMnist(), sets, cache)) == 9

    processes = [in_process(work) for _ in range(3)]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "decoded\n"


def test_failed_decoding_leaves_nothing(sets: Path, cache: Path) -> None:
    write_images(sets, {"a": random_images(1, 4, 4)})
    (sets / "a" / "1.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(DataError, match="not an image"):
            load(Folder(str(sets)), cache=cache)
        assert entries(cache) == []


def test_cache_that_cannot_be_written(sets: Path, tmp_path: Path) -> None:
    write_fashion(sets)
    (tmp_path / "xdg").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"^the cache \S+/xdg/poisongames cannot be written \(Not"):
        load(FashionMnist(), sets)


def test_full_disk(sets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion(sets)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"\(No space left on device\); .*XDG_CACHE_HOME"):
            load(FashionMnist(), sets, cache)
    assert entries(cache) == []


def mapped(what: str, access: str) -> bool:
    """Whether a file named like `what` is mapped into this process with the given access."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return any(what in line and line.split()[1] == access for line in lines)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_large_set_is_never_resident(
    sets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = random_images(9, 8, 8, 3)
    file = write_parquet(sets / "train-0.parquet", pixels, [0, 1, 2] * 3, row_group_size=4)
    small, _, _ = read_parquet([file])
    assert not mapped("(deleted)", "rw-s"), "what fits is kept in memory"
    source = load(Folder(str(sets)), cache=cache)
    assert mapped("train_pixels.npy", "rw-p"), "a small array may be written to, in memory"
    del source
    monkeypatch.setattr(images, "RESIDENT_BYTES", 1000)
    decoded, _, _ = read_parquet([file])
    assert mapped("(deleted)", "rw-s"), "decoded into an unnamed file"
    assert torch.equal(decoded, small)
    del decoded
    source = load(Folder(str(sets)), cache=cache)
    assert mapped("train_pixels.npy", "r--s"), "a large one may not"
    assert torch.equal(source.train.pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert source.train.subset(torch.tensor([8])).labels.tolist() == [2]


def test_set_larger_than_the_machine(sets: Path, cache: Path, decodings: list[str]) -> None:
    write_images(sets, {"a": random_images(1, 4, 4)})
    load(Folder(str(sets)), cache=cache)
    entry = entries(cache)[0]
    side, memory = 4096, psutil.virtual_memory().total
    count = 2 * memory // side**2
    # The file is sparse: as large as it says, without taking room on the disk.
    shape = (count, 1, side, side)
    huge = np.lib.format.open_memmap(entry / "train_pixels.npy", "w+", np.uint8, shape)
    huge[-1, 0, -1, -1] = 77
    huge.flush()
    del huge
    np.save(entry / "train_labels.npy", np.zeros(count, dtype=np.int64))
    marker = json.loads((entry / "entry.json").read_text())
    for name in marker["arrays"]:
        stat = (entry / name).stat()
        marker["arrays"][name] = [stat.st_size, stat.st_mtime_ns]
    (entry / "entry.json").write_text(json.dumps(marker))
    source = load(Folder(str(sets)), cache=cache)
    assert decodings == ["folder"]
    assert source.train.pixels.nbytes > memory
    assert source.train.subset(torch.tensor([count - 1])).pixels[0, 0, -1, -1] == 77
    (entry / "train_pixels.npy").unlink()
