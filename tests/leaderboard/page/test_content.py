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

from benchmark.leaderboard.board import Board, Trigger
from benchmark.leaderboard.fronts import attack_label
from benchmark.leaderboard.page import pictures

Opener = Callable[..., Page]
ROOT = Path(__file__).parent.parent.parent.parent

#: Headings that are not the name of their column.
HEADINGS = {
    "r": "trusted_share",
    "r of the detector": "detector_share",
    "CDA": "cda",
    "ASR": "asr",
    "ASR as in the game": "asr_game",
    "ASR on clean model": "asr_clean",
    "ASR before": "asr_before",
    "ASR left, paper": "asr_paper",
    "ASR left, deployable": "asr_deployable",
    "highest ASR left": "asr_paper",
    "highest ASR left, deployable": "asr_deployable",
    "lowest AUC": "auc",
    "CDA loss (points)": "cda_loss",
    "CDA loss, paper (points)": "cda_loss_paper",
    "CDA loss, deployable (points)": "cda_loss_deployable",
    "CDA - ASR, paper": "success_paper",
    "CDA - ASR, deployable": "success_deployable",
    "CDA lost on clean models, paper": "clean_loss_paper",
    "CDA lost on clean models, deployable": "clean_loss_deployable",
    "time / training": "overhead",
    "over the grid (±)": "instability",
    "AUC of the guard": "guard_auc",
    "AUC": "auc",
    "AUC of the target (oracle)": "oracle_auc",
    "best accuracy (oracle)": "best_accuracy",
    "AP": "average_precision",
    "ReASR": "reasr",
    "reversed ASR": "reversed_asr",
    "best": "asr_best",
    "published": "asr_published",
    "selected": "asr_selected",
    "best with restarts": "asr_best_restarts",
    "selected with restarts": "asr_selected_restarts",
    "on the clean model": "asr_clean_model",
    "AUC of the target": "target_auc",
    "ASR, target": "asr_target",
    "normal classes, mean": "asr_normal",
    "normal classes, largest": "asr_largest",
    "accuracy": "clean",
    "target, untriggered": "untriggered",
    "clean models": "clean_models",
    "σ": "sigma",
    "ε": "epsilon",
}
PERCENT = re.compile(
    "(re)?asr|reversed_asr|cda|success|clean_loss|false_alarms|best_accuracy|instability|trusted_share|detector_share|native_accuracy|coin_game"
    "|target_found|clean$|untriggered|score$|mean$"
)
SCORES = {
    "clean models": "score_clean",
    "poisoned, the target": "score_target",
    "poisoned, another class": "score_other",
}
#: Tables, the CSV files they show, and headings that differ from the rest.
TABLES = {
    "repairs": ("repairs", {}),
    "victims-table": ("victims", {}),
    "pareto": ("pareto", {}),
    "defenders-frame": ("defenders", {}),
    "examinations": ("detectability", {"ASR before": "victim"}),
    "norms": ("norms", {}),
    "classscores": ("classscores", SCORES),
    "costs-robustness": ("costs", {}),
    "costs-detectability": ("costs", {}),
    "radii": ("radii", {}),
    "inversions": ("inversions", {"true trigger": "victim"}),
    "fidelity": ("inversions", {}),
    "configurations": ("configurations", {"sigma": "sigma", "epsilon": "epsilon"}),
    "smoothed": ("smoothed", {}),
}


def written(board: Board, name: str) -> pd.DataFrame:
    """A frame as its CSV file has it, with the ASR of its victims."""
    text = board.frames[name].to_csv(index=False, float_format="%.6f", lineterminator="\n")
    frame = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
    if {"attack", "m"} <= set(frame) and name != "victims":
        victims = board.frames["victims"].set_index(["attack", "m"]).round(6)
        for end in ("", "_low", "_high"):
            values = victims["asr" + end].to_dict()
            frame["victim" + end] = [values.get(key) for key in zip(frame.attack, frame.m)]  # noqa: B905
    return frame


def agrees(shown: str, row: dict[str, Any], column: str) -> bool:
    value = row[column]
    if pd.isna(value):
        return shown == "–"
    if isinstance(value, bool):
        return shown == ("yes" if value else "no")
    if isinstance(value, str):
        return shown == value.replace("none", "clean") if column == "attack" else shown == value
    factor = 100 if PERCENT.match(column) or column == "victim" else 1
    bounds = [row[column + end] for end in ("_low", "_high") if column + end in row]
    texts = shown.replace("%", "").replace("[", "").replace("]", "").replace(",", "").split()
    return len(texts) == 1 + len(bounds) and all(
        abs(float(text) - factor * number) <= 0.5 * 10 ** -len(text.partition(".")[2]) + 1e-4
        for text, number in zip(texts, [value, *bounds], strict=True)
    )


