"""The report of what work costs counts what it says it counts."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmark import graphs
from benchmark.models import CifarResNet18

SCRIPT = Path(__file__).parents[1] / "scripts" / "speed.py"


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["speed"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_operations_are_those_of_the_layers(speed: ModuleType) -> None:
    """Two for each product of a 3x3 or 1x1 convolution and of the head, written out by hand."""
    products = 32 * 32 * 64 * 3 * 9  # stem
    side, inputs = 32, 64
    for width in (64, 128, 256, 512):
        side = side if width == 64 else side // 2
        products += side * side * width * inputs * 9  # the first of four convolutions
        products += 3 * side * side * width * width * 9
        products += 0 if width == inputs else side * side * width * inputs  # shortcut
        inputs = width
    products += 512 * 10
    model = CifarResNet18().build((3, 32, 32), 10)
    # On the way back there is as much for the weights and for the inputs, but for the images'.
    expected = 3 * 2 * products - 2 * 32 * 32 * 64 * 3 * 9
    assert speed.operations(model, torch.rand(2, 3, 32, 32)) == expected


def test_steps_can_be_kept_from_being_recorded(speed: ModuleType) -> None:
    before = graphs.ORDINARY_CALLS
    with speed.ordinary_calls(7):
        assert graphs.ORDINARY_CALLS == 7
    assert before == graphs.ORDINARY_CALLS


@pytest.mark.nightly
def test_the_report_of_a_small_protocol(tiny_file: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(SCRIPT), str(tiny_file), "--device", "cpu"),
            *("--recipe", "standard", "--recipe", "short:epochs=1,batch_size=40"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("|").split("|") for line in done.stdout.splitlines() if line[:2] == "| "]
    work = [row[0].strip() for row in rows]
    assert work == [
        "work",
        "victim by recipe standard",
        "step of 50 images, as it is",
        "weight-decay with its curve",
        "victim by recipe short:epochs=1,batch_size=40",
        "step of 40 images, as it is",
    ]
    seconds, rate = (float(cell.replace(",", "")) for cell in rows[1][1:3])
    # 400 images in each of three epochs; seconds are rounded.
    assert seconds * rate == pytest.approx(1200, rel=0.1)
    assert re.search(r"[0-9.]+% right on 100 validation images", rows[1][4])
    assert "5 steps, 4 points" in rows[3][4]
