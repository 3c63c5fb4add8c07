"""A board of many records: seconds and memory per record stay what they are for few.

`POISONGAMES_RECORDS=25000 pytest tests/performance/test_board_speed.py -s` builds a board of 25,000
records, which took 38 s and 508 MB above the imports on one core.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import small_board

from benchmark.registry import Registry

RECORDS = int(os.environ.get("POISONGAMES_RECORDS", "2000"))
#: Of both games.
TEMPLATES = (
    "robustness-badnets-m40-pivotal-tuning-r0.05-s0",
    "detectability-badnets-m40-abs-r0.1-s0",
)
SEEDS = 10

#: Builds in memory; prints seconds, and MB above those of the imports.
MEASURE = """
import re, sys, time
from pathlib import Path
from benchmark.leaderboard.board import read_board
from benchmark.leaderboard.build import files_of

def memory():
    # The peak that getrusage tells is that of the parent, if it was larger.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

before, started = memory(), time.perf_counter()
files = files_of(read_board(Path(sys.argv[1])))
seconds = time.perf_counter() - started
print(seconds, memory() - before, before, sum(map(len, files.values())))
"""


def fill(folder: Path, count: int, source: Path) -> None:
    """Records of as many made-up attacks as defenses; every fourth defense is a detector."""
    texts = [next(source.glob(f"{template}-*.json")).read_text() for template in TEMPLATES]
    (folder / "records").mkdir(parents=True)
    rng, defenses = random.Random(0), round((count / SEEDS) ** 0.5)
    for number in range(count):
        row, seed = divmod(number, SEEDS)
        attack, defense = divmod(row, defenses)
        record = json.loads(texts[defense % 4 == 3])
        name = f"attack-{attack}"
        record["attack"] |= {"label": name, "name": name}
        if not attack:  # clean models, as detectors need them
            record["attack"] |= {"label": "none", "name": "none", "threat": "none", "m": 0}
        name = f"defense-{defense}"
        record["defense"]["stages"][0] |= {"label": name, "name": name}
        record["defense"]["name"] = name
        if not defense:
            record["defense"] = {"name": "none", "stages": []}
        record |= {"seed": seed, "key": f"{rng.getrandbits(256):064x}"}
        (folder / "records" / f"{number}.json").write_text(json.dumps(record, indent=1))


def measure(folder: Path) -> tuple[float, float, float, float]:
    """Seconds, MB of the board, MB of the imports, bytes of its files, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True
    )
    seconds, memory, imports, size = map(float, done.stdout.split())
    return seconds, memory, imports, size


@pytest.mark.parametrize("count", [RECORDS])
def test_time_and_memory_grow_no_faster_than_the_records(
    count: int, registry: Registry, tmp_path: Path
) -> None:
    small_run = small_board.play(tmp_path / "played", registry, TEMPLATES)
    found = {}
    for number in (count // 4, count):
        fill(tmp_path / str(number), number, small_run / "records")
        seconds, memory, imports, size = found[number] = measure(tmp_path / str(number))
        print(
            f"{number} records: {seconds:.1f} s, {memory:.0f} MB above {imports:.0f} MB of "
            f"imports, {size / 1e6:.1f} MB of files"
        )
    (few, few_memory, *_), (many, many_memory, *_) = found.values()
    assert many < 4 * 1.6 * few
    # Plots and tables need some memory whatever is drawn.
    assert many_memory < 4 * few_memory
    assert many_memory < 1000 * max(1, count / 25_000)
