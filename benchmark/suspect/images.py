"""The images of a person's folder as a model takes them, and their classes in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmark import data
from benchmark.data import DataError
from benchmark.data.formats import SUFFIXES
from benchmark.data.named import Folder
from benchmark.images import ImageSet


@dataclass(frozen=True)
class Album:
    """Labelled images with the names of their classes, and what was noticed on the way.

    Without names, labels count the model's outputs.
    """

    images: ImageSet
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_folder(path: Path, size: int = 0) -> Album:
    """All images of a folder, those of its test part too; see the data set `folder`.

    Args:
        size: resize to `size` x `size`; 0 takes images as they are, all of one size.

    Raises:
        DataError: no images, damaged ones, or such of several sizes without `size`.
    """
    folder = Folder(str(path), size)
    files = [file for file in folder.files(()) if file.suffix != ".parquet"]
    sizes = set() if size else set(map(_size, files)) - {""}
    if len(sizes) > 1:
        few = ", ".join(sorted(sizes)[:3])
        raise DataError(
            f"the images in {path} have {len(sizes)} sizes ({few}...); say --size N, the side of "
            "the images that the model was trained on"
        )
    source = data.load(folder)
    parts = [source.train] if source.test is None else [source.train, source.test]
    images = ImageSet(torch.cat([p.pixels for p in parts]), torch.cat([p.labels for p in parts]))
    notes = []
    if loose := [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]:
        notes.append(
            f"{len(loose)} images lie in {path} itself, without a class; they are left out"
        )
    return Album(images, source.class_names, tuple(notes))


def _size(file: Path) -> str:
    try:
        with Image.open(file) as image:
            return f"{image.width}x{image.height}"
    except Exception:  # PIL meets damaged bytes with errors of many types; decoding names them
        return ""


def in_order_of(album: Album, class_names: Sequence[str] | None, classes: int) -> Album:
    """The album with labels that count the model's classes.

    Args:
        class_names: those of the model's outputs, in their order; by default the folder's own,
            sorted by name, which must be as many.

    Raises:
        DataError: names that do not fit, or images of a single class.
    """
    own = album.class_names or tuple(map(str, range(classes)))
    names = tuple(class_names) if class_names else own
    if len(names) != classes:
        whose = "--classes names" if class_names else "the folder has"
        raise DataError(
            f"{whose} {len(names)} classes ({_few(names)}) and the model {classes}; say --classes "
            "NAME,NAME,... or a file with a name in each line, in the order of its outputs"
        )
    if len(set(names)) < len(names):
        raise DataError(f"--classes names a class twice ({_few(names)}); name each once")
    if unknown := [name for name in own if name not in names]:
        raise DataError(
            f"the folder has a class {unknown[0]}, which is none of the model's ({_few(names)}); "
            "rename or remove that folder"
        )
    low, high = int(album.images.labels.min()), int(album.images.labels.max())
    if low < 0 or high >= len(own):
        raise DataError(f"labels go from {low} to {high}, expected 0 to {len(own) - 1}")
    labels = torch.tensor([names.index(name) for name in own])[album.images.labels]
    counts = torch.bincount(labels, minlength=classes)
    if int((counts > 0).sum()) < 2:
        raise DataError(
            f"all {len(labels)} images are of class {names[int(labels[0])]}; give some of every "
            "class, each class in a folder of its own"
        )
    notes = list(album.notes)
    if absent := [names[k] for k in (counts == 0).nonzero().flatten().tolist()]:
        notes.append(f"{len(absent)} classes have no image: {_few(absent)}")
    return Album(ImageSet(album.images.pixels, labels), names, tuple(notes))


def in_channels(pixels: Tensor, channels: int) -> Tensor:
    """Grey images as colour ones where a model wants these.

    Raises:
        DataError: no other number of channels can be made of what there is.
    """
    if pixels.shape[1] == channels:
        return pixels
    if pixels.shape[1] == 1 and channels == 3:
        return pixels.expand(-1, 3, -1, -1).contiguous()
    what = "grey images" if channels == 1 else f"images of {channels} channels"
    raise DataError(
        f"the model takes {what}, these have {pixels.shape[1]} channels; save them as the model "
        "saw them in training"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
