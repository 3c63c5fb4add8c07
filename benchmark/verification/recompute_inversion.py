"""Every number of an inversion record once more, from its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmark.games.inversion.record import InversionRecord, Inverted
from benchmark.games.inversion.settings import Inversion
from benchmark.protocol import Protocol
from benchmark.records.strict import Arrays, Refused
from benchmark.verification.recompute import SIDE, Wrong, count, differ, known, shape

_ARRAYS = (
    r"labels_(starts|selection|evaluation)|target|scale|masks|chosen|starts|inverted|triggered"
    r"|selection|evaluation|classes|restricted|on_clean_model|sigmas|smoothed"
)
#: How far the mean of the trigger's norm may lie outside of its range on the start images.
_SLACK = 1.5


def inversion(record: InversionRecord, arrays: Arrays, protocol: Protocol) -> Iterator[Wrong]:
    """Successes of every run and class from bits, fidelity from the inverted images."""
    game = protocol.inversion
    assert game is not None
    known(arrays, _ARRAYS)
    starts, runs = len(record.starts), len(record.tried)
    radii = game.sweep(record.defense.stages[0].params)
    if starts != game.start_images:
        yield "starts", f"are {starts}, the protocol begins from {game.start_images} images"
        return
    if wrong := list(_swept(record, game, radii)):
        yield from wrong
        return
    if wrong := list(_configured(record, game)):
        yield from wrong
        return
    _images(arrays, starts)
    labels, target = arrays["labels_evaluation"], int(arrays["target"])
    if target != record.target:
        yield "target", f"is {record.target}, the evidence has {target}"
        return
    others, selecting = labels != target, arrays["labels_selection"] != target
    for name, wanted in (("evaluation", game.evaluation), ("selection", game.selection)):
        if len(arrays[f"labels_{name}"]) != wanted:
            yield name, f"has {len(arrays[f'labels_{name}'])} images in evidence, not {wanted}"
            return
    for name, mask in (("evaluation", others), ("selection", selecting)):
        if getattr(record, name) != mask.sum():
            yield name, f"is {getattr(record, name)}, the evidence has {mask.sum()}"
        hits = _bits(arrays, name, len(mask), runs, starts)[:, :, mask].sum(2)
        for number, run in enumerate(record.tried):
            if list(getattr(run, name)) != hits[number].tolist():
                yield f"tried.{number}.{name}", f"the evidence has {hits[number].tolist()}"
    scale = float(arrays["scale"])
    if record.scale is None or not math.isclose(record.scale, scale, rel_tol=1e-6):
        yield "scale", f"is {record.scale}, the evidence has {scale}"
    yield from _scaled(scale, arrays)
    classes_there = len(record.swept[0].classes[0])
    if target != record.seed % classes_there:
        due = record.seed % classes_there
        yield "target", f"is {target}, repetition {record.seed} attacks class {due}"
    every = [arrays[f"labels_{name}"] for name in ("starts", "selection", "evaluation")]
    if (most := int(np.concatenate(every).max())) >= classes_there:
        yield "swept.0.classes", f"are {classes_there}, the evidence has images of class {most}"
    classes = _bits(arrays, "classes", len(labels), len(radii), game.curve_starts, classes_there)
    for number, level in enumerate(record.swept):
        found = tuple(
            tuple(count(hits[labels != label]) for label, hits in enumerate(start))
            for start in classes[number]
        )
        yield from differ(f"swept.{number}", level, level.model_copy(update={"classes": found}))
    # Where the true trigger covers more than half of the images, its pixels say nothing.
    pixels = math.prod(arrays["starts"].shape[2:])
    covered = _bits(arrays, "masks", pixels, len(labels)).mean() > 0.5
    if covered == ("restricted" in arrays):
        yield "starts.0.reasr", "must be there unless the trigger covers the image, and only then"
        return
    restricted = None if covered else _bits(arrays, "restricted", len(labels), starts)[:, others]
    clean = _bits(arrays, "on_clean_model", len(labels), starts)[:, others]
    for row, start in enumerate(record.starts):
        right = start.model_copy(
            update={
                "label": int(arrays["labels_starts"][row]),
                "reasr": None if restricted is None else count(restricted[row]),
                "on_clean_model": count(clean[row]),
            }
        )
        yield from differ(f"starts.{row}", start, right)
        yield from _fidelity(f"starts.{row}", start, arrays, row, scale)
        yield from _overlap(f"starts.{row}", start, arrays, row, covered)
    yield from _smoothed(record, arrays, game, labels, target)


def _configured(record: InversionRecord, game: Inversion) -> Iterator[Wrong]:
    """Runs are the protocol's configurations in its order, again with restarts where few."""
    due = game.attempts(record.defense.stages[0].name)
    for number, (run, (params, restart)) in enumerate(zip(record.tried, due, strict=False)):
        if (run.params, run.restart) != (params, restart):
            found, right = f"{run.params}, {run.restart}", f"{params}, {restart}"
            yield (
                f"tried.{number}",
                f"is {found:.100}, the protocol plays the configuration {right}",
            )
            return
    if len(record.tried) != len(due):
        yield (
            "tried",
            f"are {len(record.tried)} runs, the protocol's configurations make {len(due)}",
        )


