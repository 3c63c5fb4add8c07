"""The data sets that come with the benchmark."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from benchmark.api import Dataset, Source, hookimpl
from benchmark.data import DataError
from benchmark.data.folder import look
from benchmark.data.formats import Reading, collect, read_source
from benchmark.data.parquet import CONVENTION, SPLITS, parquet_files, read_parquet
from benchmark.images import ImageSet


@dataclass
class Digits(Dataset):
    """1,797 scanned digits, 16x16 grey, 10 classes; comes with scikit-learn."""

    name, version, paper = "digits", 1, "Alpaydin and Kaynak, UCI repository 1998"

    def decode(self, files: Sequence[Path]) -> Source:
        # Imported here, since it takes long and most commands do without.
        from sklearn.datasets import load_digits

        scans, labels = load_digits(return_X_y=True)
        levels = np.rint(scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        items = (
            (f"digit {row}", Image.fromarray(level), int(label))
            for row, (level, label) in enumerate(zip(levels, labels, strict=True))
        )
        images = ImageSet(*collect(items, len(levels), 10, Reading(size=16)))
        return Source(images, None, tuple("0123456789"))


def _torchvision() -> Any:
    # It takes seconds, and only what is not here yet is fetched through it.
    import torchvision

    return torchvision.datasets


class TorchvisionDataset(Dataset):
    """A set of known shape: read from Parquet files, or else fetched through torchvision.

    Attributes:
        shape: (C, H, W) of the images.
        classes: number of classes K.
        size: what images are resized to, 0 where they come in one size.
    """

    shape: ClassVar[tuple[int, int, int]]
    classes: ClassVar[int]
    size: ClassVar[int] = 0

    @abstractmethod
    def fetch(self, folder: Path, split: str) -> Any:
        """Download "train" or "test" into `folder`: a sequence of PIL images and labels."""

    def files(self, folders: Sequence[Path]) -> Sequence[Path] | None:
        for folder in folders:
            own = folder / self.name
            # What was fetched from the hub has its files one folder deeper.
            for place in (own, folder / "data" / self.name, *sorted(own.glob("*/")), folder):
                if found := parquet_files(place):
                    return found
        return None

    def decode(self, files: Sequence[Path]) -> Source:
        train, test = ([file for file in files if file.name.startswith(split)] for split in SPLITS)
        if not train:
            raise DataError(
                f"{test[0].parent} holds no train-*.parquet, expected {CONVENTION}; fetch the "
                "others"
            )
        how = Reading(self.size)
        readers = [partial(read_parquet, part, how) for part in (train, test)]
        source = read_source(train[0].parent, readers[0], readers[1] if test else None)
        shape, classes = tuple(source.train.pixels.shape[1:]), len(source.class_names)
        if source.test is None or (shape, classes) != (self.shape, self.classes):
            found = "no test-*.parquet" if source.test is None else f"{classes} classes of {shape}"
            raise DataError(
                f"{train[0].parent} holds {found}, expected {CONVENTION} of {self.name}: "
                f"{self.classes} classes of images (C, H, W) = {self.shape}; fetch it again or "
                "name another folder with --data-dir"
            )
        return source

    def download(self, folder: Path) -> Source:
        try:
            train, test = (self.fetch(folder, split) for split in SPLITS)
        except Exception as error:  # torchvision passes on what urllib, zipfile and others raise
            raise DataError(
                f"{self.name} is in no folder that was given and could not be downloaded "
                f"({' '.join(str(error).split())}); put its {CONVENTION} into a folder "
                f"{self.name} and name the folder above with --data-dir or "
                "$POISONGAMES_DATA"
            ) from error
        names = getattr(train, "classes", map(str, range(self.classes)))
        return Source(self._collect(train), self._collect(test), tuple(names))

    def _collect(self, images: Any) -> ImageSet:
        items = ((f"{self.name} image {row}", *images[row]) for row in range(len(images)))
        return ImageSet(*collect(items, len(images), self.classes, Reading(self.size)))


@dataclass
class Cifar10(TorchvisionDataset):
    """60,000 photographs of animals and vehicles, 32x32 RGB, 10 classes."""

    name, version, paper = "cifar10", 1, "Krizhevsky, technical report 2009"
    shape, classes = (3, 32, 32), 10

    def fetch(self, folder: Path, split: str) -> Any:
        return _torchvision().CIFAR10(folder, train=split == "train", download=True)


@dataclass
class FashionMnist(TorchvisionDataset):
    """70,000 pictures of clothing, 28x28 grey, 10 classes."""

    name, version, paper = "fashion_mnist", 1, "Xiao et al., arXiv:1708.07747, 2017"
    shape, classes = (1, 28, 28), 10

    def fetch(self, folder: Path, split: str) -> Any:
        return _torchvision().FashionMNIST(folder, train=split == "train", download=True)


@dataclass
class Gtsrb(TorchvisionDataset):
    """Some 40,000 to 50,000 photographs of German traffic signs, 32x32 RGB, 43 classes.

    torchvision's training part has 26,640 images, that of Parquet files often 39,209; both have
    12,630 to test on.
    """

    name, version, paper = "gtsrb", 1, "Stallkamp et al., Neural Networks 2012"
    shape, classes, size = (3, 32, 32), 43, 32

    def fetch(self, folder: Path, split: str) -> Any:
        return _torchvision().GTSRB(folder, split=split, download=True)


@dataclass
class Folder(Dataset):
    """One's own images, as Parquet files or as a folder per class.

    Transparency is dropped: the colours that it hides are read as they are stored, as
    torchvision's ImageFolder reads them.

    Args:
        path: holds ``train-*.parquet`` and ``test-*.parquet``, or ``train/<class>/`` and
            ``test/<class>/`` with images, or just ``<class>/``. A validation part serves as test
            part where there is none; without both all splits are drawn from the training images.
            Parquet files may lie deeper, as in a snapshot from the Hugging Face hub.
        size: resize to `size` x `size`; 0 takes images as they are, all of one size.
        channels: 1 makes all images grey, 3 makes them RGB; 0 takes them as they are, all grey or
            all in colour.
        image: column of the images in Parquet files, where that is not plain.
        label: column of the labels, likewise.
    """

    name, version = "folder", 2
    path: str
    size: Annotated[int, Field(ge=0, le=2048, description="0 to 2048")] = 0
    channels: Annotated[int, Field(ge=0, le=3, description="0, 1 or 3")] = 0
    image: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        if self.channels == 2:
            raise ValueError("channels=2 is not allowed: choose 1, 3, or 0 for images as they are")

    @property
    def root(self) -> Path:
        return Path(os.path.expanduser(self.path))

    def files(self, folders: Sequence[Path]) -> Sequence[Path]:
        # Those that are left out, too: what is said of them is kept with what is decoded.
        return look(self.root).files

    def decode(self, files: Sequence[Path]) -> Source:
        found, how = look(self.root), Reading(self.size, self.channels, self.image, self.label)
        problems, source = list(found.problems), None
        try:
            readers = [partial(found.read, part, how) for part in found.parts]
            source = read_source(
                self.root, readers[0], readers[1] if readers[1:] else None, found.notes
            )
        except DataError as error:
            problems += error.args
        if source is None or problems:
            raise DataError(*problems)
        return source


@hookimpl
def register_datasets(register: Any) -> None:
    for dataset in (Digits, Cifar10, FashionMnist, Gtsrb, Folder):
        register(dataset)
