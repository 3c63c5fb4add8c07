"""Many images are decoded on all cores, outlive a kill, and stay out of memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from small_sets import random_images, write_images

from benchmark import images
from benchmark.data import DataError, decoding, formats, load, sha256
from benchmark.data.named import Folder
from benchmark.games.experiment import Experiment
from benchmark.protocol import Protocol
from benchmark.registry import Registry

CLASSES, EACH, SIDE = 4, 9, 96
COUNT = CLASSES * EACH


@pytest.fixture
def folder(sets: Path) -> Folder:
    """A small folder of images that are too large for small networks."""
    pixels = random_images(COUNT, SIDE, SIDE, 3)
    write_images(sets, {f"class {k}": pixels[EACH * k : EACH * (k + 1)] for k in range(CLASSES)})
    return Folder(str(sets))


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few images at once, each kept as soon as it is written, as megabytes of them are."""
    monkeypatch.setattr(decoding, "CHUNK", 4)
    monkeypatch.setattr(decoding, "SYNCED_BYTES", 1)


def decoded(monkeypatch: pytest.MonkeyPatch, then: Callable[[int], None]) -> list[str]:
    """Names of images in the order in which they are decoded; `then` is told how many these are."""
    found: list[str] = []
    decode = formats._decode

    def noted(image: Any, how: Any) -> Any:
        found.append("/".join(Path(image).parts[-2:]))
        then(len(found))
        return decode(image, how)

    monkeypatch.setattr(formats, "_decode", noted)
    return found


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_decoding_that_was_ended_goes_on(
    folder: Folder, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: int
) -> None:
    undisturbed = sha256(load(folder, cache=tmp_path / "other"))

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        decoded(monkeypatch, lambda many: os.kill(os.getpid(), end) if many == 22 else None)
        load(folder, cache=cache)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(30)
    assert process.exitcode not in (0, None)
    (left,) = cache.glob("*.part")
    done = int((left / "decoded" / "0.done").read_text())
    assert 0 < done < COUNT

    again, told = decoded(monkeypatch, lambda many: None), list[tuple[int, int]]()
    source = load(folder, cache=cache, progress=lambda *now: told.append(now))
    names = [f"class {k}/{row}.png" for k in range(CLASSES) for row in range(EACH)]
    assert sorted(again) == sorted(names[done:])
    assert told[0] == (done, COUNT)
    assert told[-1] == (COUNT, COUNT)
    assert sha256(source) == undisturbed
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [""]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("note", ["", "99", "-1", "4"])
def test_notes_that_do_not_fit_the_file_are_not_believed(
    folder: Folder, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str
) -> None:
    """As after a loss of power, or where another set lies under the name."""
    undisturbed = sha256(load(folder, cache=tmp_path / "other"))
    (entry,) = (path for path in (tmp_path / "other").iterdir() if path.is_dir())
    place = cache / f"{entry.name}.part" / "decoded"
    place.mkdir(parents=True)
    np.save(place / "0.npy", np.zeros((COUNT - 1, 3, SIDE, SIDE), np.uint8))
    (place / "0.done").write_text(note)
    assert sha256(load(folder, cache=cache)) == undisturbed


def test_all_cores_decode(folder: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images wait for one another."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    meeting = threading.Barrier(3, timeout=20)
    decoded(monkeypatch, lambda many: meeting.wait() and None)
    assert len(load(folder, cache=cache).train) == COUNT


@pytest.mark.usefixtures("small_steps")
def test_faults_in_all_chunks_are_told_at_once(folder: Folder, cache: Path) -> None:
    for k in (0, 3):
        (folder.root / f"class {k}" / "5.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"class 0/5\.png .*\(1 more like it: .*class 3/5\.png\)"):
        load(folder, cache=cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_large_set_is_trained_on_from_files(
    folder: Folder,
    cache: Path,
    tiny: Protocol,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither what is decoded nor the splits are held in memory; training sees the same."""
    splits = {"train": 20, "trusted": 8, "auxiliary": 2, "validation": 2, "test": 4}
    protocol = tiny.model_copy(
        update={
            "splits": tiny.splits.model_copy(update=splits),
            "architecture": "vit:layers=1,width=16,heads=1",
        }
    )

    def trained() -> dict[str, torch.Tensor]:
        experiment = Experiment(protocol, load(folder, cache=cache), registry)
        model = experiment.new_model(experiment.rng("model"))
        experiment.trainer().fit(model, experiment.splits.train, experiment.rng("fit"))
        return model.state_dict()

    resident = trained()
    monkeypatch.setattr(images, "RESIDENT_BYTES", 1000)
    mapped = trained()
    assert all(torch.equal(mapped[name], resident[name]) for name in resident)
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "empty_bytes", lambda *_: pytest.fail("held in memory"))
        other = cache.with_name("another cache")
        assert len(load(folder, cache=other).train) == COUNT


@pytest.mark.parametrize(("module", "name"), [(os, "pwrite"), (os, "fdatasync"), (Path, "mkdir")])
def test_disk_that_is_full_while_images_are_decoded(
    module: Any, name: str, folder: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(module, name)

    def full(first: Any, *rest: Any, **options: Any) -> Any:
        if name != "mkdir" or first.name == "decoded":
            raise OSError(28, "No space left on device")
        return real(first, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, full)
        with pytest.raises(DataError, match=r"^the cache .* written \(No space left on device\)"):
            load(folder, cache=cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_what_cannot_be_read_is_no_fault_of_the_cache(
    folder: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(error: OSError) -> None:
        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(Folder, "decode", fail)
        load(folder, cache=cache)

    with pytest.raises(DataError, match=r"^a/0.png cannot be read \(Permission denied\); permit"):
        decode(PermissionError(13, "Permission denied", "a/0.png"))
    with pytest.raises(TimeoutError, match="it took too long"):
        decode(TimeoutError("it took too long"))
