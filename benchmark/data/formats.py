"""Readers of images, one by one, and of the two splits that they make up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from benchmark.api import Source
from benchmark.data import DataError
from benchmark.data.decoding import in_chunks, pixel_store
from benchmark.images import ImageSet

#: Where an image came from, the image or what PIL opens as one, and its label.
Item = tuple[str, Image.Image | Path | BytesIO, int | None]

#: What came of an image: its pixels, an error, or nothing where they are there already.
Decoding = npt.NDArray[np.uint8] | Exception | None

#: uint8 pixels (N, C, H, W), int64 labels (N,) and the names of the K classes.
Decoded = tuple[Tensor, Tensor, tuple[str, ...]]

#: Reads one split, given the names of the classes where another split has told them, and None
#: where that should have told them and cannot be read.
Reader = Callable[[tuple[str, ...] | None], Decoded]

#: Formats whose first picture is the whole one: smaller ones or layers may follow it.
WHOLE_FIRST = ("MPO", "PSD", "TIFF")
#: Pillow's modes without colour.
GREY = ("1", "L", "LA")

#: So many files with the same fault are named; the others are counted.
NAMED = 10


@cache
def formats() -> dict[str, list[str]]:
    """Pillow's formats that hold pixels, each with its suffixes.

    Not a video, not what another program has to draw, and not what Pillow only knows by name.
    """
    Image.init()
    found: dict[str, list[str]] = {}
    for suffix, name in Image.registered_extensions().items():
        if name in Image.OPEN and name not in ("EPS", "MPEG"):
            factory = Image.OPEN[name][0]
            if not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)):
                found.setdefault(name, []).append(suffix)
    return found


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        size: resize to `size` x `size` bilinearly; 0 keeps images as they are.
        channels: 1 makes all images grey, 3 makes them RGB; 0 keeps grey and colour apart.
        image, label: columns of Parquet files; found by name and type where empty.
    """

    size: int = 0
    channels: int = 0
    image: str = ""
    label: str = ""


AS_THEY_ARE = Reading()


