"""The images of a person's folder as a model takes them, and their classes in its order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

from benchmark import data
from benchmark.data import DataError
from benchmark.data.folder import look
from benchmark.data.formats import GREY, large_ones_too
from benchmark.data.named import Folder
from benchmark.data.parquet import stored_images
from benchmark.images import ImageSet, to_bytes
from benchmark.suspect.adapter import told


@dataclass(frozen=True)
class Album:
    """Labelled images with the names of their classes, and what was noticed on the way.

    Without names, labels count the model's outputs.
    """

    images: ImageSet
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def album_of(
    images: Tensor | NDArray[np.generic],
    labels: Tensor | Sequence[int],
    class_names: Sequence[str] | None,
) -> Album:
    """Images and labels from Python.

    Raises:
        DataError: they are no images (N, C, H, W), or no whole number for each.
    """
    pixels = as_bytes(images)
    return Album(ImageSet(pixels, _labels(labels, len(pixels))), tuple(class_names or ()))


def as_bytes(images: Tensor | NDArray[np.generic]) -> Tensor:
    """Images (N, C, H, W), uint8 or floats in [0, 1], as uint8 on the CPU.

    Raises:
        DataError: they are something else.
    """
    tensor = _tensor("images", images)
    if tensor.ndim != 4 or 0 in tensor.shape:
        raise DataError(f"images have the shape {tuple(tensor.shape)}, expected (N, C, H, W)")
    if tensor.dtype == torch.uint8:
        return tensor.contiguous()
    wanted = "expected uint8, or floats in [0, 1] before any normalisation; say that by mean=, std="
    if not tensor.is_floating_point():
        raise DataError(f"images are {tensor.dtype}, {wanted}")
    low, high = tensor.min().item(), tensor.max().item()
    if not (low >= 0 and high <= 1):
        raise DataError(f"images are {tensor.dtype} from {low:.3g} to {high:.3g}, {wanted}")
    return to_bytes(tensor.float())


def _labels(labels: Tensor | Sequence[int], count: int) -> Tensor:
    tensor = _tensor("labels", labels)
    whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    if tuple(tensor.shape) != (count,) or not whole:
        raise DataError(
            f"labels are {tensor.dtype} of shape {tuple(tensor.shape)}, expected {count} whole "
            "numbers, the model's output for each image"
        )
    return tensor.long()


def _tensor(what: str, given: Any) -> Tensor:
    """What was given, on the CPU."""
    try:
        # A view that goes backwards, as of BGR turned into RGB, is none that torch takes.
        whole = np.ascontiguousarray(given) if isinstance(given, np.ndarray) else given
        tensor = torch.as_tensor(whole).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what} are no tensor or array of numbers ({told(error)}); give one, such as by "
            "torch.stack"
        ) from None
    if tensor.layout != torch.strided:
        raise DataError(f"{what} are a tensor of layout {tensor.layout}; give a dense one")
    return tensor


@large_ones_too()
def read_folder(path: Path, size: int = 0) -> Album:
    """All images of a folder, those of its test part too; see the data set `folder`.

    Args:
        size: resize to `size` x `size`; 0 takes images as they are, all of one size.

    Raises:
        DataError: no images, damaged ones, or such of several sizes without `size`.
    """
    parts = look(path).parts.values()
    headers = {_header(image) for part in parts for file in part for image in _images(file)}
    sizes = {header[0] for header in headers} - {""}
    if not size and len(sizes) > 1:
        few = ", ".join(sorted(sizes)[:3])
        raise DataError(
            f"the images in {path} have {len(sizes)} sizes ({few}...); say --size N, the side of "
            "the images that the model was trained on"
        )
    mixed = len({header[1] for header in headers if header[0]}) > 1
    source = data.load(Folder(str(path), size, channels=3 if mixed else 0))
    sets = [source.train] if source.test is None else [source.train, source.test]
    images = ImageSet(torch.cat([s.pixels for s in sets]), torch.cat([s.labels for s in sets]))
    notes = ["grey and colour images are mixed; all are taken as RGB"] if mixed else []
    return Album(images, source.class_names, (*notes, *source.notes))


def _images(file: Path) -> Iterable[Path | BytesIO]:
    return stored_images(file) if file.suffix == ".parquet" else [file]


def _header(stored: Path | BytesIO) -> tuple[str, bool]:
    """The size of an image as it is seen, and whether it is grey; no size where it is damaged."""
    try:
        with Image.open(stored) as image:
            sides = image.width, image.height
            if image.getexif().get(ExifTags.Base.Orientation, 1) > 4:  # the camera lay on its side
                sides = sides[::-1]
            return f"{sides[0]}x{sides[1]}", image.mode in GREY
    except Exception:  # PIL meets damaged bytes with errors of many types; decoding names them
        return "", False


def in_order_of(album: Album, class_names: Sequence[str] | None, classes: int) -> Album:
    """The album with labels that count the model's classes.

    Args:
        class_names: those of the model's outputs, in their order; by default the folder's own,
            sorted by name, which must be as many.

    Raises:
        DataError: names that do not fit.
    """
    own = album.class_names or tuple(map(str, range(classes)))
    names = tuple(class_names) if class_names else own
    if len(names) != classes:
        whose = "--classes names" if class_names else "the images have"
        raise DataError(
            f"{whose} {len(names)} classes ({_few(names)}) and the model {classes}; say --classes "
            "NAME,NAME,... or a file with a name in each line, in the order of its outputs "
            "(class_names= in Python)"
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
