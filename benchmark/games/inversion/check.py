"""What an inversion record must be like, its numbers aside."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from benchmark.games.base import Arrays, Wrong
from benchmark.games.inversion.record import InversionRecord
from benchmark.games.inversion.score import covers
from benchmark.games.inversion.settings import Inversion
from benchmark.games.shapes import SIDE, answers, bits, known, known_source, shape, takes_turn
from benchmark.records.strict import Refused

#: Older records also say which run was chosen, which follows from the others.
_ARRAYS = (
    r"labels_(starts|selection|evaluation)|target|source|scale|masks|chosen|starts|inverted|triggered"
    r"|selection|evaluation|classes|restricted|on_clean_model|sigmas|smoothed"
)
#: How far the mean of the trigger's norm may lie outside of its range on the start images.
_SLACK = 1.5


def check(record: InversionRecord, arrays: Arrays, game: Inversion) -> Iterator[Wrong]:
    """Configurations and radii are the protocol's, and arrays have the sizes that follow."""
    known(arrays, _ARRAYS)
    starts, radii = game.start_images, game.sweep(record.defense.stages[0].params)
    if len(record.starts) != starts:
        yield "starts", f"are {len(record.starts)}, the protocol begins from {starts} images"
        return
    if wrong := [*_swept(record, game, radii), *_configured(record, game)]:
        yield from wrong
        return
    _images(arrays, starts)
    classes = len(record.swept[0].classes[0])
    yield from takes_turn(arrays, record, classes)
    yield from known_source(arrays, record, classes)
    labels = {name: arrays[f"labels_{name}"] for name in ("starts", "selection", "evaluation")}
    if (most := int(np.concatenate(list(labels.values())).max())) >= classes:
        yield "swept.0.classes", f"are {classes}, the evidence has images of class {most}"
    for name, wanted in (("evaluation", game.evaluation), ("selection", game.selection)):
        if len(labels[name]) != wanted:
            yield name, f"has {len(labels[name])} images in evidence, not {wanted}"
            return
        bits(arrays, name, wanted, len(record.tried), starts)
    yield from _scaled(float(arrays["scale"]), arrays)
    bits(arrays, "classes", game.evaluation, len(radii), game.curve_starts, classes)
    bits(arrays, "on_clean_model", game.evaluation, starts)
    bits(arrays, "masks", math.prod(arrays["starts"].shape[2:]), game.evaluation)
    # Where the true trigger covers most of the images, its pixels say nothing.
    if covers(arrays) == ("restricted" in arrays):
        yield "starts.0.reasr", "must be there unless the trigger covers the image, and only then"
    elif "restricted" in arrays:
        bits(arrays, "restricted", game.evaluation, starts)
    if "smoothed" in arrays or "sigmas" in arrays:
        if (sigmas := arrays["sigmas"].tolist()) != list(game.sigmas):
            yield "smoothed", f"is at noise levels {sigmas}, the protocol's are {game.sigmas}"
            return
        shape(arrays, "smoothed", len(sigmas), 2, game.evaluation)
        answers(arrays, "smoothed", classes)
    if "chosen" in arrays:
        shape(arrays, "chosen", starts)
        if (chosen := arrays["chosen"].tolist()) != [start.chosen for start in record.starts]:
            yield "chosen", f"is {chosen} in the evidence, which is not what the runs make"


def _configured(record: InversionRecord, game: Inversion) -> Iterator[Wrong]:
    """Runs are the protocol's configurations in its order, again with restarts where few."""
    due = game.attempts(record.defense.stages[0].name)
    for number, (run, (params, restart)) in enumerate(zip(record.tried, due, strict=False)):
        if (run.params, run.restart) != (params, restart):
            found = f"{run.params}, {run.restart}"[:100]
            said = f"is {found}, the protocol plays the configuration {params}, {restart}"
            yield f"tried.{number}", said
            return
    if len(record.tried) != len(due):
        said = f"are {len(record.tried)} runs, the protocol's configurations make {len(due)}"
        yield "tried", said


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


def _scaled(scale: float, arrays: Arrays) -> Iterator[Wrong]:
    """The scale is a mean over other images, which the start images speak for."""
    change = (arrays["triggered"].astype(np.float64) - arrays["starts"]) / 255
    norms = np.linalg.norm(change.reshape(len(change), -1), axis=1)
    low, high = norms.min() / _SLACK, norms.max() * _SLACK
    if not low <= scale <= high:
        yield "scale", f"is {scale:.4f}, the trigger on start images gives {low:.4f} to {high:.4f}"
