"""Turns an inversion game into a record, its evidence and a picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from benchmark import metrics
from benchmark.games.inversion.play import Outcome
from benchmark.games.inversion.record import InversionRecord, Inverted, Smoothed, Swept, Tried
from benchmark.games.transfer import Hits
from benchmark.images import to_bytes
from benchmark.records.record import Evidence, Rate

#: Start images on a picture, and how wide an image is drawn there, in pixels.
ROWS, SIDE = 5, 64


def record(
    fields: dict[str, Any],
    outcome: Outcome,
    *,
    reason: str | None,
    uses: dict[str, str],
    evidence: Evidence,
    picture: Evidence,
) -> InversionRecord:
    """The record of an inversion game that was played.

    Args:
        fields: what the records of all games say.
        reason: why the victim is not to be trusted, if it is not.
    """
    scene, target, fidelity = outcome.scene, outcome.scene.target, outcome.fidelity
    labels = scene.evaluation.labels.cpu().numpy()
    others = labels != target
    selecting = scene.selection.labels.cpu().numpy() != target
    return InversionRecord(
        **fields,
        scale=scene.scale,
        selection=int(selecting.sum()),
        evaluation=int(others.sum()),
        tried=tuple(
            Tried(
                params=attempt.params,
                restart=attempt.restart,
                selection=_per_row(attempt.selection[:, selecting]),
                evaluation=_per_row(attempt.evaluation[:, others]),
            )
            for attempt in outcome.attempts
        ),
        starts=tuple(
            Inverted(
                label=int(scene.starts.labels[row]),
                chosen=int(chosen),
                overlap=None if np.isnan(shared := fidelity.overlap[row]) else float(shared),
                distance=float(fidelity.distance[row]),
                norm=float(fidelity.norm[row]),
                reasr=None if (bits := fidelity.restricted) is None else _rate(bits[row, others]),
                on_clean_model=_rate(fidelity.on_clean_model[row, others]),
            )
            for row, chosen in enumerate(outcome.chosen)
        ),
        swept=tuple(
            Swept(
                radius=radius,
                classes=tuple(
                    tuple(_rate(hits[labels != label]) for label, hits in enumerate(start))
                    for start in found
                ),
            )
            for radius, found in outcome.classes.items()
        ),
        smoothed=tuple(
            Smoothed(
                sigma=sigma,
                clean=_rate(clean == labels),
                asr=_rate(triggered[others] == target),
                untriggered=_rate(clean[others] == target),
            )
            for sigma, (clean, triggered) in outcome.smoothed.items()
        ),
        uses=uses,
        evidence=evidence,
        picture=picture,
        status="invalid" if reason else "ok",
        reason=reason,
    )


def _rate(hits: NDArray[np.bool_]) -> Rate:
    return Rate.of(metrics.Rate(int(hits.sum()), len(hits)))


def _per_row(hits: Hits) -> tuple[int, ...]:
    return tuple(int(count) for count in hits.sum(1))


def evidence(outcome: Outcome) -> dict[str, np.ndarray]:
    """Who got the target under which trigger, as packed bits, and the images of the picture.

    `selection` and `evaluation` are (runs, starts, images), `classes` (radii, first starts, K,
    images), `restricted` and `on_clean_model` (starts, images), each packed along the images,
    and `masks` (images, pixels) along the pixels; `smoothed` holds answers, (noise levels, clean
    and triggered, images).
    """
    scene, fidelity = outcome.scene, outcome.fidelity
    bits = {
        "selection": np.stack([attempt.selection for attempt in outcome.attempts]),
        "evaluation": np.stack([attempt.evaluation for attempt in outcome.attempts]),
        "classes": np.stack(list(outcome.classes.values())),
        "on_clean_model": fidelity.on_clean_model,
        "masks": scene.masks.flatten(1).cpu().numpy(),
    }
    if fidelity.restricted is not None:
        bits["restricted"] = fidelity.restricted
    arrays: dict[str, np.ndarray] = {
        "target": np.array(scene.target, np.int16),
        "scale": np.array(scene.scale),
        "chosen": outcome.chosen,
        "starts": scene.starts.pixels.cpu().numpy(),
        "inverted": to_bytes(outcome.inverted).cpu().numpy(),
        "triggered": to_bytes(scene.triggered_starts).cpu().numpy(),
        "labels_starts": _labels(scene.starts.labels),
        "labels_selection": _labels(scene.selection.labels),
        "labels_evaluation": _labels(scene.evaluation.labels),
    }
    if outcome.smoothed:
        arrays["sigmas"] = np.array(list(outcome.smoothed))
        arrays["smoothed"] = np.stack(list(outcome.smoothed.values()))
    return arrays | {name: np.packbits(hits, axis=-1) for name, hits in bits.items()}


def _labels(labels: Tensor) -> np.ndarray:
    narrow: np.ndarray = labels.cpu().numpy().astype(np.int16)
    return narrow


def picture(outcome: Outcome) -> bytes:
    """A PNG: a row per start image, with the inverted image as it came about.

    Differences are scaled so that the largest fills the range around grey, row by row.
    """
    scene = outcome.scene
    count = min(ROWS, len(scene.starts))
    begin = scene.starts.pixels[:count].float() / 255
    inverted, true = outcome.inverted[:count], scene.triggered_starts[:count]
    steps = list(outcome.trail)[:-1][::2][-4:]
    columns = {
        "start": begin,
        **{f"step {step}": outcome.trail[step][:count] for step in steps},
        "inverted": inverted,
        "difference": _magnified(inverted - begin),
        "true trigger": true,
        "its difference": _magnified(true - begin),
    }
    gap, header = 4, 16
    width = len(columns) * (SIDE + gap) + gap
    sheet = Image.new("RGB", (width, header + count * (SIDE + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (title, images) in enumerate(columns.items()):
        left = gap + column * (SIDE + gap)
        draw.text((left, 2), title, fill="black", font_size=10)
        for row, image in enumerate(images):
            sheet.paste(_drawn(image), (left, header + row * (SIDE + gap)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _magnified(differences: Tensor) -> Tensor:
    largest = differences.abs().flatten(1).amax(1).clamp(min=1e-6)[:, None, None, None]
    return 0.5 + 0.5 * differences / largest


def _drawn(image: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1], enlarged without smoothing."""
    pixels = to_bytes(image.clamp(0, 1)[None])[0].cpu()
    # Anything but grey and colour is shown by its first channel.
    pixels = pixels if len(pixels) == 3 else pixels[:1].expand(3, -1, -1)
    shown = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    return shown.resize((SIDE, SIDE), Image.Resampling.NEAREST)
