"""The documentation: it builds, its commands are commands, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.core
import typer.main
from documented import PAGES, ROOT, commands

from benchmark.cli import app
from benchmark.registry import Registry


@pytest.mark.parametrize("line", sorted(commands(PAGES)))
def test_commands_are_understood(line: str) -> None:
    """Their words as they stand; `test_documented_commands.py` runs what a stand-in allows."""
    command: typer.core.TyperGroup | typer.core.TyperCommand = typer.main.get_group(app)
    words = [word for word in shlex.split(line)[1:] if word != "..."]
    context = typer.Context(command, info_name="poisongames")
    while isinstance(command, typer.core.TyperGroup):
        name, found, words = command.resolve_command(context, words)
        assert isinstance(found, (typer.core.TyperGroup, typer.core.TyperCommand)), name
        command, context = found, typer.Context(found, context, name)
    with command.make_context(context.info_name, words, context.parent) as read:
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
