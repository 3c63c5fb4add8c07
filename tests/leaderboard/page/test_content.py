"""What the page says: the numbers of the CSV files, pictures, plugins, and nothing from outside."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from benchmark.games.columns import attack_label, defender_label
from benchmark.games.frames import Picture
from benchmark.leaderboard.board import Board
from benchmark.leaderboard.chapters import frames
from benchmark.leaderboard.page import pictures

Opener = Callable[..., Page]
ROOT = Path(__file__).parent.parent.parent.parent


def written(board: Board, name: str) -> pd.DataFrame:
    """A frame as its CSV file has it."""
    text = board.frames[name].to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])


def agrees(shown: str, row: dict[str, Any], key: str) -> bool:
    """Whether a text says what a CSV file has, as it is or in percent."""
    value = row[key]
    if pd.isna(value):
        return shown == "–"
    if isinstance(value, bool):
        return shown == ("yes" if value else "no")
    if isinstance(value, str):
        recipe = row.get("recipe", "standard")
        clean = "clean models" if recipe == "standard" else f"clean models ({recipe})"
        return shown.startswith(value) or (value, shown) == ("none", clean)
    bounds = [row[key + end] for end in ("_low", "_high") if key + end in row]
    texts = shown.replace("[", "").replace("]", "").replace(",", "").split()
    return len(texts) in (1, 1 + len(bounds)) and any(
        all(
            abs(float(text) - factor * number) <= 0.5 * 10 ** -len(text.partition(".")[2]) + 1e-4
            for text, number in zip(texts, [value, *bounds], strict=False)
        )
        for factor in (1, 100)
    )


def test_every_number_is_the_one_of_the_csv_file(open_page: Opener, shown_board: Board) -> None:
    page = open_page(shown_board)
    for declared in frames():
        name = declared.name
        if not len(shown_board.frames.get(name, ())):
            continue
        keys = {column.title: column.key for column in declared.declared(shown_board.frames[name])}
        for title, frame in declared.parts(declared.order(written(shown_board, name))):
            table = page.locator(f"[id='{name}{f'-{title}' if title else ''}-tables'] table")
            if not table.count():
                assert all(column.hidden for column in declared.columns)
                continue
            shown = table.evaluate(
                "one => [...one.rows].map(row => [...row.cells].map(cell => cell.textContent))"
            )
            heads, cells = shown[0], shown[1:]
            assert len(cells) == min(50, len(frame))
            for texts, row in zip(cells, frame.to_dict("records"), strict=False):
                for head, text in zip(heads, texts, strict=True):
                    assert agrees(text, row, keys[head]), (name, head, text, row)
            # Nothing that was measured is missing.
            missing = {c.key for c in declared.columns if not c.hidden} - {keys[h] for h in heads}
            assert frame[[key for key in missing if key in frame]].isna().all(axis=None)


def test_bars_stand_for_their_numbers(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    frame = both_games.frames["repairs"]
    bars = page.locator("#repairs-tables tbody td[data-title='ASR left, paper'] .bar")
    for bar, row in zip(bars.all(), frame.to_dict("records"), strict=True):
        style = dict(re.findall(r"--(\w+): ?([\d.]+)", bar.get_attribute("style") or ""))
        for name, column in (("mean", ""), ("low", "_low"), ("high", "_high")):
            assert float(style[name]) == pytest.approx(row["asr_paper" + column], abs=1e-6)


def test_the_matrices_hold_every_pair(open_page: Opener, shown_board: Board) -> None:
    """Strong colour is good for the attacker in all of them."""
    page = open_page(shown_board)
    for name, who, value, factor, digits, gain in (
        ("repairs", "defense", "asr_paper", 100, 1, lambda asr: asr),
        ("detectability", "detector", "auc", 1, 2, lambda auc: min(1, 2 - 2 * auc)),
        ("inversions", "inverter", "asr_selected", 100, 1, lambda asr: 1 - asr),
    ):
        if name not in shown_board.frames:
            continue
        frame = shown_board.frames[name]
        frame = frame[frame.reading == "score"] if "reading" in frame else frame
        found = {}
        for cell in page.locator(f"#{name}-matrices .heat:not(.before)").all():
            style = cell.get_attribute("style") or ""
            strength = float(re.search(r"--strength: ?([\d.]+)", style)[1])  # type: ignore[index]
            number = cell.inner_text().replace("✓ ", "").split()[0]
            found[cell.get_attribute("data-of")] = number, strength
        assert set(found) == {
            f"{attack_label(row)}{'' if row.get('worked', True) else ' ‡'}, "
            f"{defender_label(row[who], row.get('trusted_share'))}"
            for row in frame.to_dict("records")
        }
        wanted = [
            (f"{factor * v:.{digits}f}", pytest.approx(max(0, gain(v)), abs=0.006))
            for v in frame[value]
        ]
        assert sorted(found.values()) == sorted(wanted, key=lambda one: (one[0], one[1].expected))


def test_pictures_are_those_of_the_evidence(open_page: Opener, with_pictures: Board) -> None:
    page = open_page(with_pictures)
    shown = page.locator("#inversion .gallery img")
    inverted = with_pictures.pictures["Inversion"]
    assert shown.count() == len(inverted) > 0
    for image, picture in zip(shown.all(), inverted, strict=True):
        content = (image.get_attribute("src") or "").removeprefix("data:image/png;base64,")
        file = with_pictures.sources.folders[0] / "evidence" / picture.file
        assert base64.b64decode(content) == file.read_bytes()
        assert (image.get_attribute("alt") or "").startswith(picture.title)
        assert image.get_attribute("loading") == "lazy"
    shown.first.scroll_into_view_if_needed()
    width, _ = Image.open(with_pictures.sources.evidence(inverted[0].file)).size
    expect(shown.first).to_have_js_property("naturalWidth", width)


def test_a_missing_picture_is_said_to_be_missing(
    with_pictures: Board, tmp_path: Path, open_page: Opener
) -> None:
    gone = dataclasses.replace(with_pictures.sources, folders=[tmp_path])
    page = open_page(dataclasses.replace(with_pictures, sources=gone))
    expect(page.locator("#inversion .gallery img")).to_have_count(0)
    expect(page.locator("#inversion figure").first).to_contain_text("is missing")


@pytest.mark.parametrize("channels", [1, 3])
def test_triggers_are_shown_with_what_they_change(
    channels: int, open_page: Opener, both_games: Board
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, channels, 6, 5), dtype=np.uint8)
    pixels[1, 0] = pixels[0, 0]
    uri = pictures.triggered(pixels)
    assert uri == pictures.triggered(pixels)
    content = base64.b64decode(uri.removeprefix("data:image/bmp;base64,"))
    sheet = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert sheet.shape == (3 * 7 - 1, 4 * 6 - 1, 3)
    for image in range(4):
        for channel in range(3):
            clean, after = (
                pixels[part, image, channel % channels].astype(int) for part in range(2)
            )
            for line, wanted in enumerate((clean, after, np.minimum(255, 5 * abs(after - clean)))):
                top, left = 7 * line, 6 * image
                assert (sheet[top : top + 6, left : left + 5, channel] == wanted).all()
    shown = Picture("a <b>", "triggers", pixels=pixels)
    page = open_page(dataclasses.replace(both_games, pictures={"Victims": [shown]}))
    image = page.locator("#victims .gallery img")
    image.scroll_into_view_if_needed()
    expect(image).to_have_js_property("naturalWidth", 23)
    expect(page.locator("#victims figcaption")).to_have_text("a <b>")