@contextmanager
def large_ones_too() -> Iterator[None]:
    """Without Pillow's warning of many pixels; of twice as many it makes an error, as elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@dataclass
class _Faults:
    """What is wrong with images: a sentence on the first of each kind, the names of the others."""

    sentences: dict[str, str] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str, sentence: str) -> None:
        if kind in self.sentences:
            self.others.setdefault(kind, []).append(where)
        else:
            self.sentences[kind] = f"{where} {sentence}"

    def told(self) -> Iterator[str]:
        for kind, sentence in self.sentences.items():
            if others := self.others.get(kind):
                names = ", ".join(others[:NAMED]) + (", …" if len(others) > NAMED else "")
                sentence += f" ({len(others)} more like it: {names})"
            yield sentence


@large_ones_too()
def collect(
    items: Iterable[Item], count: int, classes: int | None, how: Reading = AS_THEY_ARE
) -> tuple[Tensor, Tensor]:
    """Decode `count` images into uint8 (N, C, H, W) and their labels into int64 (N,).

    C is 1 for grey images, 3 for all others. All cores decode.

    Args:
        classes: labels are in [0, K); None if nobody knows K, then they are not judged.

    Raises:
        DataError: bytes that are no image, images of unlike shapes, a label out of range; all
            faults at once.
    """
    pixels = pixel_store(count)
    labels = torch.empty(count, dtype=torch.int64)
    faults, stopped = _Faults(), tuple[str, ...]()

    def work(numbered: tuple[int, Item]) -> Decoding:
        row, (_, image, _) = numbered
        if row < pixels.done:
            return None
        try:
            return _decode(image, how)
        except Exception as error:  # PIL meets damaged bytes with errors of many types
            return error

    try:
        for chunk, arrays in in_chunks(enumerate(items), work):
            for (row, (where, _, label)), array in zip(chunk, arrays, strict=True):
                if classes is None:
                    label = 0
                elif label is None or not 0 <= label < classes:
                    faults.add(
                        "label",
                        where,
                        f"has label {label}, expected 0 to {classes - 1}; correct the label or the "
                        "names of the classes",
                    )
                    label = 0
                labels[row] = label
                if isinstance(array, Exception):
                    kind, sentence = _fault(array)
                    faults.add(kind, where, sentence)
                elif array is not None:
                    if not pixels.shape:
                        pixels.begin(array.shape)
                    _compare(array.shape, pixels.shape, where, faults)
            found = [array for array in arrays if isinstance(array, np.ndarray)]
            if found and not faults.sentences:
                pixels.write(chunk[-1][0] + 1 - len(found), found)
    except DataError as error:  # the file that they come from is damaged
        stopped = error.args
    if problems := (*faults.told(), *stopped):
        raise DataError(*problems)
    return pixels.finish(), labels


def _fault(error: Exception) -> tuple[str, str]:
    """Of which kind it is that an image cannot be read, and a sentence on it."""
    if isinstance(error, Image.DecompressionBombError):
        return "pixels", f"is too large ({reason(error).partition(',')[0]}); save it smaller"
    if isinstance(error, MemoryError):
        return "memory", "needs more memory than there is; save it smaller, or free some memory"
    return "image", (
        f"is not an image that can be read ({reason(error)}), expected 8-bit grey or RGB; replace "
        "or remove it"
    )


def _compare(found: Sequence[int], wanted: Sequence[int], where: str, faults: _Faults) -> None:
    """Note how the shape (C, H, W) of an image differs from that of those before it."""
    unlike = (
        f"is {_describe(found)}, expected {_describe(wanted)} as before it; make all images alike "
        "in "
    )
    if [*found[1:]] != [*wanted[1:]]:
        faults.add("size", where, f"{unlike}size (size=… of `folder` does it)")
    if found[0] != wanted[0]:
        faults.add("colour", where, f"{unlike}colour (channels=3 of `folder` does it)")


def _decode(image: Image.Image | Path | BytesIO, how: Reading) -> npt.NDArray[np.uint8]:
    """Pixels (C, H, W) of one image, upright."""
    with image if isinstance(image, Image.Image) else open_image(image) as opened:
        if opened.format not in WHOLE_FIRST and (frames := getattr(opened, "n_frames", 1)) > 1:
            raise ValueError(f"it has {frames} frames instead of one")
        if opened.mode.startswith(("I", "F")):
            raise ValueError(f"mode {opened.mode} has more than 8 bits per channel")
        opened.load()
        upright = opened
        with suppress(Exception):  # a note on how the camera was held that cannot be read
            upright = ImageOps.exif_transpose(opened)
        grey = how.channels == 1 or (not how.channels and opened.mode in GREY)
        decoded = upright.convert("L" if grey else "RGB")
    if how.size:
        decoded = decoded.resize((how.size, how.size), Image.Resampling.BILINEAR)
    array = np.asarray(decoded)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def open_image(image: Path | BytesIO) -> Image.Image:
    """An image in one of `formats`.

    Raises:
        ValueError: it is none.
        OSError: it cannot be read.
    """
    size = image.stat().st_size if isinstance(image, Path) else image.getbuffer().nbytes
    if not size:
        raise ValueError("it is empty")
    try:
        return Image.open(image, formats=[*formats()])
    except UnidentifiedImageError:  # it would show where the bytes lie in memory
        raise ValueError("of no format that Pillow knows, or cut off") from None


def _describe(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[2]} {'grey' if shape[0] == 1 else 'RGB'}"


def reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def read_images(
    class_of: Mapping[Path, str], how: Reading = AS_THEY_ARE, class_names: tuple[str, ...] = ()
) -> Decoded:
    """Read the images of one split.

    Args:
        class_of: the name of the class of every image.
        class_names: names that are known from another split, else those of the images, sorted.

    Raises:
        DataError: files that are no images, unlike shapes, classes that are not in `class_names`.
    """
    names = class_names or tuple(sorted(set(class_of.values())))
    problems = [
        f"{name} is not among the classes of the training images, expected {', '.join(names)}; "
        f"rename or remove its folder in {next(f for f in class_of if class_of[f] == name).parent}"
        for name in sorted(set(class_of.values()) - set(names))
    ]
    labels_of = {name: label for label, name in enumerate(names)}
    known = {file: labels_of[name] for file, name in class_of.items() if name in labels_of}
    items = ((str(file), file, label) for file, label in known.items())
    try:
        pixels, labels = collect(items, len(known), len(names), how)
    except DataError as error:
        problems += error.args
    if problems:
        raise DataError(*problems)
    return pixels, labels, names


def read_source(
    folder: Path, train: Reader, test: Reader | None, notes: Sequence[str] = ()
) -> Source:
    """Read both splits; no test images make a source without them.

    Args:
        folder: where both are, for whoever has to mend them.
        notes: what was left out, in sentences.

    Raises:
        DataError: what is wrong with either split, or that they do not fit each other.
    """
    problems: list[str] = []
    splits, names = list[ImageSet](), tuple[str, ...]()
    for read in filter(None, (train, test)):
        try:
            pixels, labels, known = read(None if problems else names)
            names = names or known
            splits.append(ImageSet(pixels, labels))
        except DataError as error:
            problems += error.args
    shapes = [tuple(split.pixels.shape[1:]) for split in splits]
    if shapes[1:] and shapes[0] != shapes[1]:
        problems.append(
            f"the test part in {folder} holds {_describe(shapes[1])} images, expected "
            f"{_describe(shapes[0])} as for training; keep one set per folder, or let size=… and "
            "channels=… of `folder` make them alike"
        )
    if problems:
        raise DataError(*problems)
    return Source(splits[0], splits[1] if splits[1:] else None, names, tuple(notes))
