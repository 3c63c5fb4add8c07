"""What may lie in the folder of a run, and what in that of a board."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from forgeries import submit

from benchmark.leaderboard.build import build
from benchmark.leaderboard.index import write as write_index
from benchmark.verification.verify import verify


def pages(folder: Path) -> None:
    """What `poisongames experiment` writes into a run."""
    (folder / "experiments").mkdir()
    (folder / "experiments" / "some-figure.md").write_text("Drawn")


def test_a_run_may_have_its_experiments(played: Path, tmp_path: Path) -> None:
    pages(played)
    assert verify(played).findings == []
    done = submit(played, tmp_path / "boards")
    assert done.new == len(list((played / "records").iterdir()))
    assert not (done.folder / "experiments").exists()


@pytest.mark.parametrize("name", ["experiments", "artifacts"])
def test_a_board_has_nothing_that_is_a_runs(played: Path, tmp_path: Path, name: str) -> None:
    folder = submit(played, tmp_path / "boards").folder
    build(folder)
    write_index(folder.parent)
    (folder / name).mkdir()
    (finding,) = verify(folder).findings
    assert str(finding) == f"{name}: file: is a run's; a board has none, remove it"


FOLDER, FILE = "is no folder", "is no plain file"


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        *((name, Path.touch, FOLDER) for name in ("submissions", "tuning", "artifacts")),
        ("submissions", os.mkfifo, FOLDER),
        *((name, Path.mkdir, FILE) for name in ("README.md", "costs.csv", "replays.json")),
        *(
            (name, os.mkfifo, FILE)
            for name in ("index.html", "explanations.csv", "curves.svg", "submission.toml")
        ),
        ("index.html", lambda path: path.symlink_to("nowhere"), FILE),
    ],
)
def test_files_are_files_and_folders_are_folders(
    played: Path, name: str, make: Callable[[Path], object], reason: str
) -> None:
    make(played / name)
    (finding,) = verify(played).findings
    assert (finding.file, finding.field) == (name, "file")
    assert finding.reason.startswith(reason)
