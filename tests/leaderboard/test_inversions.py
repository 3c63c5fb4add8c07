"""Tables of the inversion game: literal numbers from records that were made by hand."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_records import frames_of

from benchmark.games.inversion import contests
from benchmark.games.inversion.record import InversionRecord
from benchmark.leaderboard.build import build
from benchmark.metrics import Rate
from benchmark.records.store import Store

TARGET, SELECTION, EVALUATION = 1, 20, 50
#: Hits by (epsilon, restart) on selection and evaluation images, from two starts.
RUNS = {
    (1.0, 0): ((10, 5), (30, 40)),
    (2.0, 0): ((10, 6), (45, 10)),
    (1.0, 1): ((12, 6), (5, 44)),
    (2.0, 1): ((3, 2), (50, 0)),
}


def rate(hits: int, total: int = EVALUATION) -> dict[str, Any]:
    return {"hits": hits, "total": total, "value": hits / total if total else None}


def start(chosen: int = 0, label: int = 3, **changes: Any) -> dict[str, Any]:
    found = {
        "label": label,
        "chosen": chosen,
        "overlap": 0.25,
        "distance": 0.5,
        "norm": 1.5,
        "reasr": rate(20),
        "on_clean_model": rate(2),
    }
    return found | changes


def swept(*hits: tuple[int, ...], radius: float | None = None) -> dict[str, Any]:
    """Success of the classes but the start's own, whose trigger would win, from each start."""
    return {"radius": radius, "classes": [[*map(rate, one), rate(EVALUATION)] for one in hits]}


def record(
    seed: int = 0, inverter: str = "smoothinv", attack: str = "badnets", **changes: Any
) -> InversionRecord:
    key = random.Random(f"{attack}{inverter}{seed}").getrandbits(256)
    stage = {"label": inverter, "name": inverter.split(":")[0], "version": 1, "params": {}}
    own = {"label": attack, "name": attack.split(":")[0], "version": 1, "params": {}}
    content: dict[str, Any] = {
        "key": f"{key:064x}",
        "protocol": {"name": "made-up", "sha256": "a" * 64, "recipe": "standard"},
        "attack": own | {"threat": "poison-label", "m": 50, "boost": 1},
        "defense": {"name": stage["name"], "stages": [stage | {"stage": "invert"}]},
        "trusted_share": None,
        "seed": seed,
        "status": "ok",
        "target": TARGET,
        "scale": 2.0 + seed,
        "selection": SELECTION,
        "evaluation": EVALUATION,
        "tried": [
            {"params": {"epsilon": epsilon, "sigma": 0.5}, "restart": restart,
             "selection": chosen, "evaluation": judged}
            for (epsilon, restart), (chosen, judged) in RUNS.items()
        ],
        "starts": [start(), start(1, overlap=0.75, distance=1.0, reasr=rate(40))],
        "swept": [swept((3, 30, 2), (3, 30, 2))],
        "smoothed": [
            {"sigma": sigma, "clean": rate(40), "asr": rate(hits), "untriggered": rate(5)}
            for sigma, hits in ((0.0, 50), (0.5, 25))
        ],
        "picture": {"file": f"p{seed}-{key % 1000}.png", "sha256": "b" * 64},
        "cost": {"seconds": 10.0 + seed, "defense_seconds": None, "victim_seconds": 1.0,
                 "peak_memory_mb": 1.0, "device": "cpu"},
        "data_sha256": "d" * 64,
        "env": {},
    }  # fmt: skip
    content |= changes
    first = [run for run in content["tried"] if not run["restart"]]
    for row, one in enumerate(content["starts"]):
        found = [run["selection"][row] for run in first]
        one["chosen"] = found.index(max(found))
    return InversionRecord.model_validate(content)


def test_best_and_selected_of_every_start() -> None:
    one = record()
    readings = {
        ("best", False): [45, 40],
        ("selected", False): [30, 10],
        ("best", True): [50, 44],
        # Of equals on the selection images the first counts: 6 and 6 from the second start.
        ("selected", True): [5, 10],
    }
    for (reading, restarts), hits in readings.items():
        function = {"best": contests.best_of, "selected": contests.selected}[reading]
        assert function(one, restarts=restarts) == [Rate(hit, EVALUATION) for hit in hits]


