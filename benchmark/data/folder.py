"""One's own images in a folder: what in it is read, and what is left out and why."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from benchmark.data import DataError
from benchmark.data.formats import NAMED, Reading, formats, large_ones_too, open_image, read_images
from benchmark.data.parquet import CONVENTION, read_parquet
from benchmark.texts import counted, shown

#: Words that name a split, and the part that it serves as; of several for one part the first is
#: taken.
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation", "dev"), "test"),
}


T = TypeVar("T")


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        parts: the files of the parts "train" and maybe "test": Parquet files, or images with
            the names of their classes.
        notes: what was left out, in sentences.
        problems: what has to be mended first.
        files: all there are, those that are left out, too.
    """

    parts: dict[str, Mapping[Path, str]]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    files: Sequence[Path] = ()

    def read(
        self, part: str, how: Reading, class_names: tuple[str, ...] | None
    ) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Decode one part; as `read_parquet` and `read_images`."""
        files = self.parts[part]
        if all(file.suffix == ".parquet" for file in files):
            return read_parquet([*files], how, class_names)
        # Those of the training part, even if it cannot be read.
        return read_images(files, how, tuple(sorted({*self.parts["train"].values()})))


@large_ones_too()
def look(root: Path) -> Found:
    """Find the data set in a folder.

    Raises:
        DataError: there is none, several, or one without training images.
    """
    if not root.is_dir():
        raise DataError(f"{root} is no folder, expected one of images; check the path")
    there = [*walk(root)]
    # Opening a named pipe waits for somebody who writes into it.
    pipes = {file for file in there if file.exists() and not file.is_file()}
    files = [file for file in there if file not in pipes]
    found = _found(root, files)
    found.notes += _left_out(root, pipes, "of a special kind, such as a pipe")
    found.notes = [*map(shown, found.notes)]
    found.files = files
    return found


def _found(root: Path, files: Sequence[Path]) -> Found:
    shards = [file for file in files if file.suffix == ".parquet"]
    images = {file for file in files if file not in shards and _is_image(file)}
    splits = any(map(_word_of, shards))
    if splits or (shards and not images):
        found = _shards(root, shards) if splits else Found({"train": dict.fromkeys(shards, "")})
        found.notes += _left_out(root, images, "beside Parquet files, which are read instead")
        others = {*files} - images - {*shards}
        found.notes += _left_out(root, others, "in neither Parquet nor a format of images")
        return found
    if not images:
        raise DataError(
            f"{root} holds no data set, expected {CONVENTION}, or images in <class>/ or in "
            f"train/<class>/ and test/<class>/; check the path{_advice(files)}"
        )
    found = _trees(root, images)
    used = {file for part in found.parts.values() for file in part}
    found.notes += _left_out(root, images - used, "in no folder of a class that is read")
    found.notes += _left_out(root, {*files} - images, "in no format of images that Pillow reads")
    return found


def _advice(files: Iterable[Path]) -> str:
    if any(file.suffix == ".arrow" for file in files):
        return "; .arrow files are what datasets.save_to_disk wrote, use to_parquet instead"
    return ""


def walk(root: Path) -> Iterable[Path]:
    """All files in all folders, without hidden ones, in order."""
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); permit it") from error

    for place, folders, names in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(place)
        # A link may lead back to where it is.
        folders[:] = [] if real in seen else sorted(filter(_is_shown, folders))
        if real not in seen:
            yield from (Path(place, name) for name in sorted(filter(_is_shown, names)))
        seen.add(real)


def _is_shown(name: str) -> bool:
    return name[0] != "." and name not in ("__MACOSX", "Thumbs.db")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and _is_shown(sub.name))


def _word_of(shard: Path) -> str:
    """The word for a split in a Parquet file's name, or that of its folder; empty without one."""
    for name in (re.split(r"[-_.\d]", shard.name)[0], shard.parent.name):
        if name.lower() in _WORDS:
            return name.lower()
    return ""


def _shards(root: Path, shards: Sequence[Path]) -> Found:
    homes: dict[Path, dict[str, list[Path]]] = {}
    for shard in shards:
        if word := _word_of(shard):
            inner = shard.parent.name.lower() == word and shard.parent != root
            home = shard.parent.parent if inner else shard.parent
            homes.setdefault(home, {}).setdefault(word, []).append(shard)
    home = next((one for one in (root, root / "data", *homes) if one in homes), root)
    if len(homes) > 1 and home not in (root, root / "data"):
        names = ", ".join(str(one.relative_to(root)) for one in homes)
        raise DataError(f"{root} holds data sets in {names}; give the path of one of them")
    parts, notes = _choose(homes[home])
    if "train" not in parts:
        raise DataError(f"{home} holds no train-*.parquet, expected {CONVENTION}; fetch the others")
    found = Found({part: dict.fromkeys(files, "") for part, files in parts.items()}, notes)
    elsewhere = {shard for shard in shards if not _word_of(shard) or home not in shard.parents}
    found.notes += _left_out(root, elsewhere, "of no split that is read")
    return found


