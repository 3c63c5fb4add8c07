"""A replay agrees where another repetition, or another count, could have put it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from made_records import examined
from scipy import stats

from benchmark.cli.replays import Again, show
from benchmark.games.all import read
from benchmark.metrics import Rate
from benchmark.records.record import Record
from benchmark.registry import Registry
from benchmark.runs.replay import compare, count, draw, playable, same_cell
from benchmark.specs import RegistryError

NAME = "robustness-badnets-m40-pivotal-tuning-r0.05-s{}-*.json"
RUN: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def _played(small_run: Path) -> None:
    RUN[:] = [small_run]


def record(seed: int = 0, **changes: Any) -> Record:
    (path,) = (RUN[0] / "records").glob(NAME.format(seed))
    return read(json.dumps(json.loads(path.read_text()) | changes).encode())


def with_asr(one: Record, hits: int) -> Record:
    """The record with another remaining ASR."""
    asr = {"hits": hits, "total": 1800, "value": hits / 1800}
    content = json.loads(one.to_json())
    content["metrics"]["paper"]["asr"] = asr
    return read(json.dumps(content).encode())


def verdicts(one: Record, again: Record, others: list[Record]) -> dict[str, str]:
    return {found.number: found.verdict for found in compare(one, again, others)}


def elsewhere(one: Record, sha: str = "0" * 64) -> Record:
    """The record as other hardware would make it, with another model."""
    return read(json.dumps(json.loads(one.to_json()) | {"victim_sha256": sha}).encode())


def test_the_same_model_must_give_the_same_numbers() -> None:
    assert set(verdicts(record(), record(), []).values()) == {"equal"}
    recorded = with_asr(record(), 20)
    assert verdicts(recorded, with_asr(record(), 21), [])["ASR"] == "differs"


@pytest.mark.parametrize("hits", [0, 1, 9, 17, 18, 35, 60, 900])
def test_with_few_repetitions_intervals_of_the_counts_must_meet(hits: int) -> None:
    recorded = with_asr(record(), 20)
    low, high = Rate(20, 1800).interval()
    own_low, own_high = Rate(hits, 1800).interval()
    meet = own_low <= high and low <= own_high
    for others in ([], [with_asr(record(1), 900)]):
        verdict = verdicts(recorded, elsewhere(with_asr(record(), hits)), others)["ASR"]
        assert verdict == ("agrees" if meet else "differs")


@pytest.mark.parametrize("hits", [0, 150, 400, 480, 620, 1000, 1500])
@pytest.mark.parametrize("recorded", [350, 1700])
@pytest.mark.parametrize("among", [1, 5])
def test_other_repetitions_tell_how_far_two_may_be_apart(
    among: int, recorded: int, hits: int
) -> None:
    """The recorded number itself does not widen the interval that it is judged by.

    Of many numbers one differs by chance in 5 % of all replays, not each of them.
    """
    others = [with_asr(record(1), asr) for asr in (300, 400, 350)]
    spread = math.sqrt((50**2 + 50**2) / 2) / 1800
    reach = stats.t.ppf(1 - 0.025 / among, 2) * spread * math.sqrt(2)
    again = elsewhere(with_asr(record(), hits))
    found = compare(with_asr(record(), recorded), again, others, among)
    verdict = {one.number: one.verdict for one in found}["ASR"]
    assert verdict == ("agrees" if abs(hits - recorded) / 1800 <= reach else "differs")


def test_of_many_numbers_one_may_be_a_little_off() -> None:
    """As 9 of 4,488 images that an attack misses in a replay, and none in the record."""
    recorded, again = with_asr(record(), 0), elsewhere(with_asr(record(), 9))
    for among, verdict in ((1, "differs"), (21, "agrees")):
        found = compare(recorded, again, [], among)
        assert {one.number: one.verdict for one in found}["ASR"] == verdict
    found = compare(recorded, elsewhere(with_asr(record(), 40)), [], 21)
    assert {one.number: one.verdict for one in found}["ASR"] == "differs"


def test_a_score_is_judged_by_other_repetitions_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It has no counts, so that of another model nothing is known without them."""

    def scored(score: float, seed: int = 0) -> Record:
        return examined(
            "badnets", "finder", seed, [[score, 0.0, 0.0]], victim_sha256=f"{seed + 1}" * 64
        )

    recorded, again = scored(0.5), elsewhere(scored(0.6))
    assert verdicts(recorded, again, [scored(0.5, 1)]) == {"score": "unknown"}
    told = Again(recorded, again, compare(recorded, again, []))
    assert not told.tells  # so that no board notes it
    assert show([told]) == 0
    assert "0 numbers differ, of 1 cell not all can be told" in capsys.readouterr().out
    others = [scored(0.5, 1), scored(0.55, 2), scored(0.45, 3)]
    reach = float(stats.t.ppf(0.975, 2)) * 0.05 * math.sqrt(2)
    for distance, verdict in ((0.99, "agrees"), (1.01, "differs")):
        again = elsewhere(scored(0.5 + distance * reach))
        assert verdicts(recorded, again, others) == {"score": verdict}
    assert verdicts(recorded, scored(0.5), []) == {"score": "equal"}


def test_numbers_of_failed_cells_do_not_count() -> None:
    error = {"kind": "ValueError", "message": "no luck", "where": "x.py:1"}
    failed = record(status="failed", error=error, metrics=None, curve=[], evidence=None)
    assert count([record(), failed]) == len(compare(record(), record(), []))


def test_repetitions_of_a_cell_share_all_but_the_seed() -> None:
    assert same_cell(record(0), record(1))
    assert not same_cell(record(0), record(0))
    assert not same_cell(record(0), record(1, trusted_share=0.1))


def test_draws_are_repeatable_and_not_too_many() -> None:
    records = [record(seed) for seed in range(3)]
    assert draw(records, 2, 7) == draw(records, 2, 7)
    assert len(draw(records, 10, 0)) == 3


def test_another_version_or_setting_is_not_replayed(registry: Registry) -> None:
    assert playable(record(), registry).key == record().key
    content = json.loads(record().to_json())
    content["attack"]["version"] = 9
    with pytest.raises(RegistryError, match="version 9, installed is 2"):
        playable(read(json.dumps(content).encode()), registry)
    content = json.loads(record().to_json())
    content["attack"]["params"]["side"] = 0.5
    with pytest.raises(RegistryError, match="another side than that of the installed"):
        playable(read(json.dumps(content).encode()), registry)
    del content["attack"]["params"]["side"]  # as if it stood for anything
    with pytest.raises(RegistryError, match="another side than that of the installed"):
        playable(read(json.dumps(content).encode()), registry)


def test_a_cell_that_ends_in_another_way_differs() -> None:
    error = {"kind": "ValueError", "message": "no luck", "where": "x.py:1"}
    failed = record(status="failed", error=error, metrics=None, curve=[], evidence=None)
    (found,) = compare(record(), failed, [])
    assert found == ("status", "ok", "failed", "", "differs")
    (found,) = compare(failed, failed, [])
    assert found.verdict == "equal"
