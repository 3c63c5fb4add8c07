"""Labelled images and their augmentation against literal loops over pixels."""

from __future__ import annotations

from collections import Counter
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import rng

from benchmark import images
from benchmark.images import ImageSet, TrustedData, augment, in_batches, one_hot, to_bytes, to_unit

Move = tuple[int, int, bool]


def coordinates(batch: int, height: int, width: int) -> torch.Tensor:
    """Images whose first channel holds each pixel's row and whose second its column, from 1 on."""
    picture = torch.zeros(2, height, width, dtype=torch.uint8)
    for row, column in product(range(height), range(width)):
        picture[0, row, column], picture[1, row, column] = row + 1, column + 1
    return picture.repeat(batch, 1, 1, 1)


def moved(image: np.ndarray, down: int, right: int, mirror: bool) -> np.ndarray:
    """Pad with black, cut out at an offset and mirror, one pixel at a time."""
    channels, height, width = image.shape
    out = np.zeros_like(image)
    for channel, row, column in product(range(channels), range(height), range(width)):
        from_column = width - 1 - column if mirror else column
        y, x = row - down, from_column - right
        if 0 <= y < height and 0 <= x < width:
            out[channel, row, column] = image[channel, y, x]
    return out


def recover(before: torch.Tensor, after: torch.Tensor, pad: int, flip: bool) -> list[Move]:
    """The one shift and mirror of every image, by trying all that are allowed."""
    shifts = range(-pad, pad + 1)
    known = {
        moved(before[0].numpy(), *move).tobytes(): move
        for move in product(shifts, shifts, (False, True) if flip else (False,))
    }
    return [known[image.contiguous().numpy().tobytes()] for image in after]


@pytest.mark.parametrize(("pad", "flip"), [(0, False), (2, False), (0, True), (2, True)])
def test_augment_shifts_and_mirrors_each_image_on_its_own(pad: int, flip: bool) -> None:
    before = coordinates(3000, 6, 5)
    kept = before.clone()
    moves = recover(before, augment(before, pad, flip, rng()), pad, flip)
    assert torch.equal(before, kept)

    counts = Counter(moves)
    assert len(counts) == (2 * pad + 1) ** 2 * (1 + flip)
    expected = len(moves) / len(counts)
    # Uniform over all moves: at 50 cells, five standard deviations of each count.
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_augment_is_a_function_of_its_generator() -> None:
    pixels = coordinates(20, 6, 5)
    first, again, other = (augment(pixels, 2, True, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_shift_fills_with_black() -> None:
    white = torch.full((50, 1, 4, 4), 255, dtype=torch.uint8)
    shifted = augment(white, 1, False, rng())
    assert set(shifted.unique().tolist()) == {0, 255}


def test_all_256_levels_survive_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    unit = to_unit(levels)
    assert unit.dtype == torch.float32
    assert unit.flatten().tolist() == pytest.approx([level / 255 for level in range(256)])
    assert torch.equal(to_bytes(unit), levels)


@settings(deadline=None)
@given(st.floats(-0.5, 1.5))
def test_to_bytes_picks_the_nearest_level(value: float) -> None:
    level = int(to_bytes(torch.full((1, 1, 1, 1), value)))
    clipped = min(max(value, 0.0), 1.0)
    assert abs(level / 255 - clipped) <= 0.5 / 255 + 1e-6


def numbered(count: int, classes: int = 3) -> ImageSet:
    """Images that are told apart by their pixels, with labels in turn."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3)
    return ImageSet(pixels.contiguous(), torch.arange(count) % classes)


def test_subset_copies_the_named_rows() -> None:
    data = numbered(9)
    part = data.subset(torch.tensor([7, 0, 7]))
    assert part.pixels[:, 1, 1, 2].tolist() == [7, 0, 7]
    assert part.labels.tolist() == [1, 0, 1]
    part.pixels.zero_(), part.labels.zero_()
    assert data.pixels[7, 0, 0, 0] == 7
    assert data.labels[7] == 1
    mask = torch.tensor([False, True] * 4 + [False])
    assert data.subset(mask).pixels[:, 0, 0, 0].tolist() == [1, 3, 5, 7]


def test_replace_exchanges_rows_in_a_copy() -> None:
    data = numbered(6)
    index, new = torch.tensor([4, 1]), torch.tensor([200, 100], dtype=torch.uint8)
    changed = data.replace(index, new.view(2, 1, 1, 1).expand(2, 2, 2, 3), torch.tensor([2, 2]))
    assert changed.pixels[:, 0, 0, 0].tolist() == [0, 100, 2, 3, 200, 5]
    assert changed.labels.tolist() == [0, 2, 2, 0, 2, 2]
    assert data.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_replace_with_soft_labels_makes_all_labels_soft() -> None:
    data = numbered(4)
    soft = torch.tensor([[0.2, 0.3, 0.5]])
    changed = data.replace(torch.tensor([3]), data.pixels[:1], soft)
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.3, 0.5]]
    assert changed.labels.tolist() == [pytest.approx(row) for row in expected]
    twice = changed.replace(torch.tensor([0]), data.pixels[:1], soft)
    assert twice.labels[0].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert changed.labels[0].tolist() == [1, 0, 0]


def test_replace_casts_hard_labels_to_what_is_there() -> None:
    data = numbered(4)
    changed = data.replace(torch.tensor([3]), data.pixels[:1], torch.tensor([2]).int())
    assert changed.labels.tolist() == [0, 1, 2, 2]
    soft = ImageSet(data.pixels, one_hot(data.labels, 3))
    changed = soft.replace(torch.tensor([3, 0]), data.pixels[:2], torch.tensor([2, 1]))
    assert changed.labels.argmax(1).tolist() == [1, 1, 2, 2]
    assert changed.labels.sum(1).tolist() == [1, 1, 1, 1]


def test_one_hot_passes_soft_labels_through() -> None:
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    soft = torch.tensor([[0.25, 0.75]])
    assert one_hot(soft, 2) is soft


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2), "uint8"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.zeros(2), r"\(N, C, H, W\)"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3), "2 images but 3 labels"),
    ],
)
def test_sets_that_make_no_sense_are_refused(
    pixels: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSet(pixels, labels)


def mapped_from_a_file(tensor: torch.Tensor) -> bool:
    """Ask the kernel whether the tensor's memory belongs to a file (inode above 0)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, inode, *_ = line.split()
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= tensor.data_ptr() < high:
            return int(inode) > 0
    return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_large_sets_live_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbered(9)
    resident = data.subset(torch.arange(9))
    assert not mapped_from_a_file(resident.pixels)
    monkeypatch.setattr(images, "RESIDENT_BYTES", 12 * 5)
    assert mapped_from_a_file(data.subset(torch.arange(6)).pixels)
    assert not mapped_from_a_file(data.subset(torch.arange(5)).pixels)

    mapped = data.subset(torch.arange(9))
    assert torch.equal(mapped.pixels, resident.pixels)
    soft = torch.tensor([[0.5, 0.5, 0.0]])
    changed = mapped.replace(torch.tensor([2]), mapped.pixels[8:], soft)
    assert mapped_from_a_file(changed.pixels)
    assert changed.pixels[:, 0, 0, 0].tolist() == [0, 1, 8, 3, 4, 5, 6, 7, 8]
    assert mapped.pixels[2, 0, 0, 0] == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32))
