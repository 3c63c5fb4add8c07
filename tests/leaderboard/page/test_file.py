"""One file that needs nothing else, and shows names as they are and cells that went wrong."""

from __future__ import annotations

import dataclasses
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_records import played
from playwright.sync_api import Browser, Page, expect

from benchmark.leaderboard import markdown
from benchmark.leaderboard.board import Board, read_board
from benchmark.leaderboard.page import render
from benchmark.records.record import AttackRef, StageRef

Opener = Callable[..., Page]
ROOT = Path(__file__).parent.parent.parent.parent
HOSTILE = "<script>window.hacked=1</script>\"'&</script><img src=x onerror=window.hacked=1>"


def column(page: Page, table: str, title: str) -> list[str]:
    """The texts of a column, as they stand from top to bottom."""
    heads = page.locator(f"#{table}-tables thead th").all_inner_texts()
    place = [text.strip() for text in heads].index(title)
    return page.locator(f"#{table}-tables tbody tr > :nth-child({place + 1})").all_inner_texts()


def test_the_same_records_give_the_same_bytes(board_of: Any, record: Any, tmp_path: Path) -> None:
    invalid = {"status": "invalid", "reason": "near-chance"}
    board = board_of(
        *(record("badnets", defense, s, 9 * s) for s in range(3) for defense in (None, "a", "b")),
        *(record("badnets", "c", seed, 9, **invalid) for seed in range(3)),
    )
    first = render(board)
    other = tmp_path / "other"
    (other / "records").mkdir(parents=True)
    files = list((board.sources.folders[0] / "records").iterdir())
    random.Random(1).shuffle(files)
    for number, file in enumerate(files):
        shutil.copy(file, other / "records" / f"{number}.json")
    assert render(read_board(other)) == first
    assert not re.search(rb"202\d-\d\d-\d\d", first)
    assert not any(str(place).encode() in first for place in (tmp_path, ROOT))


def test_nothing_else_runs_on_the_page(browser: Browser, both_games: Board, tmp_path: Path) -> None:
    """The policy stops a script that got into the page, and a picture from elsewhere."""
    (tmp_path / "index.html").write_bytes(render(both_games))
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); document.body.setAttribute('onclick', 'window.ran = 2');"
        " document.body.click() }"
    )
    assert page.evaluate("window.ran") is None
    blocked = page.evaluate(
        "() => new Promise(found => { const i = new Image(); i.onerror = () => found(true);"
        " i.onload = () => found(false); i.src = 'evidence/x.png' })"
    )
    assert blocked
    page.close()


def test_names_lead_to_the_plugins_that_were_played(open_page: Opener, both_games: Board) -> None:
    inner = {"name": "badnets", "version": 1, "params": {"side": 0.15}}
    attack = AttackRef(
        label="lsp:base.side=0.15", name="lsp", version=3, params={"rate": 2.0, "base": inner},
        threat="code", m=2000, boost=1,
    )  # fmt: skip
    stage = StageRef(label="strip:overlays=8", name="strip", version=1, params={}, stage="deploy")
    page = open_page(dataclasses.replace(both_games, plugins=(attack, stage)))
    lines = page.locator("#plugins tbody tr")
    expect(lines).to_have_count(2)
    expect(lines.first).to_contain_text("lsp:base.side=0.15")
    expect(lines.first).to_contain_text("rate=2.0, base=badnets, base.side=0.15")
    assert lines.first.locator("td").all_inner_texts()[:2] == ["3", "code"]
    page.locator("#repairs-tables tbody").get_by_role("link", name="strip").first.click()
    expect(page.locator("#plugins tr:target")).to_contain_text("strip:overlays=8")
    # A name of which nothing is known is no link.
    expect(page.locator("#repairs-tables tbody").get_by_role("link", name="wanet")).to_have_count(0)


def test_links_lead_to_files_beside_the_page(open_page: Opener, shown_board: Board) -> None:
    page = open_page(shown_board)
    links = page.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    for link in links:
        if link.startswith("#"):
            assert page.locator(f"[id='{link[1:]}']").count() == 1, link
        elif not link.startswith("https://"):
            name = link.removesuffix(".csv").removesuffix(".svg").rstrip("/")
            assert name in {"README.md", "records", "evidence", *shown_board.frames}, link
    assert {f"{name}.csv" for name in shown_board.frames} <= set(links)


def test_names_are_text(open_page: Opener, board_of: Any, record: Any) -> None:
    error = {"kind": "ValueError", "message": HOSTILE, "where": "x.py:3"}
    failed = record(HOSTILE, "other", 0, 9, status="failed", error=error, metrics=None, curve=[])
    page = open_page(board_of(record(HOSTILE, None, 0, 9), record(HOSTILE, HOSTILE, 0, 9), failed))
    cells = page.locator("#repairs-matrices .heat")
    cells.nth(-2).hover()
    expect(page.locator("#tip")).to_contain_text(f"{HOSTILE} (m=50), {HOSTILE}")
    cells.last.hover()
    expect(page.locator("#tip")).to_contain_text(f"failed: ValueError: {HOSTILE}")
    assert column(page, "repairs", "attack") == [f"{HOSTILE} (m=50)"] * 2
    assert column(page, "repairs", "defense") == [f"{HOSTILE} r=5%", "other r=5%"]
    assert HOSTILE in page.locator("#unfinished-tables").inner_text()
    page.locator("#repairs-tables").get_by_role("searchbox").fill(HOSTILE)
    expect(page.locator("#repairs-tables .count")).to_have_text("2 of 2 rows")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0


