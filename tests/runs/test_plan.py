"""What is asked for on the command line becomes the right cells, with stable keys."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from benchmark.protocol import Protocol, ProtocolError
from benchmark.records.cell import Cell
from benchmark.records.record import DefenseRef
from benchmark.registry import Registry, RegistryError
from benchmark.runs.plan import plan


def attacked(cells: list[Cell]) -> list[Cell]:
    """Cells of attacks, not of clean models."""
    return [cell for cell in cells if cell.victim.attack.name != "none"]


def defended(cells: list[Cell]) -> list[Cell]:
    return [cell for cell in attacked(cells) if cell.defense.stages]


def test_clean_models_meet_every_repair_and_guard(tiny: Protocol, registry: Registry) -> None:
    cells = plan(tiny, registry)
    clean = [cell for cell in cells if cell.victim.attack.name == "none"]
    met = {(cell.defense.name, cell.trusted_share) for cell in clean}
    assert met == {(cell.defense.name, cell.trusted_share) for cell in attacked(cells)}


def test_the_grid_of_the_protocol(tiny: Protocol, registry: Registry) -> None:
    cells = plan(tiny, registry)
    assert [cell.victim.attack.name for cell in cells[:2]] == ["none", "badnets"]
    shares = [(cell.defense.name, cell.trusted_share) for cell in defended(cells)]
    assert shares == [
        ("weight-decay", 0.05),
        ("weight-decay", 0.15),
        ("spectral-signatures", None),
        ("strip", 0.05),
        ("strip", 0.15),
    ]
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == len(cells)


def test_settings_are_laid_over_the_protocols_own(tiny: Protocol, registry: Registry) -> None:
    (attack,) = {
        cell.victim.attack.label
        for cell in plan(tiny, registry, attacks=["badnets:m=10,boost=3"])
        if cell.victim.attack.name != "none"
    }
    assert attack == "badnets:side=0.25"
    cell = attacked(plan(tiny, registry, attacks=["badnets:m=10,boost=3"]))[0]
    assert (cell.victim.attack.m, cell.victim.attack.boost) == (10, 3)
    cell = attacked(plan(tiny, registry, attacks=["badnets:side=0.5"]))[0]
    assert (cell.victim.attack.label, cell.victim.attack.m) == ("badnets:side=0.5", 40)


def test_m_defaults_by_threat_model(tiny: Protocol, registry: Registry) -> None:
    attacks = ["tsb", "c-badnets", "lsp", "pcb"]
    cells = plan(tiny, registry, attacks=attacks, defenses=["weight-decay"])
    found = {c.victim.attack.name: c.victim.attack.m for c in cells}
    assert found == {"none": 0, "tsb": 30, "c-badnets": 20, "lsp": 30, "pcb": 0}
    with pytest.raises(RegistryError, match="pcb owns the training"):
        plan(tiny, registry, attacks=["pcb:m=5"])


def test_a_replaced_inner_plugin_starts_from_its_own_defaults(
    tiny: Protocol, registry: Registry
) -> None:
    entry = tiny.robustness.attacks[0].model_copy(update={"attack": "lsp:base.side=0.5,rate=2"})
    game = tiny.robustness.model_copy(update={"attacks": (entry,)})
    protocol = tiny.model_copy(update={"robustness": game})
    cells = attacked(plan(protocol, registry, attacks=["lsp:base=a-blend"]))
    label = cells[0].victim.attack.label
    assert label == "lsp:base=a-blend,rate=2.0"


def test_no_sanitizer_before_an_attacker_who_trains(tiny: Protocol, registry: Registry) -> None:
    cells = defended(plan(tiny, registry, attacks=["pcb", "lsp"]))
    assert {cell.defense.name for cell in cells} == {"weight-decay", "strip"}


def test_a_pipeline_is_one_cell_with_its_stages_in_order(
    tiny: Protocol, registry: Registry
) -> None:
    cells = defended(plan(tiny, registry, defenses=["strip+weight-decay+spectral-signatures"]))
    assert {cell.defense.name for cell in cells} == {"spectral-signatures+weight-decay+strip"}
    assert cells[0].defense.stages[1].params["steps"] == 5
    assert len(cells[0].needs()) == 3
    with pytest.raises(RegistryError, match="one defense per stage"):
        plan(tiny, registry, defenses=["weight-decay+fine-pruning"])


def test_keys_do_not_depend_on_what_else_is_planned(tiny: Protocol, registry: Registry) -> None:
    alone = {cell.key for cell in plan(tiny, registry, defenses=["strip"])}
    assert alone < {cell.key for cell in plan(tiny, registry, seeds=2)}
    other_recipe = {cell.key for cell in plan(tiny, registry, recipe="short")}
    assert not other_recipe & {cell.key for cell in plan(tiny, registry)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"attacks": ["badnet"]}, "did you mean 'badnets'"),
        ({"attacks": ["badnets:m=-1"]}, "m: input should be greater than or equal to 0"),
        ({"attacks": ["badnets:m=x"]}, "m: input should be a valid integer"),
        ({"attacks": ["badnets:boost=10001"]}, "boost: input should be less than or equal to 1000"),
        ({"attacks": ["badnets:side"]}, "expected key=value"),
        ({"attacks": ["badnets:sid=1"]}, "did you mean 'side'"),
        ({"defenses": ["weight-decay:steps=0"]}, "steps=0 is not allowed"),
        ({"attacks": ["pcb:m=50"]}, "it poisons no files: m must be 0, and boost 1"),
        ({"attacks": ["pcb:boost=7"]}, "it poisons no files: m must be 0, and boost 1"),
        ({"recipe": "long"}, "there are standard, short"),
        ({"seeds": 0}, "seeds must be from 1 to 10,000 here, got 0"),
        ({"seeds": 10**9}, "from 1 to 10,000 here, got 1,000,000,000"),
    ],
)
def test_bad_requests_get_one_sentence(
    tiny: Protocol, registry: Registry, words: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(tiny, registry, **words)  # type: ignore[arg-type]


#: A repair whose parameters do not do, what is asked for, and what is said of it.
UNFIT = {
    "changed as it is built": (
        "steps: int = 5\n    def __post_init__(self): self.steps *= 2",
        "odd",
        r"odd:steps=10 does not build the same plugin again \(steps is 10, then 20\); leave the",
    ),
    "changed beyond its limits": (
        "steps: Count | None = None\n    def __post_init__(self): self.steps = 0",
        "odd",
        r"odd:steps=0 does not build the same plugin again \(odd: steps=0 is not allowed",
    ),
    "long": (
        "caption: str = ''",
        f"odd:caption={'x' * 401}",
        r"odd cannot be recorded: defense.stages.0.label has 413 characters, at most 400 are",
    ),
    "long by default": (
        "caption: str = 401 * 'x'",
        "odd",
        r"odd cannot be recorded: defense.stages.0.params.caption has 401 characters",
    ),
    "markup by default": (
        "caption: str = '<b>'",
        "strip+odd",
        r"odd\+strip cannot be recorded: defense.stages.0.params.caption '<b>' has characters that",
    ),
    "infinite by default": (
        "rate: float = float('inf')",
        "odd",
        "odd cannot be recorded: file is no JSON that a record may be: Infinity is no number",
    ),
}

ODD = '''
from dataclasses import dataclass
from benchmark import Count, Repair, hookimpl

@dataclass
class Odd(Repair):
    """A made-up repair."""

    name, version, paper = "odd", 1, "none"
    {body}

    def repair(self, model, trusted, rng):
        yield

@hookimpl
def register_defenses(register):
    register(Odd)
'''


@pytest.mark.parametrize("case", UNFIT)
def test_what_no_record_may_hold_is_not_played(case: str, tiny: Protocol, tmp_path: Path) -> None:
    body, spec, message = UNFIT[case]
    path = tmp_path / "odd.py"
    path.write_text(ODD.format(body=body))
    with pytest.raises(RegistryError, match=message):
        plan(tiny, Registry([path]), defenses=[spec])


@pytest.mark.parametrize(
    ("section", "field", "spec", "belongs"),
    [
        ("robustness", "defenses", "neural-cleanse", "detectability"),
        ("robustness", "defenses", "smoothinv", "inversion"),
        ("detectability", "detectors", "weight-decay:steps=5", "robustness"),
    ],
)
def test_a_defense_in_the_section_of_another_game_is_refused(
    section: str,
    field: str,
    spec: str,
    belongs: str,
    with_population: Protocol,
    registry: Registry,
) -> None:
    game = getattr(with_population, section)
    wrong = game.model_copy(update={field: (*getattr(game, field), spec)})
    protocol = with_population.model_copy(update={section: wrong})
    said = f"tiny: {spec} in section {section} plays the {belongs} game; move it to section"
    with pytest.raises(ProtocolError, match=said):
        plan(protocol, registry)
    assert plan(protocol, registry, defenses=["strip"]), "what is asked for by name is played"


def test_two_entries_of_one_name_are_both_played(
    with_population: Protocol, registry: Registry
) -> None:
    game = with_population.detectability
    assert game is not None
    specs = ("neural-cleanse:steps=6", "neural-cleanse:steps=7,check=2")
    protocol = with_population.model_copy(
        update={"detectability": game.model_copy(update={"detectors": specs})}
    )

    def steps(*defenses: str) -> set[tuple[int, int]]:
        cells = defended(plan(protocol, registry, attacks=["badnets"], defenses=defenses))
        stages = [cell.defense.stages[0] for cell in cells if cell.game == "detectability"]
        return {(stage.params["steps"], stage.params["check"]) for stage in stages}

    assert steps() == {(6, 10), (7, 2)}
    assert steps("neural-cleanse:steps=7,check=2") == {(7, 2)}
    assert steps("neural-cleanse:batch_size=2") == {(6, 10)}


def test_what_says_most_comes_first(with_population: Protocol, registry: Registry) -> None:
    """Both axes of the fronts before all else, row by row."""
    game = with_population.robustness
    other = game.attacks[0].model_copy(update={"attack": "wanet"})
    protocol = with_population.model_copy(
        update={
            "robustness": game.model_copy(
                update={"attacks": (*game.attacks, other), "seeds": 2, "shares": (0.05, 0.15)}
            )
        }
    )
    cells = plan(protocol, registry)

    def described(cell: Cell) -> tuple[str, int, str, float | None, int]:
        attack = cell.victim.attack
        return (attack.name, attack.m, cell.defense.name, cell.trusted_share, cell.victim.seed)

    order = [described(cell) for cell in cells]
    first = [("none", 0, "none", None, seed) for seed in (0, 1)]
    for name in ("badnets", "wanet"):
        for seed in (0, 1):
            # Detectors get a share of 0.15.
            first += [(name, 40, "none", None, seed), (name, 40, "weight-decay", 0.15, seed)]
    assert order[: len(first)] == first
    played = (cell.game for cell in cells if cell.defense.stages)
    games = [game for game, _ in groupby(played)]
    assert games == ["robustness", "detectability", "robustness"]
    for number, cell in enumerate(cells):
        if cell.defense.stages:
            own = [one.victim.key for one in cells[:number] if not one.defense.stages]
            assert {cell.victim.key, cell.victim.clean.key} <= set(own)


def test_names_of_files_fit_wherever_they_are_written(tiny: Protocol, registry: Registry) -> None:
    """Also those of an attack and three stages whose names are as long as names may be."""
    (cell,) = defended(plan(tiny, registry, defenses=["spectral-signatures"]))
    stage, attack = cell.defense.stages[0], cell.victim.attack
    stages = tuple(stage.model_copy(update={"name": letter * 50}) for letter in "abc")
    pipeline = DefenseRef(name="+".join(one.name for one in stages), stages=stages)
    victim = replace(cell.victim, attack=attack.model_copy(update={"name": "x" * 50, "m": 10**6}))
    long = replace(cell, victim=victim, defense=pipeline, trusted_share=0.0123456)
    assert len(f"{long.name}.sha256") == 255
    assert long.name.endswith(long.key[:12])
    assert long.name != replace(long, victim=replace(victim, seed=1)).name
    assert cell.name == (f"robustness-badnets-m40-spectral-signatures-s0-{cell.key[:12]}"), (
        "those that fit stay what they were"
    )
