"""Readers of Parquet files and image folders, and what they say of wrong files."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from small_sets import encode, random_images, write_fashion, write_images, write_parquet

from benchmark import Dataset
from benchmark.data import DataError, load
from benchmark.data.named import FashionMnist, Folder


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_parquet_round_trip(shape: tuple[int, ...], sets: Path) -> None:
    pixels, labels = random_images(700, *shape), [row % 3 for row in range(700)]
    names = ["cat", "dog", "eel"]
    for shard, rows in enumerate([slice(0, 400), slice(400, 600)]):
        path = sets / f"train-0000{shard}-of-00002.parquet"
        write_parquet(path, pixels[rows], labels[rows], names, row_group_size=150)
    write_parquet(sets / "test-00000-of-00001.parquet", pixels[600:], labels[600:], names)
    source = load(Folder(str(sets)))
    expected = torch.from_numpy(pixels).reshape(700, 6, 5, -1).permute(0, 3, 1, 2)
    assert source.test is not None
    assert torch.equal(source.train.pixels, expected[:600])
    assert torch.equal(source.test.pixels, expected[600:])
    assert source.train.labels.tolist() == labels[:600]
    assert source.test.labels.tolist() == labels[600:]
    assert source.class_names == ("cat", "dog", "eel")


def test_parquet_without_names_or_test_part(sets: Path) -> None:
    write_parquet(sets / "train-0.parquet", random_images(4, 4, 4), [2, 0, 1, 2])
    source = load(Folder(str(sets)))
    assert source.class_names == ("0", "1", "2")
    assert source.test is None
    write_parquet(sets / "test-0.parquet", random_images(1, 4, 4), [1])
    source = load(Folder(str(sets)))
    assert source.test is not None
    assert source.class_names == ("0", "1", "2"), "those of training count"


def test_palettes_are_colours_and_alpha_is_dropped(sets: Path) -> None:
    (sets / "a").mkdir()
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    red.quantize(2).save(sets / "a" / "1.png")
    red.convert("RGBA").save(sets / "a" / "2.png")
    pixels = load(Folder(str(sets))).train.pixels
    assert pixels[:, :, 0, 0].tolist() == [[255, 0, 0]] * 2


def test_image_folder(sets: Path) -> None:
    cats, dogs = random_images(3, 5, 4, 3), random_images(2, 5, 4, 3, seed=1)
    write_images(sets / "train", {"dogs": dogs, "cats": cats})
    write_images(sets / "test", {"dogs": dogs[:1]})
    (sets / "train" / ".thumbnails").mkdir()
    (sets / "train" / "dogs" / "notes.txt").write_text("not an image")
    source = load(Folder(str(sets)))
    assert source.test is not None
    assert source.class_names == ("cats", "dogs")
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1]
    expected = torch.from_numpy(np.concatenate([cats, dogs])).permute(0, 3, 1, 2)
    assert torch.equal(source.train.pixels, expected)
    assert source.test.labels.tolist() == [1]
    assert torch.equal(source.test.pixels, expected[3:4])


@pytest.mark.parametrize("root", ["sets", "train", "test"])
def test_image_folder_without_splits(root: str, sets: Path) -> None:
    # Classes, and the folder itself, may well be named like splits.
    classes = {"bus": random_images(1, 4, 4), "test": random_images(2, 4, 4)}
    classes["train"] = random_images(3, 4, 4)
    source = load(Folder(str(write_images(sets / root, classes))))
    assert source.test is None
    assert source.class_names == ("bus", "test", "train")
    assert source.train.labels.bincount().tolist() == [1, 2, 3]


def test_folder_resizes(sets: Path) -> None:
    halves = np.zeros((8, 12), dtype=np.uint8)
    halves[:, 6:] = 200
    write_images(sets, {"a": halves[None], "b": random_images(1, 3, 3)})
    pixels = load(Folder(str(sets), size=4)).train.pixels
    assert pixels.shape == (2, 1, 4, 4)
    assert pixels[0, 0, :, 0].tolist() == [0] * 4
    assert pixels[0, 0, :, 3].tolist() == [200] * 4


def parquet(*images: Any, labels: Any = None, names: Any = ("a", "b")) -> Callable[[Path], Dataset]:
    def build(root: Path) -> Dataset:
        rows = labels or [0] * len(images)
        write_parquet(root / "train-00000-of-00001.parquet", list(images), rows, names)
        return Folder(str(root))

    return build


def both(train: Any, test: Any, names: tuple[Any, Any] = (None, None)) -> Callable[..., Dataset]:
    def build(root: Path) -> Dataset:
        for split, image, of in zip(("train", "test"), (train, test), names, strict=True):
            write_parquet(root / f"{split}-0.parquet", [image], [0], of)
        return Folder(str(root))

    return build


def raw_parquet(change: Callable[[bytes], bytes]) -> Callable[[Path], Dataset]:
    def build(root: Path) -> Dataset:
        path = write_parquet(root / "train-0.parquet", random_images(50, 8, 8), [0] * 50)
        path.write_bytes(change(path.read_bytes()))
        return Folder(str(root))

    return build


def table(**columns: Any) -> Callable[[Path], Dataset]:
    def build(root: Path) -> Dataset:
        pq.write_table(pa.table(columns), root / "train-0.parquet")
        return Folder(str(root))

    return build


def tree(**classes: np.ndarray) -> Callable[[Path], Dataset]:
    def build(root: Path) -> Dataset:
        for place, pixels in classes.items():
            write_images(root, {place.replace("__", "/"): pixels})
        return Folder(str(root))

    return build


def fashion(change: Callable[[Path], Any]) -> Callable[[Path], Dataset]:
    """Fashion-MNIST in the folder that $POISONGAMES_DATA names, with something wrong."""

    def build(root: Path) -> Dataset:
        change(write_fashion(root))
        return FashionMnist()

    return build


def empty(root: Path) -> Dataset:
    write_images(root, {"a": GREY[:1]})
    (root / "a" / "0.png").write_bytes(b"")
    return Folder(str(root))


def animated(frames: np.ndarray) -> bytes:
    first, *others = map(Image.fromarray, frames)
    first.save(file := BytesIO(), "GIF", save_all=True, append_images=others)
    return file.getvalue()


def link_to_nowhere(root: Path) -> None:
    (root / "train-00001-of-00002.parquet").symlink_to(root / "gone")


GREY, COLOUR = random_images(2, 4, 4), random_images(2, 4, 4, 3)
PNG = encode(random_images(1, 32, 32, 3)[0])
ANIMATED = animated(GREY)
DEEP = encode(np.full((4, 4), 40_000, dtype=np.uint16))
CELLS = [{"bytes": encode(GREY[0])}]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: Folder(str(root / "nowhere")), "nowhere is no folder, expected one of "),
        (lambda root: Folder(str(root)), "holds no data set, expected train-*.parquet and test"),
        (raw_parquet(lambda _: b"junk"), "train-0.parquet is truncated or not a Parquet file ("),
        (raw_parquet(lambda _: b""), "train-0.parquet is truncated or not a Parquet file ("),
        (raw_parquet(lambda raw: raw[:-100]), "is truncated or not a Parquet file ("),
        (raw_parquet(lambda raw: raw[:4] + bytes(500) + raw[504:]), "train-0.parquet"),
        (table(image=CELLS), "expected image: struct<bytes: binary> and label: int64; write it"),
        (table(image=[b"flat"], label=[0]), "has the columns image: binary, label: int64"),
        (table(image=[{"path": "x"}], label=[0]), "has the columns image: struct<path: string>"),
        (table(image=CELLS, label=["cat"]), "has the columns image: struct<bytes: binary>, label"),
        (parquet(), "holds no rows, expected images; fetch it again"),
        (parquet(*GREY, labels=[0, 2]), ".parquet row 1 has label 2, expected 0 to 1; correct"),
        (parquet(*GREY, labels=[-1, 0]), ".parquet row 0 has label -1, expected 0 to 1"),
        (parquet(*GREY, labels=[0, None]), ".parquet row 1 has label None, expected 0 to 1"),
        (parquet(*GREY, labels=[0, 9**9], names=None), "row 1 has label 387420489, expected"),
        (
            parquet(GREY[0], b"junk"),
            "row 1 is not an image that can be read (of no format that Pil",
        ),
        (empty, "0.png is not an image that can be read (it is empty)"),
        (parquet(GREY[0], b""), ".parquet row 1 is not an image that can be read (it is empty)"),
        (parquet(GREY[0], None), ".parquet row 1 holds the path '1.png' and not the image; write"),
        (parquet(ANIMATED), "is not an image that can be read (it has 2 frames instead of one)"),
        (parquet(*GREY, names=["a", "b", "a"]), "gives several classes the name a; each needs"),
        (parquet(PNG[:-200]), ".parquet row 0 is not an image that can be read ("),
        (parquet(DEEP), "row 0 is not an image that can be read (mode I;16 has more than 8 bits"),
        (parquet(GREY[0], random_images(1, 4, 6)[0]), "row 1 is 4x6 grey, expected 4x4 grey as"),
        (parquet(COLOUR[0], GREY[0]), "row 1 is 4x4 grey, expected 4x4 RGB as before it; make"),
        (both(COLOUR[0], GREY[0]), "holds 4x4 grey images, expected 4x4 RGB as for"),
        (both(*GREY, names=(["a"], ["b"])), "names the classes b, expected a as in the other"),
        (tree(test__a=GREY), "holds test images and no training images, expected train/<class>/"),
        (tree(a=GREY, b=GREY[:0]), "b holds no images, expected some .jpg, .png,"),
        (tree(train__a=GREY, test__b=GREY), "b is not among the classes of the training images"),
        (tree(a=GREY, b=COLOUR), "0.png is 4x4 RGB, expected 4x4 grey as before it; make all"),
        (fashion(lambda root: (root / "test-00000-of-00001.parquet").unlink()), "no test-*.parq"),
        (fashion(lambda root: (root / "train-00000-of-00001.parquet").unlink()), "no train-*.pa"),
        (fashion(link_to_nowhere), "train-00001-of-00002.parquet cannot be read (No such file"),
        (
            fashion(
                lambda root: write_parquet(root / "train-00000-of-00002.parquet", GREY, [0, 1])
            ),
            "holds 2 train files, train-00000-of-00001.parquet is one of 1; fetch the missing",
        ),
        (
            lambda root: both(*GREY)(root) and FashionMnist(),
            "holds 1 classes of (1, 4, 4), expected train-*.parquet and test-*.parquet of "
            "fashion_mnist: 10 classes of images (C, H, W) = (1, 28, 28); fetch it again",
        ),
    ],
)
def test_wrong_files(
    build: Callable[[Path], Dataset],
    message: str,
    sets: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POISONGAMES_DATA", str(sets))
    with pytest.raises(DataError) as caught:
        load(build(sets))
    assert message in str(caught.value)
    assert str(sets) in str(caught.value), "names the path"
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value), "says what to do"


def test_huge_pictures_are_told_from_those_that_are_none(
    sets: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow takes no more than twice as many pixels as it warns of; here of few."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    write_images(sets, {"a": random_images(2, 12, 12)})
    assert load(Folder(str(sets))).train.pixels.shape == (2, 1, 12, 12)
    write_images(sets, {"b": random_images(1, 16, 16)})
    with pytest.raises(DataError) as caught:
        load(Folder(str(sets)))
    limit = "exceeds limit of 200 pixels); save it smaller"
    assert f"0.png is too large (Image size (256 pixels) {limit}" in str(caught.value)
    assert not recwarn.list


def test_memory_that_is_short_is_no_fault_of_the_picture(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise MemoryError

    write_images(sets, {"a": GREY})
    monkeypatch.setattr(Image.Image, "convert", full)
    with pytest.raises(DataError, match=r"0\.png needs more memory than there is; save it smaller"):
        load(Folder(str(sets)))


def test_labels_are_not_judged_where_those_who_know_them_cannot_be_read(sets: Path) -> None:
    write_parquet(sets / "train-0.parquet", [b"junk"], [0])
    write_parquet(sets / "test-0.parquet", [GREY[0]], [3])
    with pytest.raises(DataError) as caught:
        load(Folder(str(sets)))
    assert "train-0.parquet row 0 is not an image" in str(caught.value)
    assert "has label" not in str(caught.value)
