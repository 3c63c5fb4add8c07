"""What a reader does with the page: sort, filter, point, press keys, choose light or dark."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from benchmark.games.columns import attack_label
from benchmark.leaderboard.board import Board
from benchmark.leaderboard.page import render

Opener = Callable[..., Page]


def column(table: Locator, title: str) -> list[str]:
    """The texts of a column, as they stand from top to bottom."""
    heads = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    place = next(number for number, text in enumerate(heads) if text == title)
    return table.locator(f"tbody tr > :nth-child({place + 1})").all_inner_texts()


def first_number(text: str) -> float:
    return float(text.split()[0])


def test_a_heading_sorts_by_mouse_and_by_keys(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    table = page.locator("#repairs-tables table")
    frame = both_games.frames["repairs"]
    head = table.get_by_role("columnheader", name="ASR left, paper")
    button = head.get_by_role("button")
    expect(head).not_to_have_attribute("aria-sort", re.compile(".*"))
    button.click()
    expect(head).to_have_attribute("aria-sort", "descending")
    shown = [first_number(text) for text in column(table, "ASR left, paper")]
    assert shown == [round(100 * v, 1) for v in sorted(frame.asr_paper, reverse=True)]
    button.press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert [first_number(text) for text in column(table, "ASR left, paper")] == shown[::-1]
    button.press("Space")
    expect(head).to_have_attribute("aria-sort", "descending")
    table.get_by_role("columnheader", name="attack").get_by_role("button").click()
    ordered = frame.sort_values(["attack", "m"], kind="stable").to_dict("records")
    assert column(table, "attack") == list(map(attack_label, ordered))
    expect(head).not_to_have_attribute("aria-sort", re.compile(".*"))


def test_what_was_not_measured_comes_last_either_way(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    page.locator("#detectability-tables .all").click()
    table = page.locator("#detectability-tables table")
    button = table.get_by_role("columnheader", name="coin game").get_by_role("button")
    missing = int(both_games.frames["detectability"].coin_game.isna().sum())
    assert missing
    for _ in range(2):
        button.click()
        shown = column(table, "coin game")
        assert shown[-missing:] == ["–"] * missing
        assert "–" not in shown[:-missing]


def test_words_and_menus_filter_together(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    host = page.locator("#repairs-tables")
    table, count = host.locator("table"), host.locator(".count")
    frame = both_games.frames["repairs"]
    expect(count).to_have_attribute("aria-live", "polite")
    expect(count).to_have_text(f"{len(frame)} of {len(frame)} rows")
    host.get_by_role("searchbox").fill("LABEL strip")
    wanted = frame[frame.threat.str.contains("label") & (frame.defense == "strip")]
    assert 0 < len(wanted) < len(frame)
    expect(count).to_have_text(f"{len(wanted)} of {len(frame)} rows")
    assert column(table, "attack") == list(map(attack_label, wanted.to_dict("records")))
    host.get_by_label("attack", exact=True).select_option("badnets (m=50)")
    wanted = wanted[(wanted.attack == "badnets") & (wanted.m == 50)]
    expect(count).to_have_text(f"{len(wanted)} of {len(frame)} rows")
    assert set(column(table, "attack")) == {"badnets (m=50)"}
    host.get_by_role("searchbox").fill("no such row")
    expect(count).to_have_text(f"0 of {len(frame)} rows")
    host.get_by_role("searchbox").fill("")
    host.get_by_label("attack", exact=True).select_option("all")
    expect(count).to_have_text(f"{len(frame)} of {len(frame)} rows")
    # Other tables are not touched by it.
    detectors = len(both_games.frames["detectability"])
    expect(page.locator("#detectability-tables .count")).to_contain_text(f"of {detectors}")


def test_the_first_view_has_the_columns_that_matter_and_fits(
    open_page: Opener, shown_board: Board
) -> None:
    """Without scrolling sideways; a switch brings all columns."""
    page = open_page(shown_board)
    if "pareto" in shown_board.frames:
        heads = page.locator("#pareto-tables thead th:visible").all_inner_texts()
        assert {"ASR left", "AUC"} < {head.strip() for head in heads}
    for host in page.locator("[id$=-tables]").all():
        area = host.locator(".scroll")
        assert area.evaluate("one => one.scrollWidth <= one.clientWidth"), host.inner_text()
        before = len(host.locator("thead th:visible").all())
        if host.locator(".all").count():
            host.locator(".all").click()
            assert len(host.locator("thead th:visible").all()) > before


def test_pointing_at_a_number_shows_the_curves_behind_it(
    open_page: Opener, board_of: Any, record: Any
) -> None:
    board = board_of(*(record("badnets", "repairer", seed, 9 * seed) for seed in range(3)))
    page = open_page(board)
    tip, number = page.locator("#tip"), page.locator("#repairs-matrices [data-row]").first
    expect(tip).to_be_hidden()
    number.hover()
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("badnets (m=50), repairer r=5%")
    expect(tip.locator("li")).to_have_text(
        [f"seed {seed} both: step 50, ASR {10 * seed:.1f} %, 1.0 points lost" for seed in range(3)]
    )
    # The lower the ASR, the lower the point stands; its place on the axis is the mean's.
    heights = [
        tip.locator(".curve").nth(seed).locator("circle").last.bounding_box()["y"]  # type: ignore[index]
        for seed in range(3)
    ]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.1)
    assert heights[0] > heights[1]
    # A protocol that is not released has no known budget.
    expect(tip.locator("path.budget")).to_have_count(0)
    page.locator("h1").hover()
    expect(tip).to_be_hidden()


def test_the_budget_of_a_released_protocol_is_drawn(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    expect(page.locator(".facts")).to_contain_text("2 points")
    page.locator("#repairs-matrices [data-row]").first.hover()
    tip = page.locator("#tip")
    line, tick = tip.locator("path.budget"), tip.locator("text", has_text=re.compile("^2$"))
    at, wanted = line.bounding_box(), tick.bounding_box()
    assert at is not None
    assert wanted is not None
    assert at["x"] == pytest.approx(wanted["x"] + wanted["width"] / 2, abs=1)


def test_focus_shows_the_curves_and_escape_closes_them(
    open_page: Opener, both_games: Board
) -> None:
    page = open_page(both_games)
    tip = page.locator("#tip")
    cells = page.locator("#repairs-matrices [data-row]")
    cells.first.focus()
    expect(tip).to_be_visible()
    expect(cells.first).to_have_attribute("aria-describedby", "tip")
    first = tip.inner_text()
    page.keyboard.press("ArrowRight")
    expect(cells.nth(1)).to_be_focused()
    assert tip.inner_text() != first
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    expect(cells.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(tip).to_be_visible()


def test_a_tap_shows_the_curves(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games, viewport={"width": 390, "height": 844}, has_touch=True)
    tip = page.locator("#tip")
    page.locator("#repairs-matrices [data-row]").first.tap()
    expect(tip).to_be_visible()
    box = tip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["y"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844
    # On a small screen it may cover what lies around it: a tap on itself closes it too.
    tip.tap()
    expect(tip).to_be_hidden()
    page.locator("#repairs-matrices [data-row]").nth(1).tap()
    expect(tip).to_be_visible()
    page.touchscreen.tap(195, 4 if box["y"] > 8 else 840)
    expect(tip).to_be_hidden()


def test_points_of_the_overview_explain_themselves(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    frame = both_games.frames["pareto"]
    shown = frame.dropna(subset=["asr_paper", "auc"])
    assert shown.front.isna().any()  # some of them are on no front
    marks = page.locator("[data-point]")
    expect(marks).to_have_count(len(shown))
    places = {}
    for mark, row in zip(marks.all(), shown.to_dict("records"), strict=True):
        mark.focus()
        tip = page.locator("#tip")
        expect(tip).to_contain_text(f"{row['attack']} (m={row['m']})")
        expect(tip).to_contain_text(f"ASR left {100 * row['asr_paper']:.1f} [")
        expect(tip).to_contain_text(f"AUC {row['auc']:.2f} [")
        assert ("on the Pareto front" in tip.inner_text()) == (row["front"] is True)
        # In one call, since the page scrolls to what has the focus.
        places[row["asr_paper"], row["auc"]] = mark.evaluate(
            """mark => {
              const own = mark.querySelector(".reach").getBoundingClientRect();
              const chart = mark.ownerSVGElement.getBoundingClientRect();
              return [own.x - chart.x, own.y - chart.y];
            }"""
        )
    (xs, ys), (px, py) = zip(*places, strict=True), zip(*places.values(), strict=True)
    assert sorted(xs) == [x for _, x in sorted(zip(px, xs, strict=True))]
    assert sorted(ys) == [y for _, y in sorted(zip(py, ys, strict=True), reverse=True)]


def test_the_matrix_changes_its_reading(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    matrix, frame = page.locator("#repairs-matrices"), both_games.frames["repairs"]
    for reading, name in (
        ("paper", "paper's reading"),
        ("deployable", "deployable reading"),
    ):
        button = matrix.get_by_role("button", name=name)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        for cell in matrix.locator("[data-row]").all():
            row = frame.iloc[int(cell.get_attribute("data-row") or "")]
            repaired = row.worked and row[f"asr_{reading}_high"] <= 0.05
            text = cell.inner_text()
            assert text.startswith("✓ ") == repaired
            value = f"{100 * row[f'asr_{reading}']:.1f}"
            assert text.removeprefix("✓ ").split()[0] == value
            assert ("†" in text) == (row.worked and row[f"untouched_{reading}"] > 0)
            said = cell.get_attribute("aria-label") or ""
            assert said.startswith(f"{row.attack} (m={row.m})")
            assert ("repaired" in said) == repaired
    expect(matrix.locator("[data-row]")).to_have_count(len(frame))
    # Across by name, then by share.
    names = sorted(set(zip(frame.defense, frame.trusted_share.fillna(0), strict=True)))
    heads = matrix.locator("thead th").all_inner_texts()
    assert heads[1:] == [name + (f" r={100 * share:g}%" if share else "") for name, share in names]


def test_thousands_of_rows(open_page: Opener, board_of: Any, record: Any) -> None:
    small = board_of(record("badnets", None, 0, 90), record("badnets", "repairer", 0, 9))
    rows = 10_000
    frame = small.frames["repairs"].loc[[0] * rows].reset_index(drop=True)
    frame["attack"] = [f"attack-{7919 * number % rows}" for number in range(rows)]
    frame["asr_paper"] = [104729 * number % rows / rows for number in range(rows)]
    frames = {"victims": small.frames["victims"], "repairs": frame}
    details = {"repairs": list(small.details["repairs"]) * rows}
    board = dataclasses.replace(small, frames=frames, details=details)
    begun = time.perf_counter()
    content = render(board)
    print(f"rendered {rows} rows to {len(content) / 1e6:.1f} MB in {_since(begun)}")
    begun = time.perf_counter()
    page = open_page(board)
    host = page.locator("#repairs-tables")
    table, count, more = host.locator("table"), host.locator(".count"), host.locator(".more")
    expect(count).to_have_text(f"{rows} of {rows} rows")
    print(f"opened in {_since(begun)}")
    for title, wanted in (
        ("attack", [f"attack-{number}" for number in range(50)]),
        ("ASR left, paper", [f"{100 * (1 - (n + 1) / rows):.1f}" for n in range(50)]),
    ):
        head = table.get_by_role("columnheader", name=title)
        took = head.get_by_role("button").evaluate(
            "button => { const t = performance.now(); button.click();"
            " return performance.now() - t }"
        )
        print(f"sorted by {title} in {took:.0f} ms")
        assert [text.split()[0] for text in column(table, title)] == wanted
    expect(more).to_have_text(f"Show 50 more of {rows - 50}")
    more.click()
    expect(table.locator("tbody tr")).to_have_count(100)
    took = host.get_by_role("searchbox").evaluate(
        "box => { const t = performance.now(); box.value = 'attack-99';"
        " box.dispatchEvent(new Event('input')); return performance.now() - t }"
    )
    print(f"filtered in {took:.0f} ms")
    expect(count).to_have_text(f"111 of {rows} rows")
    expect(more).to_have_text("Show 50 more of 61")


def _since(begun: float) -> str:
    return f"{time.perf_counter() - begun:.2f} s"
