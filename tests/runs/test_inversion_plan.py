"""The inversion game, planned: which cells there are, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmark.cli.play import check_cells
from benchmark.data import load as load_data
from benchmark.data.named import Digits
from benchmark.games.inversion.settings import Inversion
from benchmark.protocol import Protocol, ProtocolError, load, released
from benchmark.records.cell import Cell
from benchmark.registry import Registry, RegistryError
from benchmark.runs.context import Setup
from benchmark.runs.plan import plan


def games(cells: list[Cell], game: str) -> list[Cell]:
    return [cell for cell in cells if cell.game == game]


def test_every_inverter_meets_every_attack(with_inversion: Protocol, registry: Registry) -> None:
    cells = plan(with_inversion, registry)
    played = games(cells, "inversion")
    assert [(c.victim.attack.name, c.defense.name) for c in played] == [
        (attack, inverter) for attack in ("badnets", "blind-s")
        for inverter in ("smoothinv", "plainadv")
    ]  # fmt: skip
    assert [c.victim.attack.m for c in played] == [40, 40, 0, 0]
    assert {c.trusted_share for c in played} == {None}
    for cell in played:
        assert cell.name.startswith(
            f"inversion-{cell.victim.attack.name}-m{cell.victim.attack.m}-{cell.defense.name}-s0-"
        )
        assert [victim.attack.name for victim in cell.needs()] == ["none", cell.victim.attack.name]
    assert {c.defense.name for c in games(cells, "robustness")} >= {"none", "weight-decay"}
    undefended = {c.victim.key for c in cells if not c.defense.stages}
    assert {c.victim.key for c in played} <= undefended
    assert len({c.key for c in cells}) == len({c.name for c in cells}) == len(cells)
    # Clean models are not inverted.
    assert not any(c.victim.attack.clean for c in played)


def test_settings_of_an_inverter_make_another_cell(
    with_inversion: Protocol, registry: Registry
) -> None:
    def cells(*defenses: str, **words: Any) -> list[Cell]:
        found = games(plan(with_inversion, registry, defenses=defenses, **words), "inversion")
        return [cell for cell in found if cell.victim.attack.name == "badnets"]

    (own,), (other,) = cells("smoothinv"), cells("smoothinv:sigma=0.5")
    assert own.defense.stages[0].params["steps"] == other.defense.stages[0].params["steps"] == 3
    assert (own.defense.stages[0].params["sigma"], other.defense.stages[0].params["sigma"]) == (
        0.25, 0.5
    )  # fmt: skip
    assert own.victim.key == other.victim.key
    assert len({own.key, other.key, *(c.key for c in cells("plainadv"))}) == 3
    assert [c.victim.seed for c in cells("smoothinv", seeds=3)] == [0, 1, 2]
    assert own.key in {c.key for c in cells("smoothinv", seeds=3)}


def test_attacks_and_inverters_can_be_asked_for(
    with_inversion: Protocol, registry: Registry
) -> None:
    cells = plan(with_inversion, registry, attacks=["badnets:m=7", "tsb"], defenses=["plainadv"])
    assert {c.game for c in cells if c.defense.stages} == {"inversion"}
    found = [(c.victim.attack.label, c.victim.attack.m) for c in games(cells, "inversion")]
    assert found == [("badnets:side=0.25", 7), ("tsb", 30)]
    found = [(c.victim.attack.label, c.victim.attack.m) for c in cells if not c.defense.stages]
    assert found == [("none", 0), ("badnets:side=0.25", 7), ("tsb", 30)]


def test_an_inverter_plays_alone_and_only_where_its_game_is(
    tiny: Protocol, with_inversion: Protocol, registry: Registry
) -> None:
    for pipeline in ("smoothinv+weight-decay", "weight-decay+smoothinv"):
        with pytest.raises(RegistryError, match="plays a game of its own, not in a pipeline"):
            plan(with_inversion, registry, defenses=[pipeline])
    with pytest.raises(RegistryError, match="a pipeline takes one defense per stage"):
        plan(with_inversion, registry, defenses=["smoothinv+plainadv"])
    with pytest.raises(ValueError, match="tiny has no inversion game, so smoothinv cannot be"):
        plan(tiny, registry, defenses=["smoothinv"])


def changed(protocol: Protocol, **changes: Any) -> Protocol:
    assert protocol.inversion is not None
    game = Inversion.model_validate(protocol.inversion.model_dump() | changes)
    return protocol.model_copy(update={"inversion": game})


def test_an_attack_that_is_asked_for_is_the_games_own(
    with_inversion: Protocol, registry: Registry
) -> None:
    """Not the robustness game's, which may have another patch and another m."""
    own = changed(with_inversion, attacks=[{"attack": "badnets:side=0.125", "m": 9}])
    cells = plan(own, registry, attacks=["badnets"], defenses=["plainadv"])
    (cell,) = games(cells, "inversion")
    assert (cell.victim.attack.label, cell.victim.attack.m) == ("badnets:side=0.125", 9)


def test_what_the_protocol_sweeps_cannot_be_set(
    with_inversion: Protocol, registry: Registry
) -> None:
    with pytest.raises(RegistryError, match="epsilon is what tiny takes the best of, it cannot"):
        plan(with_inversion, registry, defenses=["smoothinv:epsilon=3"])


def test_the_protocol_may_set_what_it_sweeps(with_inversion: Protocol, registry: Registry) -> None:
    """For the run over all classes."""
    own = changed(with_inversion, inverters=["smoothinv:steps=3,epsilon=1"])
    (cell, _) = games(plan(own, registry), "inversion")
    assert cell.defense.stages[0].params["epsilon"] == 1
    assert plan(own, registry, defenses=["smoothinv"])[-1].defense.stages == cell.defense.stages


@pytest.mark.parametrize("name", released())
def test_every_released_protocol_can_be_planned(name: str, registry: Registry) -> None:
    cells = plan(load(name), registry)
    assert {cell.game for cell in cells} >= {"robustness"}
    assert len({cell.key for cell in cells}) == len(cells)


def test_mistakes_in_configurations_show_in_the_plan(
    with_inversion: Protocol, registry: Registry
) -> None:
    with pytest.raises(ValidationError, match="configurations of smothinv, which is not among"):
        changed(with_inversion, configurations={"smothinv": {"sigma": [0.1]}})
    wrong = changed(with_inversion, configurations={"smoothinv": {"sgima": [0.1]}})
    with pytest.raises(RegistryError, match="sgima"):
        plan(wrong, registry)


def test_too_few_start_images_are_said_before_anything_is_trained(
    with_inversion: Protocol, registry: Registry, tmp_path: Path
) -> None:
    own = changed(with_inversion, start_images=1000)
    cells = plan(own, registry, attacks=["badnets"], defenses=["plainadv"])
    setup = Setup(own, "standard", "cpu", (), None, tmp_path)
    sentence = r"1000 start images asked for, the trusted split has \d+ of other classes than the"
    with pytest.raises(ProtocolError, match=sentence):
        check_cells(cells, setup, registry, load_data(Digits()))