@pytest.mark.parametrize(
    ("hits", "wins", "auc"),
    [
        ((3, 30, 2), 1, 1.0),
        ((30, 30, 2), 0, 0.75),
        ((30, 30, 30), 0, 0.5),
        ((40, 30, 2), 0, 0.5),
        ((40, 30, 50), 0, 0.0),
    ],
)
def test_a_target_is_found_where_it_beats_all_others(
    hits: tuple[int, ...], wins: int, auc: float
) -> None:
    one = record(swept=[swept(hits, (3, 30, 2))])
    found = contests.contests(one, one.swept)
    assert contests.target_found(found) == Rate(wins + 1, 2)
    assert contests.target_auc(found) == pytest.approx((auc + 1) / 2)


def test_shares_are_compared_not_counts() -> None:
    """Classes have different numbers of images of other classes."""
    classes = [rate(20, 50), rate(19, 40), rate(0, 45), rate(0, 45)]
    one = record(swept=[{"radius": None, "classes": [classes, classes]}])
    found = contests.contests(one, one.swept)
    assert contests.target_found(found) == Rate(2, 2)
    assert contests.target_auc(found) == 1


def test_of_two_classes_none_is_a_competitor() -> None:
    level = {"radius": None, "classes": [[rate(9), rate(30)]]}
    one = record(starts=[start(label=0), start(label=0)], swept=[level])
    rows = frames_of([one])
    row = rows["inversions"].iloc[0]
    assert row[["target_found", "target_auc"]].isna().all()
    row = rows["radii"].iloc[0]
    assert row[["asr_target", "asr_normal", "asr_largest", "target_found"]].isna().all()


SWEEP = [
    swept((0, 10, 5), (2, 20, 8), radius=1.0),
    swept((30, 40, 10), (45, 44, 6), radius=2.0),
    swept((50, 50, 50), (50, 49, 48), radius=4.0),
]


def test_the_target_stands_beside_the_normal_classes_at_every_radius() -> None:
    records = [record(0, swept=SWEEP), record(1, swept=SWEEP), record(0, "plainadv")]
    rows = frames_of(records)
    frame = rows["radii"]
    assert list(frame.inverter) == ["plainadv", *["smoothinv"] * 3]
    assert list(frame.starts) == [2] * 4
    assert frame.epsilon.isna().tolist() == [True, False, False, False]
    own = frame[frame.inverter == "smoothinv"]
    assert list(own.epsilon) == [1, 2, 4]
    expected = {
        "asr_target": [30 / 100, 84 / 100, 99 / 100],
        "asr_normal": [15 / 200, 91 / 200, 198 / 200],
        "asr_largest": [13 / 100, 75 / 100, 100 / 100],
        # At 2 the first start finds it, and 44 lose against 45 from the second.
        "target_found": [1, 0.5, 0],
        "target_auc": [1, 0.75, (0.5 + 0.5 + 0 + 1) / 4],
    }
    for column, values in expected.items():
        assert list(own[column]) == pytest.approx(values), column
    # Over all radii every class has its best: 50, 50, 50 and 50, 49, 48.
    row = rows["inversions"].iloc[1]
    assert row.target_found == 0
    assert row.target_auc == pytest.approx((0.5 + 0.5 + 0 + 1) / 4)


def test_a_row_is_the_mean_over_models_and_starts() -> None:
    other = [start(), start(overlap=0.5)]
    level = swept((30, 30, 2), (3, 30, 2))
    records = [record(0), record(1, starts=other, swept=[level]), record(0, "plainadv", tried=[
        {"params": {}, "restart": 0, "selection": (1, 2), "evaluation": (7, 8)}])]  # fmt: skip
    failed = {"status": "failed", "picture": None}
    failed |= {key: [] for key in ("tried", "starts", "swept", "smoothed")}
    records.append(record(2, **failed))
    rows = frames_of(records)
    frame = rows["inversions"]
    assert list(frame.inverter) == ["plainadv", "smoothinv"]
    plain, row = frame.iloc[0], frame.iloc[1]
    assert (row.attack, row.m, row.models, row.starts, row.configurations, row.runs) == (
        "badnets", 50, 2, 2, 2, 4
    )  # fmt: skip
    assert (plain.configurations, plain.runs) == (1, 1)
    assert plain.asr_best == plain.asr_selected_restarts == pytest.approx(15 / 100)
    expected = {
        "asr_best": 85 / 100,
        "asr_selected": 40 / 100,
        "asr_best_restarts": 94 / 100,
        "asr_selected_restarts": 15 / 100,
        "asr_clean_model": 2 / 50,
        "reasr": (20 + 40 + 20 + 20) / 200,
        "overlap": (0.25 + 0.75 + 0.25 + 0.5) / 4,
        "distance": (0.5 + 1.0 + 0.5 + 0.5) / 4,
        "target_found": (1 + 0.5) / 2,
        "target_auc": (1 + 1 + 0.75 + 1) / 4,
        "scale": 2.5,
        "seconds": 10.5,
    }
    for column, value in expected.items():
        assert row[column] == pytest.approx(value), column
    for column in ("asr_best", "asr_selected", "asr_best_restarts", "reasr", "target_found"):
        low, high = row[f"{column}_low"], row[f"{column}_high"]
        assert 0 <= low <= row[column] <= high <= 1
    wide_low, wide_high = Rate(170, 200).interval()
    assert row.asr_best_low <= wide_low + 1e-9
    assert row.asr_best_high >= wide_high - 1e-9


