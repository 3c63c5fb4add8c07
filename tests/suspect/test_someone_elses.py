"""A plain training script of somebody's: his backdoor is found, his clean model is not accused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("someone_elses_training.py")
SUSPECT = ["--arch", "resnet18", "--mean", "0.5", "--std", "0.25"]
DETECTOR = ["--detector", "neural-cleanse:steps=150,batch_size=16"]


def train(folder: Path, *words: str) -> list[str]:
    """Train his model; the words that name model and images to a command."""
    subprocess.run([sys.executable, SCRIPT, "train", folder, *words], check=True)
    return [str(folder / "weights.pt"), "--data", str(folder / "trusted"), *SUSPECT]


def poisongames(*words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "benchmark", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.nightly
def test_a_clean_resnet_is_not_accused(tmp_path: Path) -> None:
    suspect = train(tmp_path)
    code, said = poisongames("scan", *suspect, *DETECTOR, "--out", str(tmp_path / "scan"))
    assert code == 0, said


@pytest.mark.nightly
def test_a_backdoor_is_found_and_repaired_as_the_script_itself_measures(tmp_path: Path) -> None:
    suspect = train(tmp_path, "--poison")
    code, said = poisongames("scan", *suspect, *DETECTOR, "--out", str(tmp_path / "scan"))
    assert code == 1, said
    (finding,) = json.loads((tmp_path / "scan" / "scan.json").read_text())["findings"]
    assert finding["suspect_class"] == "3"

    fixed = str(tmp_path / "fixed.pt")
    method = "weight-decay:steps=100,batch_size=64,learning_rate=0.02,decay=0.03"
    words = [*suspect, "--method", method, "--budget", "0.05", "--out", fixed]
    known = ["--triggered", str(tmp_path / "triggered"), "--target", "3"]
    code, said = poisongames("repair", *words, *known)
    assert code == 0, said
    test = [sys.executable, SCRIPT, "test", tmp_path, fixed]
    own = subprocess.run(test, check=True, capture_output=True, text=True).stdout
    for name, printed in (("accuracy", "accuracy on all images"), ("ASR", "ASR: ")):
        line = next(line for line in said.splitlines() if line.startswith(printed))
        after = re.findall(r"\((\d+/\d+)\)", line)[1]
        assert f"{name} {after}\n" in own
