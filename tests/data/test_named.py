"""The sets that come with the benchmark, fetched by stand-ins for the network."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from small_sets import random_images, write_parquet
from torchvision.datasets import CIFAR10, GTSRB, FashionMNIST

from benchmark import Dataset
from benchmark.data import DataError, load
from benchmark.data.named import Cifar10, Digits, FashionMnist, Folder, Gtsrb
from benchmark.registry import Registry, RegistryError

#: The real sets, where this checkout has them beside it.
SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_registered_by_name() -> None:
    registry = Registry()
    specs = ["digits", "cifar10", "fashion_mnist", "gtsrb", "folder:path=x,size=8"]
    created = [registry.create(Dataset, spec) for spec in specs]
    assert created == [Digits(), Cifar10(), FashionMnist(), Gtsrb(), Folder("x", 8)]
    with pytest.raises(RegistryError, match="size=-1 is not allowed"):
        registry.create(Dataset, "folder:path=x,size=-1")
    with pytest.raises(RegistryError, match=r"size=1000000 is not allowed: .* 2048"):
        registry.create(Dataset, "folder:path=x,size=1000000")


def test_digits(tmp_path: Path) -> None:
    source = load(Digits())
    scans, labels = load_digits(return_X_y=True)
    assert source.test is None
    assert source.class_names == tuple("0123456789")
    assert source.train.pixels.shape == (1797, 1, 16, 16)
    assert source.train.pixels.dtype == torch.uint8
    assert source.train.labels.dtype == torch.int64
    assert source.train.labels.tolist() == labels.tolist()
    # An independent resize of the unrounded scans is off by rounding only.
    unrounded = torch.from_numpy(scans).reshape(-1, 1, 8, 8) * (255 / 16)
    expected = torch.nn.functional.interpolate(unrounded, size=16, mode="bilinear")
    assert (source.train.pixels - expected).abs().max() <= 1.5
    assert source.train.pixels.max() == 255
    assert not list(tmp_path.glob("xdg/*")), "digits need no cache"


@pytest.mark.parametrize("dataset", [Cifar10(), FashionMnist(), Gtsrb()])
def test_failed_download(dataset: Dataset, cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(dataset, cache=cache)
    message, folder = str(caught.value), dataset.name.replace("-", "_")
    assert message.startswith(f"{dataset.name} is in no folder that was given and could not be ")
    assert "no route to host" in message
    assert f"into a folder {folder} and name the folder above with --data-dir or " in message
    assert "$POISONGAMES_DATA" in message
    assert "\n" not in message
    assert not any(path.is_dir() for path in cache.iterdir()), "nothing half done is left"


def test_download_cifar10(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The archive that torchvision would unpack, in its own format, with fewer images.
    pixels = random_images(20, 3, 32, 32)
    labels = [row % 10 for row in range(20)]
    names = [f"class {label}" for label in range(10)]
    files = {
        "data_batch_1": {"data": pixels[:15].reshape(15, -1), "labels": labels[:15]},
        "test_batch": {"data": pixels[15:].reshape(5, -1), "labels": labels[15:]},
        "batches.meta": {"label_names": names},
    }
    packed = {name: pickle.dumps(content) for name, content in files.items()}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in packed.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    downloads = []

    def download(self: CIFAR10) -> None:
        folder = Path(self.root) / self.base_folder
        folder.mkdir(exist_ok=True)
        for name, content in packed.items():
            (folder / name).write_bytes(content)
        downloads.append(folder)

    monkeypatch.setattr(CIFAR10, "download", download)
    for _ in range(2):
        source = load(Cifar10(), cache=cache)
        assert source.test is not None
        assert torch.equal(source.train.pixels, torch.from_numpy(pixels[:15]))
        assert torch.equal(source.test.pixels, torch.from_numpy(pixels[15:]))
        assert source.train.labels.tolist() == labels[:15]
        assert source.test.labels.tolist() == labels[15:]
        assert source.class_names == tuple(names)
    assert len(downloads) == 2, "one per split, by the first load alone"
    assert not any(folder.exists() for folder in downloads), "what was decoded is removed"


def test_download_fashion_mnist(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = random_images(20, 28, 28), np.arange(20, dtype=np.uint8) % 10

    def download(self: FashionMNIST) -> None:
        folder = Path(self.raw_folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in (("train", slice(0, 15)), ("t10k", slice(15, 20))):
            count = len(labels[rows])
            sizes = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
            (folder / f"{name}-images-idx3-ubyte").write_bytes(sizes + pixels[rows].tobytes())
            sizes = np.array([0x801, count], dtype=">i4").tobytes()
            (folder / f"{name}-labels-idx1-ubyte").write_bytes(sizes + labels[rows].tobytes())

    monkeypatch.setattr(FashionMNIST, "download", download)
    source = load(FashionMnist(), cache=cache)
    assert source.test is not None
    assert torch.equal(source.train.pixels, torch.from_numpy(pixels[:15, None]))
    assert torch.equal(source.test.pixels, torch.from_numpy(pixels[15:, None]))
    assert source.test.labels.tolist() == labels[15:].tolist()
    assert source.class_names[0] == "T-shirt/top"
    assert len(source.class_names) == 10


def test_download_gtsrb(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: GTSRB) -> None:
        folder = self._target_folder
        rows = ["Filename;ClassId"]
        for label in range(43):
            sign = Image.new("RGB", (30 + label, 50), (5 * label, 0, 255))
            if self._split == "train":
                (folder / f"{label:05d}").mkdir(parents=True)
                sign.save(folder / f"{label:05d}" / "00000.ppm")
            else:
                folder.mkdir(parents=True, exist_ok=True)
                sign.save(folder / f"{label:05d}.ppm")
                rows.append(f"{label:05d}.ppm;{42 - label}")
        (self._base_folder / "GT-final_test.csv").write_text("\n".join(rows))

    monkeypatch.setattr(GTSRB, "download", download)
    source = load(Gtsrb(), cache=cache)
    assert source.test is not None
    assert source.train.pixels.shape == source.test.pixels.shape == (43, 3, 32, 32)
    assert source.train.pixels[:, :, 16, 16].tolist() == [[5 * k, 0, 255] for k in range(43)]
    assert source.train.labels.tolist() == list(range(43))
    assert source.test.labels.tolist() == list(range(42, -1, -1))
    assert source.class_names == tuple(map(str, range(43)))


def test_gtsrb_from_parquet_is_resized(tmp_path: Path, cache: Path) -> None:
    pixels = [random_images(1, 20 + label, 30, 3)[0] for label in range(43)]
    for split in ("train", "test"):
        write_parquet(tmp_path / f"gtsrb/{split}-0.parquet", pixels, range(43))
    source = load(Gtsrb(), tmp_path, cache)
    assert source.train.pixels.shape == (43, 3, 32, 32)


@pytest.mark.parametrize(
    ("dataset", "train", "test", "names"),
    [
        (Cifar10(), (50_000, 3, 32, 32), (10_000, 3, 32, 32), ("airplane", "frog", "truck")),
        (FashionMnist(), (60_000, 1, 28, 28), (10_000, 1, 28, 28), ("T-shirt/top", "Shirt", "Ank")),
    ],
)
def test_real_sets(
    dataset: Cifar10 | FashionMnist,
    train: tuple[int, ...],
    test: tuple[int, ...],
    names: tuple[str, ...],
    cache: Path,
) -> None:
    if not (SHARED / dataset.name).is_dir():
        pytest.skip(f"no {dataset.name} in ../shared/data")
    source = load(dataset, SHARED, cache)
    assert source.test is not None
    assert source.train.pixels.shape == train
    assert source.test.pixels.shape == test
    assert source.train.labels.bincount().tolist() == [train[0] // 10] * 10
    assert source.test.labels.bincount().tolist() == [1000] * 10
    assert [source.class_names[k][:11] for k in (0, 6)] == list(names[:2])
    assert source.class_names[9].startswith(names[2])
    # The means of the training pixels as they are published: 0.4914, 0.4822, 0.4465; 0.2860.
    means = source.train.pixels.numpy().mean((0, 2, 3)) / 255
    known = [0.4914, 0.4822, 0.4465] if len(means) == 3 else [0.2860]
    assert means.tolist() == pytest.approx(known, abs=1e-4)
