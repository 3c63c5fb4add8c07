"""Names that cannot be shown or stand twice, links in circles, and what else nobody meant."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_sets import encode, random_images, write_images, write_parquet

from benchmark.data import DataError, load
from benchmark.data.named import Folder
from benchmark.data.parquet import read_parquet

GREY = random_images(3, 4, 4)


def said(folder: Folder) -> str:
    with pytest.raises(DataError) as caught:
        load(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", [b"\xff", b"a\x1b[31m", b"a\nb"])
def test_files_have_names_that_are_escaped_where_they_are_shown(name: bytes, sets: Path) -> None:
    """Such as those in ZIP archives of old; what can be opened is read all the same."""
    write_images(sets, {"a": GREY, "b/c": GREY})
    place, escaped = os.fsencode(sets) + b"/a/" + name, ascii(os.fsdecode(name))[1:-1]
    Path(os.fsdecode(place + b".png")).write_bytes(encode(GREY[0]))
    Path(os.fsdecode(place + b".txt")).write_text("of its own")
    (sets / "b" / "c").rename(os.fsdecode(os.fsencode(sets / "b") + b"/" + name))
    source = load(Folder(str(sets)))
    assert source.train.labels.tolist() == [0] * 4 + [1] * 3
    assert all(note.isprintable() for note in source.notes)
    assert any(f"(b/{escaped})" in note for note in source.notes)
    assert source.notes[1].endswith(f": a/{escaped}.txt")
    Path(os.fsdecode(place + b".png")).write_bytes(b"junk")
    found = said(Folder(str(sets)))
    assert f"{sets}/a/{escaped}.png is not an image that can be read" in found
    assert found.isprintable()


@pytest.mark.parametrize("name", ["self", "self.png"])
def test_a_link_to_itself_is_named(name: str, sets: Path) -> None:
    write_images(sets, {"a": GREY})
    (sets / "a" / name).symlink_to(name)
    assert f"{sets}/a/{name} cannot be read (Too many levels of symbolic links); " in said(
        Folder(str(sets))
    )


@pytest.mark.parametrize(
    ("link", "to"), [("c", "a"), ("A", "a"), ("c", "deep"), ("c", "deep/er"), ("c", ".")]
)
def test_a_class_that_is_a_link_to_another_is_named_with_it(link: str, to: str, sets: Path) -> None:
    write_images(sets, {"a": GREY, "b": GREY, "deep/er": GREY})
    (sets / link).symlink_to(sets / to, target_is_directory=True)
    names = {str(sets / link), str(sets / to)}
    told = {
        f"{one} and {other} are the same folder, expected images of its own in each; remove "
        "the link"
        for one in names
        for other in names - {one}
    }
    assert said(Folder(str(sets))) in told


def test_a_test_part_that_is_a_link_to_the_other_is_named_with_it(sets: Path) -> None:
    write_images(sets / "train", {"a": GREY})
    (sets / "test").symlink_to(sets / "train", target_is_directory=True)
    assert f"{sets}/train/a and {sets}/test/a are the same folder" in said(Folder(str(sets)))


def metadata(text: bytes) -> Callable[[Path], Folder]:
    def build(root: Path) -> Folder:
        path = write_parquet(root / "train-0.parquet", GREY[:2], [0, 1])
        pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": text}), path)
        return Folder(str(root))

    return build


def named(names: str) -> Callable[[Path], Folder]:
    return metadata(b'{"info":{"features":{"label":{"names":%s}}}}' % names.encode())


def columns(*names: str, **options: str) -> Callable[[Path], Folder]:
    """Two columns of images and two of labels, so called."""

    def build(root: Path) -> Folder:
        cells = pa.array([{"bytes": encode(GREY[0])}])
        table = pa.Table.from_arrays([cells, cells, pa.array([0]), pa.array([0])], [*names])
        pq.write_table(table, root / "train-0.parquet")
        return Folder(str(root), **options)  # type: ignore[arg-type]

    return build


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (named('["a", "\\u001b[31m"]'), "has '\\x1b[31m' for names of classes, expected a list of"),
        (named('["a", "\\ud800"]'), "has '\\ud800' for names of classes, expected a list of texts"),
        (named('["a", "b\\n"]'), "has 'b\\n' for names of classes, expected a list of texts that"),
        (named('["a", null]'), "has None for names of classes, expected a list of texts that can"),
        (named('["a", ""]'), "has '' for names of classes, expected a list of texts that can be"),
        (named('["a", ["b"]]'), "has ['b'] for names of classes, expected a list of texts that"),
        (named('"ab"'), "has 'ab' for names of classes, expected a list of texts that can be"),
        (named('{"a": 0, "b": 1}'), "has {'a': 0, 'b': 1} for names of classes, expected a list"),
        (columns("image", "image", "label", "x"), "has several columns image; remove or rename"),
        (columns("image", "x", "label", "label"), "has several columns label; remove or rename"),
        (columns("image", "label", "x", "label"), "has several columns label; remove or rename"),
        (
            columns("x", "x", "label", "y"),
            "has the image columns x, x; rename the right one to image",
        ),
        (columns("x", "x", "label", "y", image="x"), "has several columns x; remove or rename all"),
    ],
)
def test_names_in_parquet_files_that_nobody_can_use(
    build: Callable[[Path], Folder], message: str, sets: Path
) -> None:
    found = said(build(sets))
    assert message in found
    assert found.startswith(f"{sets}/train-0.parquet has ")
    assert found.isprintable()
    assert "; " in found, "says what to do"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"[" * 100_000, "01"),  # deeper than Python reads
        (b'{"a":' * 100_000, "01"),
        (b"\xff", "01"),
        (b"null", "01"),
        (b'{"info":{"features":{"label":{"names":null}}}}', "01"),
        (b'{"info":{"features":{"label":{"names":[]}}}}', "01"),
        (b'{"info":{"features":{"label":{"names":[7, 8]}}}}', "78"),  # as `datasets` writes them
    ],
)
def test_parquet_with_odd_metadata(text: bytes, names: str, sets: Path) -> None:
    assert load(metadata(text)(sets)).class_names == tuple(names)


def test_time_grows_no_faster_than_the_names_of_classes(sets: Path) -> None:
    """Each is looked at once, not once for every other one."""

    def seconds(count: int) -> float:
        names = [f"class {k}" for k in range(count)]
        file = write_parquet(sets / f"train-{count}.parquet", GREY[:2], [0, 1], names)
        began = time.process_time()
        assert len(read_parquet([file])[2]) == count
        return time.process_time() - began

    seconds(10)
    assert seconds(20_000) < 30 * min(seconds(2000) for _ in range(3))
