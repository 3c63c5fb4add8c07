"""Boards are a pure function of records, and their numbers follow from the counts."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from made_records import MADE_UP, TRIGGERED, board_of_both_games, examined, played, save

from benchmark.games.frames import Line, Plot
from benchmark.leaderboard import plots
from benchmark.leaderboard.build import build, stale
from benchmark.leaderboard.index import write as write_index
from benchmark.metrics import Rate, mean_interval
from benchmark.records.files import StoreError
from benchmark.records.store import Store


@pytest.fixture
def run(tmp_path: Path) -> Path:
    records = [played("badnets", None, seed) for seed in range(3)]
    hits = [3, 9, 6]
    records += [played("badnets", "repairer", s, 1, left) for s, left in enumerate(hits)]
    return save(tmp_path / "run", records)


PAPER, DEPLOYABLE = (f"ASR left, {reading}, r = 5%" for reading in ("paper", "deployable"))


def grid(text: str, title: str) -> list[str]:
    """The lines of the table under a line."""
    table = text.split(f"{title}:\n\n")[1].split("\n\n")[0]
    return table.splitlines()[2:]


def test_numbers_follow_from_counts(run: Path) -> None:
    text = build(run)
    frame = pd.read_csv(run / "repairs.csv")
    assert len(frame) == 1
    row = frame.iloc[0]
    assert row.seeds == 3
    assert row.asr_deployable == pytest.approx((3 + 9 + 6) / 3 / 90, abs=1e-6)
    assert row.asr_paper == pytest.approx(1 / 90, abs=1e-6)
    assert row.cda_loss_paper == pytest.approx(0.01, abs=1e-6)
    assert row.cda_loss_deployable == pytest.approx(0.02, abs=1e-6)
    low, high = Rate(18, 270).interval()
    assert row.asr_deployable_low <= low
    assert row.asr_deployable_high >= high
    # 3 of 270 are 3.2 % at most: repaired. 3 of 90 in one of three seeds is not enough.
    assert Rate(3, 270).interval()[1] < 0.05
    assert (row.repaired_paper, row.repaired_deployable) == (True, False)
    assert (row.seeds_repaired_paper, row.seeds_repaired_deployable) == (3, 1)
    # The paper's reading is the headline, and comes first.
    assert text.index(PAPER) < text.index(DEPLOYABLE)
    (paper,), (later,) = grid(text, PAPER), grid(text, DEPLOYABLE)
    assert "| **1.1 [" in paper
    assert "✓" not in paper
    assert "| 6.7 [" in later
    assert later.rstrip("| ").endswith("] ✓ 1/3")
    # What the attack does undefended comes first.
    assert "| 100 [" in paper.partition("**")[0]
    costs = pd.read_csv(run / "costs.csv").iloc[0]
    assert (costs.repaired_paper, costs.repaired_deployable, costs.attacks) == (1, 0, 1)
    assert (costs.cells_repaired_paper, costs.cells_repaired_deployable) == (3, 1)


def test_an_interval_above_five_percent_is_not_repaired(tmp_path: Path) -> None:
    """One seed with 4 of 90 left is below 5 %, and may as well be above it."""
    assert Rate(4, TRIGGERED).value < 0.05 < Rate(4, TRIGGERED).interval()[1]
    text = build(save(tmp_path, [played("badnets"), played("badnets", "repairer", 0, 4)]))
    (line,) = grid(text, PAPER)
    assert "✓ 1/1" in line
    assert "**" not in line
    costs = pd.read_csv(tmp_path / "costs.csv").iloc[0]
    assert (costs.repaired_paper, costs.cells_repaired_paper, costs.attacks) == (0, 1, 1)


def test_an_untouched_victim_is_said_to_be_one(tmp_path: Path) -> None:
    left = {"all": (None, None, None), "some": (None, 30, 30), "one reading": (30, 30, 30)}
    records = [played("badnets", None, seed) for seed in range(3)]
    records += [
        played("badnets", name, seed, asr, None if name == "one reading" else asr)
        for name, hits in left.items()
        for seed, asr in enumerate(hits)
    ]
    text = build(save(tmp_path, records))
    frame = pd.read_csv(tmp_path / "repairs.csv").set_index("defense")
    assert dict(frame.untouched_paper) == {"all": 3, "some": 1, "one reading": 0}
    assert dict(frame.untouched_deployable) == {"all": 3, "some": 1, "one reading": 3}
    (line,) = grid(text, PAPER)
    every, other, some = (cell.strip() for cell in line.strip("|").split("|")[2:])
    assert every.endswith("] †")
    assert other.endswith("]")
    assert some.endswith("] † 1/3")
    assert (
        b"\\u2020 1/3" in (page := (tmp_path / "index.html").read_bytes())
        or "† 1/3".encode() in page
    )


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    run = board_of_both_games(tmp_path / "run")
    build(run)
    names = {path.name for path in run.iterdir() if path.is_file()}
    assert {"classscores.svg", "costs.csv", "pareto.svg", "repairs.csv"} <= names
    first = {name: (run / name).read_bytes() for name in names}
    other = tmp_path / "other"
    (other / "records").mkdir(parents=True)
    shutil.copytree(run / "tuning", other / "tuning")
    files = list((run / "records").iterdir())
    random.Random(1).shuffle(files)
    for number, file in enumerate(files):  # other names, other order
        shutil.copy(file, other / "records" / f"{number}.json")
    build(other)
    assert {name: (other / name).read_bytes() for name in names} == first


@pytest.mark.parametrize(
    ("before", "on_clean_model", "worked"),
    [
        ((88, 90, 89), 1, True),
        ((4, 4, 4), 0, False),  # below 5 %, though above clean models
        ((20, 20, 20), 15, False),  # above 5 %, but clean models go there as well
        ((5, 90, 40), 1, False),  # whether it works depends on the seed
        ((12, 12, 12), 1, True),
    ],
)
def test_an_attack_worked_if_it_is_clearly_above_clean_models(
    before: tuple[int, ...], on_clean_model: int, worked: bool, tmp_path: Path
) -> None:
    clean = mean_interval([Rate(on_clean_model, TRIGGERED)] * 3)[2]
    mean, low, _ = mean_interval([Rate(hits, TRIGGERED) for hits in before])
    assert worked == (mean > 0.05 and low > clean)
    records = [played("badnets", None, seed) for seed in range(3)]
    records += [played("badnets", "repairer", seed, 30) for seed in range(3)]
    common = {"on_clean_model": on_clean_model}
    for seed, hits in enumerate(before):
        records.append(played("other", None, seed, before=hits, **common))
        records.append(played("other", "repairer", seed, 0, before=hits, **common))
    text = build(save(tmp_path, records))
    victims = pd.read_csv(tmp_path / "victims.csv").set_index("attack")
    assert dict(victims.worked) == {"badnets": True, "other": worked}
    _, line = grid(text, PAPER)
    assert ("‡" in line) == (not worked)
    # Without a mark nobody would know that 0 % of it were no repair.
    assert ("**0 [" in line) == worked
    costs = pd.read_csv(tmp_path / "costs.csv").iloc[0]
    assert (costs.attacks, costs.repaired_paper) == ((2, 1) if worked else (1, 0))
    defender = pd.read_csv(tmp_path / "defenders.csv").iloc[0]
    assert defender.of == 1 + worked


def test_failed_and_invalid_cells_are_shown_with_their_reason(run: Path) -> None:
    error = {"kind": "ValueError", "message": "a | pipe and <b>", "where": "x.py:3"}
    failed = played("badnets", "other", status="failed", error=error, metrics=None, curve=[])
    invalid = played("tsb", "other", status="invalid", reason="near-chance")
    for name, one in (("failed", failed), ("invalid", invalid)):
        Store(run).save_record(name, one)
    text = build(run)
    assert "ValueError: a \\| pipe and \\<b\\>" in text
    assert "near chance" in text
    # What failed has done nothing; of a victim that is near chance no defense is blamed.
    repairs = pd.read_csv(run / "repairs.csv").set_index("defense")
    assert dict(repairs.failed) == {"repairer": 0, "other": 1}


def test_other_settings_of_a_plugin_are_another_row(tmp_path: Path) -> None:
    records = [played(a, "repairer", 0, 3) for a in ("badnets", "badnets:side=0.5")]
    build(save(tmp_path, records))
    assert set(pd.read_csv(tmp_path / "repairs.csv").attack) == {"badnets", "badnets:side=0.5"}


def test_records_of_two_protocols_share_no_table(run: Path) -> None:
    other = played("badnets", None, 9, protocol=MADE_UP | {"sha256": "d" * 64})
    Store(run).save_record("other", other)
    with pytest.raises(StoreError, match="different protocols share no table"):
        build(run)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (("metrics", "paper", "asr", "value"), 0.5, "metrics.paper.asr: 0.5 is not"),
        (("metrics", "before", "asr", "hits"), -1, "metrics.before.asr.hits"),
        (("protocol", "sha256"), "x", "protocol.sha256"),
        (("status",), "great", "status"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_a_damaged_record_is_named_with_its_field(
    run: Path, field: tuple[str, ...], value: object, message: str
) -> None:
    path = sorted((run / "records").iterdir())[0]
    content = json.loads(path.read_text())
    inner = content
    for key in field[:-1]:
        inner = inner[key]
    inner[field[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError) as caught:
        build(run)
    assert path.name in str(caught.value)
    assert message in str(caught.value)
    assert "; the same `poisongames run` plays its cell again, or remove" in str(caught.value)


def test_a_folder_in_the_place_of_a_record_is_to_be_removed(run: Path) -> None:
    (run / "records" / "a.json").mkdir()
    with pytest.raises(StoreError, match=r"a\.json is a folder, where a file belongs; remove this"):
        build(run)


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_not_waited_for(run: Path, put: Callable[[Path], None]) -> None:
    put(run / "records" / "a.json")
    with pytest.raises(StoreError, match=r"a\.json is no plain file; remove it"):
        build(run)
    with pytest.raises(StoreError, match="was played on the images"):
        Store(run).claim("0" * 64)


@pytest.mark.parametrize("text", ["", "One line.\n"])
def test_a_folder_beside_the_boards_is_none_of_them(run: Path, text: str) -> None:
    (run.parent / "notes").mkdir()
    (run.parent / "notes" / "README.md").write_text(text)
    build(run)
    write_index(run.parent)
    assert "notes" not in (run.parent / "README.md").read_text()


def test_no_records_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="play a protocol with `poisongames run` first"):
        build(tmp_path)


def test_what_was_never_counted_is_a_dash(tmp_path: Path) -> None:
    """All test images are of the target class: no ASR, before or after."""
    nothing = {"hits": 0, "total": 0, "value": None}
    records = []
    for defense in (None, "repairer"):
        one = played("badnets", defense, 0, None if defense is None else 5).model_dump(
            by_alias=True
        )
        for point in (
            *(one["metrics"][n] for n in ("paper", "deployable", "before")),
            *one["curve"],
        ):
            point |= {"asr": nothing, "asr_game": None}
        records.append(played("badnets", defense, metrics=one["metrics"], curve=one["curve"]))
    text = build(save(tmp_path, records))
    assert "nan" not in text
    (line,) = grid(text, PAPER)
    assert [cell.strip() for cell in line.split("|")[2:4]] == ["–", "–"]


@pytest.mark.parametrize(
    "records",
    [
        [played("none", m=0)],
        [played("none", "repairer", m=0)],
        [examined("none", "d", 0, [[0.1, 0.2]], m=0)],
        [examined("badnets", "d", 0, [[0.1, 0.2]])],
        [played("badnets", "other", status="invalid", reason="near-chance")],
        [played("badnets"), examined("badnets", "d", 0, [[0.1, 0.2]])],
    ],
)
def test_a_board_with_hardly_anything_on_it(records: list[object], tmp_path: Path) -> None:
    save(tmp_path, records)  # type: ignore[arg-type]
    assert "nan" not in build(tmp_path)
    assert stale(tmp_path) == []


def test_a_series_that_was_never_measured_is_not_in_the_legend() -> None:
    frame = pd.DataFrame({"x": [1, 2, 1, 2], "name": ["there"] * 2 + ["never"] * 2})
    frame["y"] = [0.1, 0.2, math.nan, math.nan]
    plot = Plot(
        "x", lambda row: "", (Line("y", "rate", "-"),), ("x", "y"), "title", lambda row: row["name"]
    )
    drawn = plots.draw(plot, frame)
    assert b"rate, there" in drawn
    assert b"rate, never" not in drawn


def test_what_held_before_a_defense_is_that_of_the_models_it_met(tmp_path: Path) -> None:
    """A population has more undefended models than the robustness game repairs."""
    hits = [TRIGGERED // 10] * 2 + [TRIGGERED] * 8
    records = [played("badnets", None, seed, before=own) for seed, own in enumerate(hits)]
    records += [played("badnets", "repairer", seed, 1, before=hits[seed]) for seed in range(2)]
    text = build(save(tmp_path / "run", records))
    victims = text.split("### Before any defense")[1]
    assert "| 82.0 " in next(line for line in victims.splitlines() if line.startswith("| badnets"))
    assert "| 10 [" in grid(text, PAPER)[0]


def test_rows_of_one_defense_follow_its_trusted_shares(tmp_path: Path) -> None:
    """Whatever the settings that a search chose for each are called."""
    records = [played("badnets", None, seed) for seed in range(2)]
    for share, pruned in ((0.05, 0.5), (0.01, 0.7)):
        for seed in range(2):
            one = played("badnets", "repairer", seed, 1, trusted_share=share)
            stage = one.defense.stages[0].model_copy(
                update={"label": f"repairer:pruned={pruned}", "params": {"pruned": pruned}}
            )
            defense = one.defense.model_copy(update={"stages": (stage,)})
            key = f"{len(records):064x}"
            records.append(one.model_copy(update={"defense": defense, "key": key}))
    run = save(tmp_path / "run", records)
    build(run)
    for name in ("repairs", "costs"):
        shares = pd.read_csv(run / f"{name}.csv").trusted_share.dropna()
        assert shares.tolist() == [0.01, 0.05]
