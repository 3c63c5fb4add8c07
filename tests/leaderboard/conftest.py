"""One browser for all tests of pages, and which boards there are to test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from benchmark.leaderboard.board import Board
from benchmark.leaderboard.page import render

#: Without a committed board there is nothing to say about one.
BOARDS = Path(__file__).parent.parent.parent / "leaderboards"
collect_ignore = [] if any(BOARDS.glob("*/records")) else ["test_committed.py"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")

Opener = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip("no Chromium is installed: `playwright install chromium` brings one")
        browser = playwright.chromium.launch(executable_path=found, args=list(SWITCHES))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Opener]:
    """Open the page of a board; a message on its console or a request is an error."""
    contexts: list[BrowserContext] = []
    said: list[str] = []
    asked: list[str] = []

    def opened(board: Board, **options: Any) -> Page:
        path = tmp_path / f"page-{len(contexts)}" / "index.html"
        path.parent.mkdir()
        path.write_bytes(render(board))
        size = {"width": 1440, "height": 1000}
        contexts.append(browser.new_context(**{"viewport": size, **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