def test_what_says_nothing_is_a_dash(tmp_path: Path) -> None:
    """ReASR and overlap of triggers that cover the image; means are over what is there."""
    nothing = {"overlap": None, "reasr": None}
    covered = record(0, attack="a-blend", starts=[start(**nothing), start(**nothing)])
    rows = frames_of([covered, record(0, starts=[start(), start(**nothing)])])
    frame = rows["inversions"]
    assert frame[["reasr", "overlap"]].isna().all(axis=1).tolist() == [True, False]
    assert (frame.reasr[1], frame.overlap[1]) == (20 / 50, 0.25)
    build(save(tmp_path, [covered]))
    page = (tmp_path / "index.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    # What no row has is no column.
    titles = [column["title"] for column in data["tables"]["inversions"]["columns"]]
    assert "norm" in titles
    assert not {"ReASR", "overlap"} & set(titles)


def test_configurations_are_rows_without_restarts() -> None:
    records = [record(0), record(1)]
    rows = frames_of(records)
    frame = rows["configurations"]
    assert list(frame.epsilon) == [1, 2]
    assert list(frame.asr) == pytest.approx([70 / 100, 55 / 100])
    levels = rows["smoothed"]
    assert list(levels.sigma) == [0, 0.5]
    assert list(levels.asr) == [1, 0.5]
    assert list(levels.clean) == [0.8, 0.8]
    assert list(levels.untriggered) == [0.1, 0.1]


def save(folder: Path, records: list[InversionRecord]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(records):
        Store(folder).save_record(f"r{number}", one)
    return folder


def test_the_text_has_grids_and_plots_and_no_markup_of_names(tmp_path: Path) -> None:
    odd = "blind-s:text=a|b<img>*c*[d](e)"
    records = [record(1), record(0), record(0, "plainadv", smoothed=[])]
    records += [record(0, attack=attack) for attack in ("blind-s", odd)]
    text = build(save(tmp_path, records))
    for mark in ("<img>", "*c*", "[d](e)"):
        assert mark not in text
    assert "| blind-s:text=a\\|b\\<img\\>\\*c\\*\\[d\\](e) (m=50) |" in text
    line = next(line for line in text.splitlines() if line.startswith("| badnets"))
    # No defense, plainadv and smoothinv: of 200 images 80 by the selected configuration.
    assert line.split("|")[4].strip().startswith("40 [")
    for name in ("radii.svg", "configurations.svg", "smoothed.svg"):
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(b"<?xml")
    assert len(pd.read_csv(tmp_path / "inversions.csv")) == 4


def test_without_smoothed_classifiers_there_is_no_plot_of_them(tmp_path: Path) -> None:
    text = build(save(tmp_path, [record(smoothed=[])]))
    assert "smoothed.svg" not in text
    assert not (tmp_path / "smoothed.svg").exists()


def test_a_page_shows_no_plot_that_was_not_drawn(tmp_path: Path) -> None:
    gone = {"tried": [], "starts": [], "swept": [], "smoothed": [], "picture": None}
    text = build(save(tmp_path, [record(status="failed", **gone)]))
    assert "configurations.svg" not in text


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    names = ("smoothinv", "plainadv")
    records = [record(seed, name) for seed in (0, 1) for name in names]
    folder = save(tmp_path / "one", records)
    build(folder)
    made = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert {"README.md", "inversions.csv", "radii.csv", "configurations.csv", "smoothed.csv",
            "radii.svg", "configurations.svg", "smoothed.svg"} <= set(made)  # fmt: skip
    first = {name: (folder / name).read_bytes() for name in made}
    other = tmp_path / "two"
    (other / "records").mkdir(parents=True)
    for number, file in enumerate(sorted((folder / "records").iterdir(), reverse=True)):
        shutil.copy(file, other / "records" / f"{number}.json")
    build(other)
    assert {name: (other / name).read_bytes() for name in made} == first
