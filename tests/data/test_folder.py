"""Images as people have them: what is read, what is left out and said, and all faults at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from small_sets import encode, random_images, write_images, write_parquet

from benchmark import Dataset
from benchmark.data import DataError, load, summary
from benchmark.data.named import Folder
from benchmark.registry import Registry
from benchmark.specs import RegistryError
from benchmark.suspect.images import read_folder

GREY, COLOUR = random_images(3, 4, 4), random_images(3, 4, 4, 3)


def said(root: Path, **options: int | str) -> str:
    with pytest.raises(DataError) as caught:
        load(Folder(str(root), **options))  # type: ignore[arg-type]
    return str(caught.value)


#: How EXIF's orientation turns an upright picture into what is stored (TIFF 6.0, tag 274).
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: np.swapaxes(image, 0, 1),
    6: lambda image: np.rot90(image, 1),
    7: lambda image: np.swapaxes(np.rot90(image, 2), 0, 1),
    8: lambda image: np.rot90(image, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pictures_are_upright(orientation: int, suffix: str, sets: Path) -> None:
    upright = random_images(1, 6, 6, 3)[0]
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[274] = orientation
    (sets / "a").mkdir()
    stored.save(sets / "a" / f"0.{suffix}", exif=exif)
    pixels = load(Folder(str(sets))).train.pixels
    assert torch.equal(pixels[0], torch.from_numpy(upright).permute(2, 0, 1))


def test_a_note_on_orientation_that_cannot_be_read_is_no_fault(sets: Path) -> None:
    (sets / "a").mkdir()
    Image.fromarray(GREY[0]).save(sets / "a" / "0.png", exif=b"Exif\x00\x00junk")
    assert torch.equal(load(Folder(str(sets))).train.pixels[0, 0], torch.from_numpy(GREY[0]))


def test_all_that_pillow_reads_is_read(sets: Path) -> None:
    write_images(sets, {"a": GREY[:1]})
    for suffix, kind in [("TIFF", "TIFF"), ("gif", "GIF"), ("tga", "TGA"), ("jp2", "JPEG2000")]:
        Image.fromarray(COLOUR[0]).save(sets / "a" / f"1.{suffix}", kind)
    (sets / "a" / "without_suffix").write_bytes(encode(GREY[1]))
    (sets / "a" / "Thumbs.db").write_bytes(b"of a file manager")
    (sets / "a" / "notes.txt").write_text("of its own")
    (sets / "labels.csv").write_text("file,label")
    source = load(Folder(str(sets), channels=3))
    assert source.train.pixels.shape == (6, 3, 4, 4)
    assert source.notes == (
        "left out: 2 files (1 .txt, 1 .csv) in no format of images that Pillow reads: "
        "a/notes.txt, labels.csv",
    )


def test_what_lies_beside_parquet_files_is_named(sets: Path) -> None:
    write_parquet(sets / "train-0.parquet", GREY, [0, 1, 0])
    write_images(sets, {"a": GREY[:2]})
    (sets / "README.md").write_text("of a hub")
    source = load(Folder(str(sets)))
    assert len(source.train) == 3
    assert source.notes == (
        "left out: 2 files (2 .png) beside Parquet files, which are read instead: a/0.png, a/1.png",
        "left out: 1 file (1 .md) in neither Parquet nor a format of images: README.md",
    )


def test_the_first_picture_of_a_camera_is_the_whole_one(sets: Path) -> None:
    """It adds smaller ones for screens to the same file."""
    (sets / "a").mkdir()
    for name, kind in (("0.jpg", "MPO"), ("1.tif", "TIFF")):
        whole, small = Image.fromarray(COLOUR[0]), Image.fromarray(COLOUR[1][:2, :2].copy())
        whole.save(sets / "a" / name, kind, save_all=True, append_images=[small])
    assert load(Folder(str(sets))).train.pixels.shape == (2, 3, 4, 4)


def test_pictures_in_deeper_folders_count_to_the_outer_class(sets: Path) -> None:
    write_images(sets, {"cats/tame": GREY, "cats/wild": GREY[:1], "dogs": GREY[:2]})
    source = load(Folder(str(sets)))
    assert source.class_names == ("cats", "dogs")
    assert source.train.labels.tolist() == [0, 0, 0, 0, 1, 1]
    (note,) = source.notes
    assert note.startswith("4 images in ")
    assert "(cats/tame, cats/wild), went to the class of the outermost folder" in note
    shutil.rmtree(sets / "cats" / "tame")
    (note,) = load(Folder(str(sets))).notes
    assert note.startswith("1 image in ")


def test_links_that_lead_back_end(sets: Path) -> None:
    write_images(sets, {"a": GREY})
    (sets / "a" / "again").symlink_to(sets / "a", target_is_directory=True)
    assert len(load(Folder(str(sets))).train) == 3


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_a_validation_part_serves_where_there_is_no_test_part(val: str, sets: Path) -> None:
    write_images(sets / "Train", {"a": GREY, "b": GREY})
    write_images(sets / val, {"a": GREY[:1]})
    source = load(Folder(str(sets)))
    assert source.test is not None
    assert (len(source.train), len(source.test)) == (6, 1)
    assert source.notes == (
        f"{val.lower()} serves as the test part, as there is none",
        "the test part has no images of b",
    )


def test_beside_a_test_part_the_validation_part_is_left_out(sets: Path) -> None:
    for split in ("train", "val", "test", "extra"):
        write_images(sets / split, {"a": GREY, "b": GREY})
    (sets / "loose.png").write_bytes(encode(GREY[0]))
    source = load(Folder(str(sets)))
    assert source.test is not None
    assert len(source.test) == 6
    assert source.notes[0] == "val was left out, as there is another test part"
    assert "13 files (13 .png) in no folder of a class that is read" in source.notes[1]


@pytest.mark.parametrize("place", ["", "data", "plain_text", "snapshots/0a1b"])
def test_a_snapshot_of_the_hub_is_found(place: str, sets: Path) -> None:
    for split in ("train", "test"):
        file = write_parquet(
            sets / place / f"{split}-00000-of-00001.parquet", GREY, [0, 1, 0], ["a", "b"]
        )
        table = pq.read_table(file)
        known = table.schema.metadata[b"huggingface"].replace(b'"label"', b'"fine_label"')
        table = table.rename_columns(["img", "fine_label"])
        pq.write_table(table.replace_schema_metadata({b"huggingface": known}), file)
    (sets / "README.md").write_text("a card")
    source = load(Folder(str(sets)))
    assert source.class_names == ("a", "b")
    assert source.test is not None
    assert torch.equal(source.train.pixels[:, 0], torch.from_numpy(GREY))


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "validation.parquet"),
        ("default/train/0000.parquet", "default/validation/0000.parquet"),
        ("train/0.parquet", "test/0.parquet"),
    ],
)
def test_other_names_of_shards(names: tuple[str, str], sets: Path) -> None:
    for name in names:
        write_parquet(sets / name, GREY, [0, 1, 0])
    source = load(Folder(str(sets)))
    assert source.test is not None
    assert (len(source.train), len(source.test)) == (3, 3)


def test_a_lonely_shard_is_for_training(sets: Path) -> None:
    write_parquet(sets / "0000.parquet", GREY, [0, 1, 0])
    assert load(Folder(str(sets))).test is None


def test_a_choice_of_sets_and_columns_is_asked_for(sets: Path) -> None:
    image = pa.array([{"bytes": encode(one)} for one in GREY])
    table = pa.table({"image": image, "fine": [0, 1, 2], "coarse": [0, 0, 1]})
    for place in ("one", "two"):
        (sets / place).mkdir()
        pq.write_table(table, sets / place / "train-0.parquet")
    assert "holds data sets in one, two; give the path of one of them" in said(sets)
    found = said(sets / "one")
    assert "has the label columns fine, coarse; rename the right one to label, or name it" in found
    (sets / "named").mkdir()
    named = table.rename_columns(["image", "label", "coarse"])
    pq.write_table(named, sets / "named" / "train-0.parquet")
    assert load(Folder(str(sets / "named"))).train.labels.tolist() == [0, 1, 2]
    assert load(Folder(str(sets / "one"), label="coarse")).train.labels.tolist() == [0, 0, 1]
    assert "label: int64 in nothing; write it" in said(sets / "one", label="nothing")


def test_grey_and_colour_become_alike(sets: Path) -> None:
    write_images(sets, {"a": GREY, "b": COLOUR})
    assert "(channels=3 of `folder` does it) (2 more like it: " in said(sets)
    assert load(Folder(str(sets), channels=3)).train.pixels.shape[1] == 3
    grey = load(Folder(str(sets), channels=1)).train.pixels
    assert torch.equal(grey[:3, 0], torch.from_numpy(GREY))
    expected = np.asarray(Image.fromarray(COLOUR[0]).convert("L"))
    assert torch.equal(grey[3, 0], torch.from_numpy(expected.copy()))
    with pytest.raises(RegistryError, match="channels=2 is not allowed: choose 1, 3, or 0"):
        Registry().create(Dataset, f"folder:path={sets},channels=2")


def test_all_faults_are_told_at_once(sets: Path) -> None:
    write_images(sets / "train", {"a": GREY, "b": COLOUR[:1], "c": random_images(1, 5, 4)})
    write_images(sets / "test", {"a": GREY[:1], "z": GREY[:1]})
    (sets / "train" / "empty").mkdir()
    for name in ("x.png", "y.jpg"):
        (sets / "train" / "a" / name).write_bytes(b"junk")
    (sets / "test" / "a" / "cut.png").write_bytes(encode(random_images(1, 32, 32)[0])[:-200])
    found = said(sets)
    assert found.startswith("6 problems with the data:\n  - ")
    for part in (
        "empty holds no images",
        "x.png is not an image that can be read",
        "(1 more like it: ",
        "b/0.png is 4x4 RGB, expected 4x4 grey",
        "c/0.png is 5x4 grey, expected 4x4 grey",
        "z is not among the classes of the training images, expected a, b, c",
        "cut.png is not an image",
    ):
        assert part in found, part


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"photos/cat": GREY, "photos/dog": GREY}, "give its own path if its folders cat, dog, …"),
        ({"train": GREY, "test": GREY}, "holds test and train without folders of classes in them"),
        ({".": GREY}, "holds 3 images and no folder per class; sort them into <class>/"),
    ],
)
def test_folders_that_are_not_what_they_seem(
    classes: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    root = tmp_path / "mine"
    for place, images in classes.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for row, image in enumerate(images):
            (root / place / f"{row}.png").write_bytes(encode(image))
    assert message in said(root)


@pytest.mark.parametrize("name", ["cat/pipe", "cat/pipe.png", "train-0.parquet"])
def test_pipes_are_left_out_and_not_waited_for(name: str, sets: Path) -> None:
    write_images(sets, {"cat": GREY, "dog": GREY})
    os.mkfifo(sets / name)
    source = load(Folder(str(sets)))
    assert sum(map(len, (source.train, source.test or ()))) == 2 * len(GREY)
    assert any("of a special kind, such as a pipe" in note for note in source.notes)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\x1b[31m"])
def test_classes_have_names_that_can_be_shown(name: bytes, sets: Path) -> None:
    write_images(sets, {"cat": GREY, "dog": GREY})
    (sets / "cat").rename(os.fsdecode(os.fsencode(sets) + b"/" + name))
    found = said(sets)
    assert "has characters that cannot be shown" in found
    assert found.isprintable()


def test_what_datasets_saved_to_disk_is_known(sets: Path) -> None:
    (sets / "data-00000-of-00001.arrow").write_bytes(b"")
    assert "what datasets.save_to_disk wrote, use to_parquet instead" in said(sets)


def test_the_summary_says_what_is_there(sets: Path, cache: Path) -> None:
    write_images(sets / "train", {"cats": COLOUR, "dogs": COLOUR[:1]})
    write_images(sets / "test", {"cats": COLOUR[:1], "dogs": COLOUR[:1]})
    (sets / "notes.txt").write_text("mine")
    expected = [
        "4 training and 2 test images of 4x4 pixels, RGB",
        "2 classes of 1 to 3 images to learn from: cats, dogs",
        "left out: 1 file (1 .txt) in no format of images that Pillow reads: notes.txt",
    ]
    assert summary(load(Folder(str(sets)), cache=cache)) == expected
    assert summary(load(Folder(str(sets)), cache=cache)) == expected, "from the cache, too"
    (sets / "notes.txt").unlink()
    assert summary(load(Folder(str(sets)), cache=cache)) == expected[:2], "what is gone is gone"


def test_images_in_parquet_files_are_mixed_as_in_folders(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [GREY[0], COLOUR[0]], [0, 1])
    album = read_folder(tmp_path)
    assert album.images.pixels[0].tolist() == [GREY[0].tolist()] * 3
    assert album.notes[0] == "grey and colour images are mixed; all are taken as RGB"


def test_images_in_parquet_files_of_several_sizes_need_one(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [GREY[0], random_images(1, 6, 5)[0]], [0, 1])
    with pytest.raises(DataError, match=r"2 sizes \(4x4, 5x6...\); say --size N"):
        read_folder(tmp_path)
    assert read_folder(tmp_path, size=4).images.pixels.shape == (2, 1, 4, 4)
