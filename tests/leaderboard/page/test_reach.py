"""That fingers hit and keys reach what they should, and nothing hides or falls apart."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from benchmark.leaderboard.board import Board
from benchmark.records.record import AttackRef

Opener = Callable[..., Page]
PHONE = {"width": 390, "height": 844}
WIDE = {"width": 1440, "height": 1000}
#: Everything that can be pressed or typed into but is smaller than WCAG 2.2 asks for.
SMALL = """() => [...document.querySelectorAll("a, button, input, select, [data-point] .reach")]
  .filter((one) => one.checkVisibility() && !one.matches(".skip"))
  .map((one) => [one.outerHTML, one.getBoundingClientRect()])
  .filter(([, { width, height }]) => width < 24 || height < 24)
  .map(([html, { width, height }]) => [html, width, height])"""
#: Where the text inside an element starts a line, by what stands before that.
LINES = """(element) => {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const found = [];
  let [before, bottom] = ["", Infinity];
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    for (let at = 0; at < node.length; at += 1) {
      const range = document.createRange();
      range.setStart(node, at);
      range.setEnd(node, at + 1);
      const box = range.getBoundingClientRect();
      if (box.top >= bottom) found.push(before);
      [before, bottom] = [before + node.data[at], box.bottom];
    }
  return found;
}"""


def stops(root: Locator) -> int:
    return int(
        root.locator("a, button").evaluate_all(
            "all => all.filter((one) => one.tabIndex >= 0).length"
        )
    )


@pytest.mark.parametrize("size", [PHONE, WIDE])
def test_targets_are_large_enough(
    size: dict[str, int], open_page: Opener, shown_board: Board
) -> None:
    page = open_page(shown_board, viewport=size)
    assert page.locator("th button").count() > 20
    assert page.evaluate(SMALL) == []


def test_every_matrix_and_table_is_one_tab_stop(open_page: Opener, shown_board: Board) -> None:
    page = open_page(shown_board)
    bodies = page.locator("[id$=-matrices] tbody, [id$=-tables] tbody").all()
    several = [body for body in bodies if body.locator("a, button").count()]
    assert len(several) > 2
    for body in several:
        assert stops(body) == 1
    # What was redrawn, too.
    matrix = page.locator("[id$=-matrices]:has(.choice)").first
    matrix.locator(".choice button").last.click()
    assert stops(matrix.locator("tbody")) == 1
    table = page.locator("[id$=-tables]:has(tbody a)").first
    table.get_by_role("searchbox").fill("badnets")
    assert stops(table.locator("tbody")) == 1


def test_arrow_keys_move_through_a_matrix(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    grid = page.get_by_role("grid").first
    rows = grid.locator("tbody tr").count()
    columns = grid.locator("thead th").count()
    tip = page.locator("#tip")

    def expect_at(row: int, column: int) -> None:
        cell = grid.locator("tbody tr").nth(row).locator("td").nth(column).locator(".heat")
        expect(cell).to_be_focused()
        assert stops(grid) == 1
        expect(tip.locator(".head")).to_contain_text((cell.get_attribute("data-of") or "")[:5])

    page.locator("#repairs-matrices .choice button").last.focus()
    page.keyboard.press("Tab")
    expect_at(0, 0)
    for key, place in [
        ("ArrowLeft", (0, 0)),
        ("ArrowUp", (0, 0)),
        ("ArrowRight", (0, 1)),
        ("ArrowDown", (1, 1)),
        ("End", (1, columns - 1)),
        ("ArrowRight", (1, columns - 1)),
        ("ArrowLeft", (1, columns - 2)),
        ("Home", (1, 0)),
        ("Control+End", (rows - 1, columns - 1)),
        ("ArrowDown", (rows - 1, columns - 1)),
        ("Control+Home", (0, 0)),
    ]:
        page.keyboard.press(key)
        expect_at(*place)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    # The way out, and back to where one was.
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.matches('.heat')")
    page.keyboard.press("Shift+Tab")
    expect_at(1, 0)


def test_gaps_are_skipped(open_page: Opener, board_of: Any, record: Any) -> None:
    pairs = [("a", "x"), ("a", "y"), ("b", "y"), ("c", "x"), ("c", "y")]
    victims = [record(attack, None, 0, 90) for attack in "abc"]
    page = open_page(board_of(*victims, *(record(*pair, 0, 9) for pair in pairs)))
    cells = page.locator("#repairs-matrices .heat:not(.before)")
    expect(cells).to_have_count(len(pairs))
    cells.first.press("ArrowDown")
    expect(cells.nth(3)).to_be_focused()
    cells.nth(3).press("ArrowUp")
    expect(cells.first).to_be_focused()


def test_arrow_keys_move_through_a_table_without_hiding(
    open_page: Opener, both_games: Board
) -> None:
    page = open_page(both_games, viewport={"width": 700, "height": 800}, reduced_motion="reduce")
    page.locator("#repairs-tables .all").click()
    body = page.locator("#repairs-tables tbody")
    rows = body.locator("tr")
    rows.first.locator("a").first.focus()
    page.keyboard.press("ArrowRight")
    expect(rows.first.locator("a").last).to_be_focused()
    for _ in range(20):
        page.keyboard.press("ArrowDown")
    expect(rows.nth(20).locator("a").last).to_be_focused()
    for key in ["ArrowUp"] * 8 + ["ArrowLeft"] + ["ArrowUp"] * 4 + ["ArrowRight"]:
        page.keyboard.press(key)
        hidden = page.evaluate(
            """() => {
              const own = document.activeElement;
              const first = own.closest("tr").cells[0];
              const right = first.contains(own) ? -Infinity : first.getBoundingClientRect().right;
              return own.getBoundingClientRect().left < right - 1;
            }"""
        )
        assert not hidden, key
    expect(rows.nth(8).locator("a").last).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#plugins tr:target")).to_have_count(1)


def test_readers_hear_grids_cells_and_the_hint(open_page: Opener, shown_board: Board) -> None:
    page = open_page(shown_board)
    grids = page.get_by_role("grid")
    assert grids.count() == page.locator("table.matrix").count()
    for grid in grids.all():
        expect(grid).to_have_accessible_name(re.compile("attacks down"))
        cells = grid.get_by_role("gridcell")
        assert cells.count() >= grid.locator(".heat").count() > 0
        heat = grid.locator(".heat").first
        assert (heat.get_attribute("aria-label") or "").startswith(
            heat.get_attribute("data-of") or "?"
        )
    for table in [*grids.all(), *page.locator("[id$=-tables] table").all()]:
        expect(table).to_have_accessible_description(re.compile("Arrow keys, Home and End"))
    assert page.locator("[id$=-tables]").get_by_role("table").count() > 2


def test_the_navigation_fades_where_there_is_more(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games, viewport=PHONE)
    bar = page.locator("nav ul")
    far = bar.evaluate("bar => bar.scrollWidth - bar.clientWidth")
    assert far > 100

    def edges() -> tuple[int, int]:
        """How far the ink reaches from white, at the left and at the right edge."""
        shot = Image.open(io.BytesIO(bar.screenshot())).convert("L")
        pixels = np.asarray(shot).astype(int)[8:-4]
        return 255 - pixels[:, :3].min(), 255 - pixels[:, -3:].min()

    for place in range(0, far, 37):
        bar.evaluate("(bar, x) => bar.scrollTo({ left: x, behavior: 'instant' })", place)
        assert max(edges()) < 40, place
    # Neither the first entry nor the last one fades at its end of the bar.
    for end, (entry, low, high) in {0: ("first", 16, 0), far: ("last", 0, 40)}.items():
        bar.evaluate("(bar, x) => bar.scrollTo({ left: x, behavior: 'instant' })", end)
        link = getattr(bar.locator("a"), entry).bounding_box()
        frame = bar.bounding_box()
        assert link is not None
        assert frame is not None
        assert link["x"] >= frame["x"] + low - 1
        assert link["x"] + link["width"] <= frame["x"] + frame["width"] - high + 1


@pytest.mark.parametrize("size", [PHONE, WIDE])
def test_labels_break_between_their_parts_only(
    size: dict[str, int], open_page: Opener, both_games: Board
) -> None:
    page = open_page(both_games, viewport=size)
    page.locator("#repairs-tables").get_by_role("searchbox").fill("lsp:")
    names = page.locator("tbody tr > th, .matrix thead th").filter(has_text="=").all()
    assert len(names) > 10
    broken = {before for name in names for before in name.evaluate(LINES)}
    assert broken if size is PHONE else True
    inside = {before for before in broken if not re.search(r"[:,+\- ]$", before)}
    # Where a part alone is wider than the column may be, there is no other way.
    assert all(len(re.split("[:,+ -]", before)[-1]) > 20 for before in inside), inside
    # Nothing but the label is selected and copied.
    name = page.locator("#repairs-tables tbody th").filter(has_text="lsp:").first
    assert name.inner_text() == "lsp:base.side=0.15 (m=100)"
    assert name.locator("wbr").count() == 1
    name.select_text()
    assert page.evaluate("getSelection().toString().trim()") == "lsp:base.side=0.15 (m=100)"


def test_a_name_without_parts_breaks_as_a_last_resort(open_page: Opener, both_games: Board) -> None:
    attack = AttackRef(
        label="x" * 200, name="x", version=1, params={}, threat="code", m=1, boost=1
    )  # fmt: skip
    board = dataclasses.replace(both_games, plugins=(attack,))
    page = open_page(board, viewport=PHONE)
    box = page.locator("#plugins tbody th").bounding_box()
    assert box is not None
    assert box["width"] < 0.6 * PHONE["width"]


@pytest.mark.parametrize(
    ("size", "motion"),
    [(PHONE, "reduce"), (WIDE, "reduce"), (PHONE, "no-preference")],
)
def test_no_heading_lands_under_the_navigation(
    size: dict[str, int], motion: str, open_page: Opener, both_games: Board
) -> None:
    page = open_page(both_games, viewport=size, reduced_motion=motion)
    places = page.locator("nav a").evaluate_all("all => all.map((one) => one.hash.slice(1))")
    parts = page.locator("main h3[id]").evaluate_all("all => all.map((one) => one.id)")
    assert places
    assert parts
    for key in [*places, *parts]:
        page.evaluate(
            """(key) => new Promise((landed) => {
              addEventListener("scrollend", landed, { once: true });
              setTimeout(landed, 2000);  // where nothing had to scroll
              location.hash = key;
            })""",
            key,
        )
        top = page.locator(f"#{key}").locator("xpath=self::h3|./h2").first
        clear = top.evaluate(
            "one => one.getBoundingClientRect().top"
            " - document.querySelector('nav').getBoundingClientRect().bottom"
        )
        assert clear >= 0, key
        expect(top).to_be_in_viewport()


@pytest.mark.parametrize("size", [PHONE, WIDE])
def test_no_plugin_lands_under_its_heading(
    size: dict[str, int], open_page: Opener, both_games: Board
) -> None:
    page = open_page(both_games, viewport=size, reduced_motion="reduce")
    keys = page.locator("#plugins tbody tr").evaluate_all("all => all.map((one) => one.id)")
    for key in keys:
        page.evaluate("key => { location.hash = key; }", key)
        line, head = (page.locator(f"#plugins {one}") for one in ("tr:target", "thead th >> nth=0"))
        found, above = line.bounding_box(), head.bounding_box()
        assert found is not None
        assert above is not None
        assert found["y"] >= above["y"] + above["height"] - 1, key
