"""Labelled images, held as bytes and handed out, augmented, as floats in [0, 1]."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Generator, Tensor

from benchmark.metrics import held_out_count

#: Arrays above this many bytes are kept in a temporary file that is mapped into memory.
RESIDENT_BYTES = min(1 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)

#: So many bytes of images are copied at once.
COPIED_BYTES = 16 << 20


def to_unit(pixels: Tensor) -> Tensor:
    """Turn uint8 pixels (B, C, H, W) into float32 in [0, 1], channels last in memory."""
    return pixels.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


def to_bytes(images: Tensor) -> Tensor:
    """Round images in [0, 1] to the 256 levels that an image file can hold."""
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8).contiguous()


def rows_at_once(pixels: Tensor) -> int:
    """How many images of uint8 pixels (N, C, H, W) are copied at once: some 16 MiB of them."""
    return max(1, COPIED_BYTES // max(1, pixels.shape[1:].numel()))


def empty_bytes(shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Allocate uint8 pixels; what would crowd the memory goes to an unnamed file instead."""
    size = int(np.prod(shape))
    if size <= RESIDENT_BYTES or torch.device(device).type != "cpu":
        return torch.empty(shape, dtype=torch.uint8, device=device)
    with tempfile.TemporaryFile(prefix="poisongames-") as backing:  # the map outlives the file
        backing.truncate(size)
        mapped = np.memmap(backing, dtype=np.uint8, mode="r+", shape=shape)
    return torch.from_numpy(mapped)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Attributes:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,), or float32 (N, K) probabilities where labels are soft.
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise ValueError(
                f"pixels must be uint8 (N, C, H, W), got {self.pixels.dtype} "
                f"{tuple(self.pixels.shape)}"
            )
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"{len(self.pixels)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def images(self) -> Tensor:
        """All images as float32 (N, C, H, W) in [0, 1]."""
        return to_unit(self.pixels)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def subset(self, index: Tensor) -> Self:
        """Copy the rows named by `index`, int64 (M,) or bool (N,)."""
        if index.dtype == torch.bool:
            index = index.nonzero().flatten()
        pixels = empty_bytes((len(index), *self.pixels.shape[1:]), self.device)
        for rows in torch.arange(len(index), device=index.device).split(rows_at_once(pixels)):
            pixels[rows] = self.pixels[index[rows]]
        return dataclasses.replace(self, pixels=pixels, labels=self.labels[index])

    def copy(self) -> Self:
        """All of it in memory, or in a file, of its own."""
        return self.subset(torch.arange(len(self), device=self.device))

    def replace(self, index: Tensor, pixels: Tensor, labels: Tensor) -> Self:
        """Return a copy in which the rows `index` are exchanged for other images and labels.

        Soft `labels` (M, K) turn all labels soft; hard ones are cast to what is there.
        """
        copy = self.copy()
        all_labels = copy.labels
        if labels.ndim == 2:
            all_labels = one_hot(all_labels, labels.shape[1])
        elif all_labels.ndim == 2:
            labels = one_hot(labels.long(), all_labels.shape[1])
        copy.pixels[index], all_labels[index] = pixels, labels.to(all_labels.dtype)
        return dataclasses.replace(self, pixels=copy.pixels, labels=all_labels)

    def to(self, device: torch.device | str) -> Self:
        return dataclasses.replace(
            self, pixels=self.pixels.to(device), labels=self.labels.to(device)
        )


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Turn int64 (B,) labels into float32 (B, K) probabilities; soft labels pass through."""
    if labels.ndim == 2:
        return labels
    return torch.nn.functional.one_hot(labels, classes).to(torch.float32)


def augment(pixels: Tensor, pad: int, flip: bool, rng: Generator) -> Tensor:
    """Shift each image by up to `pad` pixels, filling with black, and mirror half of them.

    Shift and mirror are one gather over the whole batch, so nothing waits for the device.

    Args:
        pixels: uint8 (B, C, H, W).
        rng: lives on the device of the pixels.
    """
    batch, _, height, width = pixels.shape
    device = pixels.device
    rows = torch.arange(height, device=device).expand(batch, height)
    columns = torch.arange(width, device=device).expand(batch, width)
    if flip:
        mirrored = torch.rand(batch, 1, generator=rng, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if pad:
        shift = torch.randint(2 * pad + 1, (2, batch, 1), generator=rng, device=device)
        rows, columns = rows + shift[0], columns + shift[1]
        pixels = torch.nn.functional.pad(pixels, (pad, pad, pad, pad))
    elif not flip:
        return pixels
    images = torch.arange(batch, device=device)
    # The indexed axes come first in the result: (B, H, W, C), which is channels last.
    picked = pixels.permute(0, 2, 3, 1)[images[:, None, None], rows[:, :, None], columns[:, None]]
    return picked.permute(0, 3, 1, 2)


def in_batches(rows: Tensor, size: int) -> list[Tensor]:
    """Split rows into batches; a last one of a single row joins the one before.

    Batch norm cannot learn from one image. All rows being one, it is taken twice.
    """
    if len(rows) == 1:
        return [rows.repeat(2)]
    batches = list(rows.split(max(size, 2)))
    if len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def batch_count(rows: int, size: int) -> int:
    """How many batches `in_batches` makes of so many rows."""
    return max(1, math.ceil((rows - 1) / max(size, 2)))


@dataclass(frozen=True)
class TrustedData(ImageSet):
    """The clean images a defender owns, with the augmentation that the protocol allows."""

    pad: int = 0
    flip: bool = False

    def split(self, share: float, rng: Generator) -> tuple[Self, Self]:
        """Two random parts, neither of them empty, the second with `share` of the images.

        Args:
            rng: may live on another device than the images.
        """
        if len(self) < 2:
            raise ValueError(f"two parts need two images at least, got {len(self)}")
        order = torch.randperm(len(self), generator=rng, device=rng.device).to(self.device)
        second = held_out_count(len(self), share)
        return self.subset(order[second:]), self.subset(order[:second])

    def batches(self, size: int, rng: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented batches (images, labels) without end, in shuffled passes.

        A batch has min(size, N) images; a pass's incomplete last batch is left out. Batch norm
        cannot learn from one image, so a batch has two at least, if need be the same one twice.
        """
        while True:
            order = torch.randperm(len(self), generator=rng, device=self.device)
            order = order.repeat(2) if len(order) == 1 else order
            size = min(max(size, 2), len(order))
            for rows in order[: len(order) - len(order) % size].split(size):
                pixels = augment(self.pixels[rows], self.pad, self.flip, rng)
                yield to_unit(pixels), self.labels[rows]
