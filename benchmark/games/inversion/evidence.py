"""What an inversion leaves behind: arrays that its numbers are made of, and a picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from benchmark.games.evaluation import narrow
from benchmark.games.inversion.play import Outcome
from benchmark.images import to_bytes

#: Start images on a picture, and how wide an image is drawn there, in pixels.
ROWS, SIDE = 5, 64


def arrays(outcome: Outcome) -> dict[str, np.ndarray]:
    """Who got the target under which trigger, as packed bits, and the images of the picture.

    `selection` and `evaluation` are (runs, starts, images), `classes` (radii, first starts, K,
    images), `restricted` and `on_clean_model` (starts, images), each packed along the images,
    and `masks` (images, pixels) along the pixels; `smoothed` holds answers, (noise levels, clean
    and triggered, images).
    """
    data = outcome.data
    bits = {
        "selection": np.stack([attempt.selection for attempt in outcome.attempts]),
        "evaluation": np.stack([attempt.evaluation for attempt in outcome.attempts]),
        "classes": np.stack(list(outcome.classes.values())),
        "on_clean_model": outcome.on_clean_model,
        "masks": data.masks.flatten(1).cpu().numpy(),
    }
    if outcome.restricted is not None:
        bits["restricted"] = outcome.restricted
    found: dict[str, np.ndarray] = {
        "target": np.array(data.target, np.int16),
        "scale": np.array(data.scale),
        "starts": data.starts.pixels.cpu().numpy(),
        "inverted": to_bytes(outcome.inverted).cpu().numpy(),
        "triggered": to_bytes(data.triggered_starts).cpu().numpy(),
        "labels_starts": narrow(data.starts.labels),
        "labels_selection": narrow(data.selection.labels),
        "labels_evaluation": narrow(data.evaluation.labels),
    }
    if data.source is not None:
        found["source"] = np.array(data.source, np.int16)
    if outcome.smoothed:
        found["sigmas"] = np.array(list(outcome.smoothed))
        found["smoothed"] = np.stack(list(outcome.smoothed.values()))
    return found | {name: np.packbits(hits, axis=-1) for name, hits in bits.items()}


def picture(outcome: Outcome) -> bytes:
    """A PNG: a row per start image, with the inverted image as it came about.

    Differences are scaled so that the largest fills the range around grey, row by row.
    """
    data = outcome.data
    count = min(ROWS, len(data.starts))
    begin = data.starts.pixels[:count].float() / 255
    inverted, true = outcome.inverted[:count], data.triggered_starts[:count]
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
