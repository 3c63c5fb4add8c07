"""A replay agrees where another repetition, or another count, could have put it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmark.metrics import Rate
from benchmark.registry import Registry
from benchmark.runs.record import Record, read
from benchmark.runs.replay import compare, draw, playable, same_cell
from benchmark.specs import RegistryError

RECORDS = Path(__file__).parent.parent.parent / "leaderboards" / "fashion-mnist-v1" / "records"
NAME = "robustness-badnets-m100-pivotal-tuning-r0.05-s{}-*.json"


def record(seed: int = 0, **changes: Any) -> Record:
    (path,) = RECORDS.glob(NAME.format(seed))
    return read(json.dumps(json.loads(path.read_text()) | changes).encode())


def with_asr(one: Record, hits: int) -> Record:
    """The record with another remaining ASR."""
    asr = {"hits": hits, "total": 1800, "value": hits / 1800}
    content = json.loads(one.to_json())
    content["metrics"]["asr"] = asr
    return read(json.dumps(content).encode())


def verdicts(one: Record, again: Record, others: list[Record]) -> dict[str, str]:
    return {found.number: found.verdict for found in compare(one, again, others)}


def test_the_same_numbers_are_equal() -> None:
    assert set(verdicts(record(), record(), []).values()) == {"equal"}


@pytest.mark.parametrize("hits", [0, 1, 17, 18, 60, 900])
def test_without_repetitions_intervals_of_the_counts_must_meet(hits: int) -> None:
    recorded = with_asr(record(), 20)
    low, high = Rate(20, 1800).interval()
    own_low, own_high = Rate(hits, 1800).interval()
    meet = own_low <= high and low <= own_high
    verdict = verdicts(recorded, with_asr(record(), hits), [])["ASR"]
    assert verdict == ("agrees" if meet else "differs")


@pytest.mark.parametrize("hits", [400, 620, 1000, 1500])
def test_repetitions_tell_where_one_more_may_lie(hits: int) -> None:
    family = [with_asr(record(seed), asr) for seed, asr in enumerate((300, 400, 350))]
    values = [300 / 1800, 400 / 1800, 350 / 1800]
    spread = math.sqrt(sum((v - 350 / 1800) ** 2 for v in values) / 2)
    reach = stats.t.ppf(0.975, 2) * spread * math.sqrt(1 + 1 / 3)
    found = {one.number: one for one in compare(family[0], with_asr(record(), hits), family[1:])}
    inside = hits / 1800 <= 350 / 1800 + reach
    assert found["ASR"].high == pytest.approx(350 / 1800 + reach)
    assert (found["ASR"].verdict == "agrees") == inside


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
    with pytest.raises(RegistryError, match="version 9, installed is 1"):
        playable(read(json.dumps(content).encode()), registry)
    content = json.loads(record().to_json())
    content["attack"]["params"]["side"] = 0.5
    with pytest.raises(RegistryError, match="another side than that of the installed"):
        playable(read(json.dumps(content).encode()), registry)


def test_a_replay_that_failed_says_why() -> None:
    error = {"kind": "ValueError", "message": "no luck", "where": "x.py:1"}
    failed = record(status="failed", error=error, metrics=None, curve=[], evidence=None)
    with pytest.raises(RegistryError, match="the replay failed: no luck"):
        compare(record(), failed, [])
