"""The documentation: it builds, its commands are commands, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main

from benchmark.cli import app
from benchmark.registry import Registry

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def commands() -> set[str]:
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return {line.split("  #")[0].strip() for line in lines if line.startswith("poisongames ")}


@pytest.mark.parametrize("line", sorted(commands()))
def test_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are run by other tests or take long; here their words are read as they stand."""
    root: click.Command = typer.main.get_command(app)
    words = [word for word in shlex.split(line)[1:] if word != "..."]
    context = click.Context(root, info_name="poisongames")
    while isinstance(root, click.Group):
        name, command, words = root.resolve_command(context, words)
        assert command is not None, name
        root, context = command, click.Context(command, context, name)
    with root.make_context(context.info_name, words, context.parent) as read:
        assert read.params


def test_the_readme_is_read_in_a_minute() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        here = page.parent / target
        # Pages that are made, and files that the site has under names of its own.
        made = re.fullmatch(r"reference/\w+\.md", target)
        assert here.exists() or made, f"{page.name}: {target}"


def test_the_site_builds_and_has_every_plugin(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "reference" / "plugins.html").read_text()
    for entry in Registry().entries:
        assert f'id="{entry.plugin.name}"' in text
    assert "asr_paper" in (tmp_path / "reference" / "columns.html").read_text()
