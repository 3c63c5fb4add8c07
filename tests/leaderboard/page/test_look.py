"""That everyone can read the page: small screens, the dark, keys alone, without its script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmark.leaderboard.board import Board
from benchmark.leaderboard.page import render

Opener = Callable[..., Page]

#: Contrast of every text with what it stands on, as WCAG 2 defines it.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (colour) => {
    const [r, g, b] = [...rgba(colour)].map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
  };
  const found = new Map();
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility() || element.closest("script, noscript, option")) continue;
    const style = getComputedStyle(element);
    const text = light(element instanceof SVGElement ? style.fill : style.color);
    const [high, low] = [text, light(ground(element))].sort((a, b) => b - a);
    found.set(`${element.tagName}.${element.getAttribute("class")} ${element.textContent}`,
      (high + 0.05) / (low + 0.05));
  }
  return [...found];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(scheme: str, open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games, color_scheme=scheme)
    page.locator("#repairs-matrices [data-row]").first.hover()
    expect(page.locator("#tip")).to_be_visible()
    found = dict(page.evaluate(CONTRASTS))
    assert len(found) > 300
    assert {text: ratio for text, ratio in found.items() if ratio < 4.5} == {}


def test_dark_follows_the_system_until_one_chooses(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games, color_scheme="light")
    body, button = page.locator("body"), page.get_by_role("button", name="Dark")

    def expect_dark(dark: bool) -> None:
        colour = "rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)"
        expect(body).to_have_css("background-color", colour)
        expect(button).to_have_attribute("aria-pressed", str(dark).lower())

    expect_dark(False)
    page.emulate_media(color_scheme="dark")
    expect_dark(True)
    button.click()
    expect_dark(False)
    page.emulate_media(color_scheme="light")
    page.emulate_media(color_scheme="dark")
    expect_dark(False)
    page.reload()
    expect_dark(False)
    button.click()
    expect_dark(True)


def test_it_works_where_storage_is_forbidden(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no') } })"
    )
    page.reload()
    button = page.get_by_role("button", name="Dark")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_the_page_is_never_wider_than_the_screen(
    width: int, open_page: Opener, shown_board: Board
) -> None:
    page = open_page(shown_board, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("#victims-tables .all").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # What is wider scrolls sideways by itself, with its first column in sight; nothing scrolls
    # up and down but the page.
    area = page.locator("#victims-tables .scroll")
    assert area.evaluate("area => area.scrollHeight <= area.clientHeight")
    area.evaluate("area => area.scrollTo(200, 0)")
    frame = area.bounding_box()
    name = area.locator("tbody th").nth(1).bounding_box()
    assert frame is not None
    assert name is not None
    inside = 13 if width == 360 else 1  # of a card
    assert name["x"] == pytest.approx(frame["x"] + inside, abs=2)


def test_rows_are_cards_on_a_phone(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games, viewport={"width": 390, "height": 844})
    row = page.locator("#repairs-tables tbody tr").first
    lines = row.inner_text().split("\n")
    assert lines[0] == "a-blend (m=50)"
    title = (
        row.locator("td:visible")
        .nth(1)
        .evaluate("one => getComputedStyle(one, '::before').content")
    )
    assert title == "attr(data-title)" or title == '"ASR before"'
    below = [one.bounding_box() for one in row.locator("th, td:visible").all()]
    tops = [one["y"] for one in below if one is not None]
    assert tops == sorted(set(tops))  # one below the other
    assert page.locator("#repairs-tables thead th").first.is_hidden()


def test_keys_alone_reach_everything(open_page: Opener, both_games: Board) -> None:
    page = open_page(both_games)
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the results")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.closest('main') !== null")
    assert focused
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    reach = page.locator("[data-point]:focus .reach")
    if reach.count():
        assert reach.evaluate("mark => getComputedStyle(mark).stroke") != "none"
    else:
        assert outline != "none"


def test_landmarks_and_captions(open_page: Opener, shown_board: Board) -> None:
    page = open_page(shown_board)
    for role in ("banner", "navigation", "main"):
        expect(page.get_by_role(role)).to_have_count(1)  # type: ignore[arg-type]
    tables = page.locator("table")
    assert tables.count() == page.locator("table > caption:first-child").count() > 2
    assert page.locator("h1").count() == 1
    assert page.locator("table th:not([scope])").count() == 0
    ids = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))


def test_less_motion_and_paper(open_page: Opener, both_games: Board) -> None:
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    assert open_page(both_games).evaluate(behaviour) == "smooth"
    page = open_page(both_games, reduced_motion="reduce")
    assert page.evaluate(behaviour) == "auto"
    page.emulate_media(media="print")
    expect(page.locator("nav")).to_be_hidden()
    assert page.locator(".scroll").first.evaluate("a => getComputedStyle(a).maxHeight") == "none"


def test_without_its_script_the_page_points_to_the_text(
    browser: Browser, both_games: Board, tmp_path: Any
) -> None:
    (tmp_path / "index.html").write_bytes(render(both_games))
    page = browser.new_page(java_script_enabled=False)
    page.goto((tmp_path / "index.html").as_uri())
    notice = page.locator("noscript .notice")
    expect(notice).to_be_visible()
    expect(notice.locator("a")).to_have_attribute("href", "README.md")
    page.close()
