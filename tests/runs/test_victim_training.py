"""What is found out before a victim is trained, and that it changes no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from backdoor_attacks.blend import Blend
from benchmark.games import victims
from benchmark.games.checks import RuleViolation
from benchmark.images import to_bytes
from benchmark.protocol import Protocol
from benchmark.records.cell import Victim
from benchmark.registry import Registry
from benchmark.runs import victim_training
from benchmark.runs.context import RunContext, Setup
from benchmark.runs.plan import plan


def context(tiny: Protocol, root: Path) -> RunContext:
    root.mkdir(exist_ok=True)
    return RunContext(Setup(tiny, "short", "cpu", (), None, root))


def victim(tiny: Protocol, registry: Registry, attack: str) -> Victim:
    cells = plan(tiny, registry, attacks=[attack], defenses=["strip"], recipe="short")
    return next(cell.victim for cell in cells if not cell.victim.attack.clean)


@pytest.mark.parametrize("attack", ["blend:opacity=0", "lc:amplitude=0", "wanet:strength=1e-9"])
def test_a_trigger_that_changes_nothing_costs_no_training(
    attack: str, tiny: Protocol, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*given: Any) -> None:
        raise AssertionError("it is trained")

    monkeypatch.setattr(victims, "train", trained)
    with pytest.raises(RuleViolation, match="trigger changes nothing: in 8 bits"):
        victim_training.train(
            context(tiny, tmp_path), victim(tiny, registry, attack), lambda done, total: None
        )


def test_no_number_depends_on_having_looked(
    tiny: Protocol, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of an attack that draws a trigger for each image."""
    one, found = victim(tiny, registry, "randsq:per_image=true"), []
    for name in ("looked", "not"):
        here = context(tiny, tmp_path / name)
        victim_training.train(here, one, lambda done, total: None)
        triggered = here.store.victims.tensors(one.key, "triggered")["triggered"]
        facts = here.store.victims.facts(one.key)
        found.append((facts["model_sha256"], facts["test_hits"], triggered, torch.rand(1)))
        monkeypatch.setattr(victim_training, "_check_trigger", lambda *given: None)
    assert found[0][:2] == found[1][:2]
    assert all(torch.equal(*pair) for pair in zip(found[0][2:], found[1][2:], strict=True))


def test_an_attacker_sees_no_test_image_before_he_poisons(
    tiny: Protocol, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, shown = context(tiny, tmp_path), []

    def trigger(self: Blend, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        shown.append(to_bytes(images))
        return 1 - images

    def collected(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Blend, "trigger", trigger)
    monkeypatch.setattr(victims, "collect", collected)
    with pytest.raises(KeyboardInterrupt):
        victim_training.train(here, victim(tiny, registry, "blend"), lambda done, total: None)
    (known,) = shown
    assert torch.equal(known, here.experiment.splits.auxiliary.pixels[: len(known)])