def test_every_number_is_the_one_of_the_csv_file(open_page: Opener, shown_board: Board) -> None:
    page = open_page(shown_board)
    checked = set()
    for key, (name, own) in TABLES.items():
        table = page.locator(f"#{key}-tables table")
        if name not in shown_board.frames:
            assert table.count() == 0
            continue
        frame = written(shown_board, name)
        if name == "costs":
            frame = frame[frame.game == key.removeprefix("costs-")]
        if name == "victims":
            frame["attack"] = frame.attack.replace("none", "none ")
        heads = [text.strip() for text in table.locator("thead th").all_inner_texts()]
        cells = table.locator("tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.children].map(cell => cell.innerText.trim()))"
        )
        assert len(cells) == len(frame)
        for shown, row in zip(cells, frame.to_dict("records"), strict=True):
            for head, text in zip(heads, shown, strict=True):
                column = (
                    own.get(head) or HEADINGS.get(head) or head.replace(",", "").replace(" ", "_")
                )
                if column == "attack" and name == "victims":
                    assert text == row["attack"].strip()
                else:
                    assert agrees(text, row, column), (key, head, text, row)
                checked.add((name, column))
    for name, frame in shown_board.frames.items():
        left = {c for c in frame if frame[c].notna().any() and not c.endswith(("_low", "_high"))}
        left -= {column for table, column in checked if table == name}
        # What is the same everywhere, what another table shows, and what is in a sentence.
        left -= {"boost", "recipe", "scale", "seconds", "dominates", "models", "seeds", "threat"}
        left -= {"clearly_dominates", "clearly_dominated_by", "trusted_share", "game"}
        assert name == "curves" or not left, (name, left)


def test_bars_stand_for_their_numbers(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    frame = both_games.frames["repairs"]
    bars = page.locator("#repairs-tables tbody td:nth-child(9) .bar")
    for bar, row in zip(bars.all(), frame.to_dict("records"), strict=True):
        style = dict(re.findall(r"--(\w+): ?([\d.]+)", bar.get_attribute("style") or ""))
        for name, column in (("mean", ""), ("low", "_low"), ("high", "_high")):
            assert float(style[name]) == pytest.approx(row["asr_paper" + column], abs=1e-6)


def test_the_matrices_hold_every_pair(open_page: Opener, shown_board: Board) -> None:
    marked = {True: "", False: " ‡"}
    page = open_page(shown_board)
    for key, name, who, value, factor, digits in (
        ("detectors", "detectability", "detector", "auc", 1, 2),
        ("inversions", "inversions", "inverter", "asr_selected", 100, 1),
    ):
        if name not in shown_board.frames:
            continue
        frame = shown_board.frames[name]
        frame = frame[frame.reading == "score"] if "reading" in frame else frame
        cells = page.locator(f"#{key}-matrices .heat")
        assert {(cell.get_attribute("data-of"), cell.inner_text()) for cell in cells.all()} == {
            (
                f"{attack_label(row)}{marked[row.get('worked', True)]}, {row[who]}",
                f"{factor * row[value]:.{digits}f}",
            )
            for row in frame.to_dict("records")
        }


def test_seconds_of_all_cells_and_victims(open_page: Opener, shown_board: Board) -> None:
    cells = open_page(shown_board).locator("#seconds-tables tbody td:last-child")
    frames = [frame.seconds.dropna() for frame in shown_board.frames.values() if "seconds" in frame]
    assert cells.all_inner_texts() == [f"{value:.1f}" for frame in frames for value in frame]


def test_pictures_are_those_of_the_evidence(open_page: Opener, with_pictures: Board) -> None:
    page = open_page(with_pictures)
    shown = page.locator("#inversion .gallery img")
    assert shown.count() == len(with_pictures.inverted) > 0
    for image, picture in zip(shown.all(), with_pictures.inverted, strict=True):
        content = (image.get_attribute("src") or "").removeprefix("data:image/png;base64,")
        file = with_pictures.folder / "evidence" / picture.file
        assert base64.b64decode(content) == file.read_bytes()
        assert (image.get_attribute("alt") or "").startswith(picture.title)
        assert image.get_attribute("loading") == "lazy"
    shown.first.scroll_into_view_if_needed()
    width, _ = Image.open(with_pictures.folder / "evidence" / with_pictures.inverted[0].file).size
    expect(shown.first).to_have_js_property("naturalWidth", width)


def test_a_missing_picture_is_said_to_be_missing(
    with_pictures: Board, tmp_path: Path, open_page: Opener
) -> None:
    page = open_page(dataclasses.replace(with_pictures, folder=tmp_path))
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
    page = open_page(dataclasses.replace(both_games, triggers=(Trigger("a <b>", pixels),)))
    image = page.locator("#victims .gallery img")
    image.scroll_into_view_if_needed()
    expect(image).to_have_js_property("naturalWidth", 23)
    expect(page.locator("#victims figcaption")).to_have_text("a <b>")