def test_failed_and_invalid_cells_are_shown_first_and_with_their_reason(
    open_page: Opener, board_of: Any, record: Any
) -> None:
    error = {"kind": "ValueError", "message": "a | pipe", "where": "x.py:3"}
    page = open_page(
        board_of(
            record("badnets", None, 0, 90),
            record("a", "other", 1, 0, status="failed", error=error, metrics=None, curve=[]),
            record("tsb", "other", 2, 0, status="invalid", reason="near-chance"),
        )
    )
    notice = page.locator("header .notice")
    expect(notice).to_contain_text("2 cells failed or were refused")
    notice.get_by_role("link").click()
    expect(page.locator("#unfinished-tables table")).to_be_in_viewport()
    assert column(page, "unfinished", "status") == ["failed", "invalid"]
    found = column(page, "unfinished", "reason")
    assert found == ["ValueError: a | pipe", "the victim's clean accuracy is near chance"]
    assert column(page, "unfinished", "seed") == ["1", "2"]


def test_an_attack_that_never_worked_is_marked_and_not_repaired(
    open_page: Opener, board_of: Any, record: Any
) -> None:
    weak = {"before": 2}
    cells = [record("badnets", defense, 0, 0) for defense in (None, "repairer")]
    cells += [record("feeble", defense, 0, 0, **weak) for defense in (None, "repairer")]
    matrix = open_page(board_of(*cells)).locator("#repairs-matrices")
    assert matrix.locator(".heat").all_inner_texts() == ["100.0", "✓ 0.0", "2.2", "0.0"]
    expect(matrix.locator(".heat").last).to_have_class("heat dead")
    heads = matrix.locator("tbody th").all_inner_texts()
    assert [head.strip() for head in heads] == ["badnets (m=50)", "feeble (m=50) ‡"]


def test_untouched_victims_and_seeds_are_marked(open_page: Opener, board_of: Any) -> None:
    left = {"a": (None, None), "b": (None, 40), "c": (0, 40)}
    cells = [played("badnets", None, seed) for seed in range(2)]
    cells += [played("badnets", d, seed, own[seed]) for d, own in left.items() for seed in range(2)]
    page = open_page(board_of(*cells))
    assert page.locator("#repairs-matrices .heat").all_inner_texts() == [
        "100.0", "100.0 †", "72.2 † 1/2", "22.2 ✓ 1/2",
    ]  # fmt: skip
    untouched = page.locator("#repairs-matrices .heat").nth(1)
    expect(untouched).to_have_class("heat untouched")
    assert "the victim as it was" in (untouched.get_attribute("aria-label") or "")


def test_a_board_of_nothing_but_failures(open_page: Opener, board_of: Any, record: Any) -> None:
    page = open_page(
        board_of(record("badnets", "other", 0, 0, status="invalid", reason="near-chance"))
    )
    assert column(page, "unfinished", "reason") == ["the victim's clean accuracy is near chance"]
    expect(page.locator("main section")).to_have_count(3)  # these, plugins, files


def test_what_was_played_in_numbers(open_page: Opener, both_games: Board) -> None:
    facts = open_page(both_games).locator(".facts div")
    shown = dict(text.split("\n") for text in facts.all_inner_texts())
    assert shown.pop("protocol") == both_games.protocol.sha256[:12]
    # Of lsp there are two settings, of badnets two m.
    assert shown == {
        "cells": str(both_games.cells), "seeds": "4", "attacks": "9", "defenses": "4",
        "detectors": "2", "budget of clean accuracy": "2 points",
    }  # fmt: skip


def test_defenses_without_trusted_images_have_one_column(open_page: Opener, board_of: Any) -> None:
    """Their share is NaN, which is not even equal to itself."""
    cells = [
        played(attack, defense, 0, 9, 9, trusted_share=share)
        for attack in ("a", "b")
        for defense, share in ((None, None), ("cleaner", None), ("repairer", 0.2))
    ]
    page = open_page(board_of(*cells))
    heads = page.locator("#repairs-matrices thead th").all_inner_texts()
    assert heads == ["no defense (ASR)", "cleaner", "repairer r=20%"]
    expect(page.locator("#repairs-matrices .heat")).to_have_count(6)


def test_rows_that_differ_in_boosting_or_recipe_are_lines_of_their_own(
    open_page: Opener, board_of: Any
) -> None:
    cells = []
    for boost, recipe, hits in ((1, "standard", 9), (8, "standard", 18), (1, "short", 27)):
        for defense in (None, "repairer"):
            one = played("badnets", defense, 0, hits, hits)
            attack = one.attack.model_copy(update={"boost": boost})
            protocol = one.protocol.model_copy(update={"recipe": recipe})
            own = {"attack": attack, "protocol": protocol, "key": f"{len(cells):064x}"}
            cells.append(one.model_copy(update=own))
    board = board_of(*cells)
    matrix = open_page(board).locator("#repairs-matrices tbody tr")
    shown = {row.locator("th").inner_text(): row.locator(".heat").last.inner_text()
             for row in matrix.all()}  # fmt: skip
    assert shown == {
        "badnets (m=50)": "10.0",
        "badnets (m=50, b=8)": "20.0",
        "badnets (m=50, short)": "30.0",
    }
    text = markdown.page(board)
    for label, left in (("", 10), (", b=8", 20), (", short", 30)):
        assert re.search(rf"\| badnets \(m=50{label}\) \| 100 \[.*\] \| {left} \[", text)
