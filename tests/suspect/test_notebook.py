"""The notebook that ships as an example runs from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "scan_and_repair.ipynb"


def test_the_notebook_finds_the_backdoor_and_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    told: dict[str, Any] = {"__name__": "__main__"}
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), told)
    print(capsys.readouterr().out)
    assert told["found"].found
    assert told["found"].findings[0].suspect_class == str(told["TARGET"])
    fixed = told["fixed"]
    assert fixed.success[0].value > 0.9
    assert fixed.success[fixed.chosen].value < 0.5
    assert (tmp_path / "fixed.pt").is_file()
