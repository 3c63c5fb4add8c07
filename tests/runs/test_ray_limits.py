"""What is sent to a cluster without a limit gets one later; with a cluster that plays nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.protocol import Protocol
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.runs.context import Setup
from benchmark.runs.executor import Job
from benchmark.runs.on_ray import RayExecutor
from benchmark.runs.plan import plan


def test_a_task_that_was_sent_without_a_limit_is_ended_at_the_one_it_gets(
    tiny: Protocol, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[Any] = []
    cluster = SimpleNamespace(
        remote=lambda **_: (
            lambda play: SimpleNamespace(remote=lambda setup, job, *sent: str(job.task))
        ),
        put=lambda value: value,
        wait=lambda references, **_: ([], references),
        cancel=lambda reference, force: cancelled.append(reference),
    )
    monkeypatch.setitem(sys.modules, "ray", cluster)
    store = Store(tmp_path)
    store.begin()
    store.claim("a" * 64)
    executor = RayExecutor(Setup(tiny, tiny.recipe, "cpu", (), None, tmp_path))
    victims = list(plan(tiny, registry, defenses=["strip"], seeds=1)[-1].needs())
    for victim in victims:
        executor.submit(Job(victim))
    assert list(executor.wait(0)) == []
    executor.limit(victims[-1], 0.0)
    ((task, ended),) = executor.wait(0)
    assert task == victims[-1]
    assert ended.overtime is not None
    assert ended.overtime.message == "took longer than 0 s; --cell-time-limit gives it more"
    assert cancelled == [str(victims[-1])]
    assert list(executor.wait(0)) == []
