"""A run is played on one set of images, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark import data
from benchmark.api import Source
from benchmark.games.all import records
from benchmark.images import ImageSet
from benchmark.records.files import StoreError
from benchmark.records.store import Store


def source(value: int = 0, test: bool = True) -> Source:
    pixels = torch.full((5, 1, 4, 6), value, dtype=torch.uint8)
    part = ImageSet(pixels, torch.arange(5))
    return Source(part, part if test else None, ("a", "b", "c", "d", "e"))


def test_the_digest_depends_on_pixels_and_labels_alone() -> None:
    one = data.sha256(source())
    assert one == data.sha256(source())
    changed = source()
    changed.train.pixels[4, 0, 3, 5] = 1
    relabelled = source()
    relabelled.train.labels[0] = 4
    others = {data.sha256(other) for other in (source(1), source(test=False), changed, relabelled)}
    assert len({one, *others}) == 5


def test_a_run_on_other_images_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.claim("a" * 64)
    store.claim("a" * 64)
    with pytest.raises(StoreError, match=r"images aaaaaaaaaaaa, the data set now has bbbbbbbbbbbb"):
        store.claim("b" * 64)


def test_records_remember_where_the_note_was_deleted(small_run: Path) -> None:
    store = Store(small_run)
    there = next(records(store.root)).data_sha256
    (small_run / "artifacts" / "data.sha256").unlink(missing_ok=True)
    with pytest.raises(StoreError, match="restore the images or choose another folder"):
        store.claim("b" * 64)
    store.claim(there)


def test_a_folder_has_cells_of_one_protocol(small_run: Path) -> None:
    """Which a board is of, so that a second one is refused before it is played."""
    store, one = Store(small_run), next(records(small_run)).protocol
    store.keep_to(one.name, one.sha256)
    Store(small_run / "new").keep_to(one.name, "b" * 64)
    with pytest.raises(StoreError, match=f"and this is {one.name} bbbbbbbbbbbb; choose another"):
        store.keep_to(one.name, "b" * 64)