def _swept(
    record: InversionRecord, game: Inversion, radii: tuple[float | None, ...]
) -> Iterator[Wrong]:
    """All classes are tried at the protocol's radii, from as many start images as it says."""
    found = tuple(level.radius for level in record.swept)
    if found != radii:
        yield "swept", f"is at radii {found}, the protocol's are {radii}"
        return
    for number, level in enumerate(record.swept):
        if len(level.classes) != game.curve_starts:
            due = f"the protocol's curves are of {game.curve_starts} start images"
            yield f"swept.{number}.classes", f"are of {len(level.classes)}, {due}"


def _images(arrays: Arrays, starts: int) -> None:
    """Start images, all of one size."""
    sides = arrays["starts"].shape[1:]
    for name in ("starts", "inverted", "triggered"):
        shape(arrays, name, starts, *sides)
        if arrays[name].dtype != np.uint8 or len(sides) != 3 or max(sides) > SIDE:
            raise Refused(name, f"are {arrays[name].dtype} of shape {arrays[name].shape}")
    shape(arrays, "labels_starts", starts)
    shape(arrays, "chosen", starts)


def _scaled(scale: float, arrays: Arrays) -> Iterator[Wrong]:
    """The scale is a mean over other images, which the start images speak for."""
    change = (arrays["triggered"].astype(np.float64) - arrays["starts"]) / 255
    norms = np.linalg.norm(change.reshape(len(change), -1), axis=1)
    low, high = norms.min() / _SLACK, norms.max() * _SLACK
    if not low <= scale <= high:
        yield "scale", f"is {scale:.4f}, the trigger on start images gives {low:.4f} to {high:.4f}"


def _fidelity(
    place: str, start: Inverted, arrays: Arrays, row: int, scale: float
) -> Iterator[Wrong]:
    begin, inverted, triggered = (
        arrays[name][row].astype(np.float64) / 255 for name in ("starts", "inverted", "triggered")
    )
    for part, change in (("distance", inverted - triggered), ("norm", inverted - begin)):
        value, right = getattr(start, part), float(np.linalg.norm(change) / scale)
        if not math.isclose(value, right, rel_tol=1e-4, abs_tol=1e-6):
            yield f"{place}.{part}", f"is {value:.6f}, the evidence gives {right:.6f}"


def _overlap(
    place: str, start: Inverted, arrays: Arrays, row: int, covered: bool
) -> Iterator[Wrong]:
    """The pixels that change most, at most as many as the true trigger changes."""
    begin, inverted = (arrays[name][row].astype(np.float64) for name in ("starts", "inverted"))
    mask = (arrays["triggered"][row] != arrays["starts"][row]).any(0).ravel()
    sizes = np.abs(inverted - begin).max(0).ravel()
    if start.overlap is None or covered or not mask.any():
        if (start.overlap is None) != (covered or not mask.any()):
            yield f"{place}.overlap", "must be null where the true trigger says nothing, and there"
        return
    size = min(int(mask.sum()), int((sizes > 0).sum()))
    least = np.sort(sizes)[::-1][size - 1] if size else np.inf
    surely, perhaps = sizes > least + 1e-6, sizes > least - 1e-6
    # Which of equals are taken is left open.
    ties_in, ties_out = (perhaps & ~surely & mask).sum(), (perhaps & ~surely & ~mask).sum()
    room = size - surely.sum()
    shared = (surely & mask).sum() + np.array([max(0, room - ties_out), min(room, ties_in)])
    low, high = shared / np.maximum(mask.sum() + size - shared, 1)
    if not low - 1e-6 <= start.overlap <= high + 1e-6:
        yield f"{place}.overlap", f"is {start.overlap:.6f}, the evidence gives {low:.6f}"


def _smoothed(
    record: InversionRecord, arrays: Arrays, game: Inversion, labels: np.ndarray, target: int
) -> Iterator[Wrong]:
    sigmas = [level.sigma for level in record.smoothed]
    if bool(sigmas) != ("smoothed" in arrays):
        yield "smoothed", "must be there where the evidence has it, and only there"
        return
    if not sigmas:
        return
    if sigmas != list(game.sigmas):
        yield "smoothed", f"is at noise levels {sigmas}, the protocol's are {list(game.sigmas)}"
        return
    shape(arrays, "smoothed", len(sigmas), 2, len(labels))
    others = labels != target
    for number, level in enumerate(record.smoothed):
        plain, triggered = arrays["smoothed"][number]
        right = level.model_copy(
            update={
                "clean": count(plain == labels),
                "asr": count(triggered[others] == target),
                "untriggered": count(plain[others] == target),
            }
        )
        yield from differ(f"smoothed.{number}", level, right)


def _bits(arrays: Arrays, name: str, images: int, *wanted: int) -> NDArray[np.bool_]:
    shape(arrays, name, *wanted, -(-images // 8))
    return np.unpackbits(arrays[name], axis=-1, count=images).astype(bool)