def test_trusted_batches_take_each_image_at_most_once_per_pass(
    count: int, size: int, seed: int
) -> None:
    data = numbered(count)
    trusted = TrustedData(data.pixels, data.labels)
    size_found = min(max(size, 2), max(count, 2))
    if count == 1:  # batch norm learns from two at least
        for batch, labels in islice(trusted.batches(size, rng(seed)), 3):
            assert batch.shape == (2, 2, 2, 3)
            assert labels.tolist() == [0, 0]
        return
    per_pass = count // size_found
    batches = trusted.batches(size, rng(seed))
    for _ in range(3):
        seen: list[int] = []
        for batch, labels in islice(batches, per_pass):
            assert batch.shape == (size_found, 2, 2, 3)
            numbers = (batch[:, 0, 0, 0] * 255).round().long()
            assert torch.equal(labels, numbers % 3)
            seen += numbers.tolist()
        assert len(set(seen)) == len(seen) == per_pass * size_found
        if count % size_found == 0:
            assert sorted(seen) == list(range(count))


@given(st.integers(1, 60), st.integers(1, 20))
def test_no_batch_is_of_one_and_every_row_comes_once(count: int, size: int) -> None:
    """97 images in batches of 32 end in 33; a single image is taken twice."""
    batches = in_batches(torch.arange(count), size)
    assert min(map(len, batches)) >= 2
    assert max(map(len, batches)) <= max(size, 2) + 1
    expected = list(range(count)) if count > 1 else [0, 0]
    assert torch.cat(batches).tolist() == expected


def test_trusted_batches_are_shuffled_anew_and_augmented() -> None:
    pixels = coordinates(40, 6, 5)
    trusted = TrustedData(pixels, torch.arange(40), pad=1, flip=True)
    (first, a), (second, b) = islice(trusted.batches(40, rng()), 2)
    assert a.tolist() != b.tolist() != list(range(40))
    for batch in (first, second):
        moves = recover(pixels, to_bytes(batch), 1, True)
        assert len(set(moves)) > 5