def _choose(splits: Mapping[str, T]) -> tuple[dict[str, T], list[str]]:
    """Which splits serve as which part, and what that leaves out."""
    parts: dict[str, T] = {}
    notes = []
    for word, part in _WORDS.items():
        if word not in splits:
            continue
        if part in parts:
            notes.append(f"{word} was left out, as there is another {part} part")
        else:
            parts[part] = splits[word]
            if part == "test" and not word.startswith("test"):
                notes.append(f"{word} serves as the test part, as there is none")
    return {part: parts[part] for part in ("train", "test") if part in parts}, notes


def _trees(root: Path, images: set[Path]) -> Found:
    splits = {
        folder.name.lower(): folder
        for folder in _subfolders(root)
        if folder.name.lower() in _WORDS and _subfolders(folder)
    }
    parts, notes = _choose(splits) if splits else ({"train": root}, [])
    if "train" not in parts:
        raise DataError(
            f"{root} holds test images and no training images, expected train/<class>/ beside "
            "test/<class>/; add them, or give the path of the test folder itself"
        )
    found = Found({}, notes)
    for part, top in parts.items():
        found.parts[part] = _classes(top, images, found)
    if not found.parts["train"]:
        loose = (
            f"{parts['train']} holds {len(images)} images and no folder per class; sort them into "
            "<class>/"
        )
        raise DataError(*(found.problems or [loose]))
    names = {*found.parts["train"].values()}
    if {name.lower() for name in names} <= _WORDS.keys():
        found.problems.append(
            f"{root} holds {' and '.join(sorted(names))} without folders of classes in them; sort "
            "their images into <class>/"
        )
    elif len(names) == 1 and len(inner := _subfolders(parts["train"] / min(names))) > 1:
        found.problems.append(
            f"{parts['train']} holds one folder, {min(names)}, and all images would be of one "
            f"class; give its own path if its folders {inner[0].name}, {inner[1].name}, … are "
            "the classes"
        )
    missing = names - {*found.parts.get("test", {}).values()}
    if missing and "test" in found.parts:
        found.notes.append(f"the test part has no images of {_some(sorted(missing))}")
    return found


def _classes(top: Path, images: set[Path], found: Found) -> dict[Path, str]:
    """The class of every image below `top`, in the order of classes and names."""
    of: dict[str, list[Path]] = {}
    for file in images:
        if top in file.parents:
            of.setdefault(file.relative_to(top).parts[0], []).append(file)
    class_of: dict[Path, str] = {}
    deep = set()
    folders = _subfolders(top)
    walked = dict[str, Path]()
    if any(folder.name not in of for folder in folders):  # `walk` enters no folder twice
        places = {place for file in images for place in file.parents}
        walked = {os.path.realpath(place): place for place in places}
    for folder in folders:
        own = sorted(of.get(folder.name, ()))
        if not folder.name.isprintable():
            found.problems.append(
                f"{folder.name!a} has characters that cannot be shown, and classes are called "
                "by their folders; rename it"
            )
        linked = ((place, walked.get(os.path.realpath(place))) for place in folder.glob("**"))
        if not own and (pair := next(filter(all, linked), None)):
            found.problems.append(
                f"{pair[0]} and {pair[1]} are the same folder, expected images of its own in each; "
                "remove the link"
            )
        elif not own:
            found.problems.append(
                f"{folder} holds no images, expected some .jpg, .png, .tif or what else Pillow "
                "reads; add them or remove the folder"
            )
        class_of |= dict.fromkeys(own, folder.name)
        deep |= {file for file in own if file.parent != folder}
    if deep:
        found.notes.append(
            f"{counted(len(deep), 'image')} in {top}, deeper than in the folder of a class ("
            f"{_some(sorted({str(file.parent.relative_to(top)) for file in deep}))}), went to the "
            "class of the outermost folder"
        )
    return class_of


@cache
def _suffixes() -> frozenset[str]:
    return frozenset(suffix for suffixes in formats().values() for suffix in suffixes)


def _is_image(file: Path) -> bool:
    """Whether it is called an image, or is one whatever it is called."""
    if file.suffix.lower() in _suffixes():
        return True
    try:
        with open_image(file):
            return True
    except Exception:  # PIL meets foreign bytes with errors of many types
        return False


def _left_out(root: Path, files: set[Path], why: str) -> list[str]:
    if not files:
        return []
    kinds = Counter(file.suffix.lower() or "without suffix" for file in sorted(files))
    suffixes = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(NAMED))
    names = _some(sorted(str(file.relative_to(root)) for file in files))
    return [f"left out: {counted(len(files), 'file')} ({suffixes}) {why}: {names}"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
