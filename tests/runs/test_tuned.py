"""Searches try every point once, survive kills, and their winners reach the cells."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import small_board
from made_records import frames_of, played
from pydantic import ValidationError

from benchmark import protocol as protocols
from benchmark.games.robustness import search as searching
from benchmark.games.robustness import searches as tuned
from benchmark.games.robustness.search import search_grid
from benchmark.games.robustness.searches import Left, Poisoning, Search, Trial
from benchmark.games.robustness.settings import Tuning
from benchmark.games.robustness.tuning import CannotPoison
from benchmark.metrics import Rate
from benchmark.protocol import Protocol
from benchmark.records.cell import Tune
from benchmark.records.files import StoreError
from benchmark.records.record import ProtocolRef
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.runs.context import Setup
from benchmark.runs.done import is_done
from benchmark.runs.plan import plan, plan_tuning, searched
from benchmark.runs.tasks import Worker
from benchmark.specs import written

GRID = {"learning_rate": (0.1, 0.01, 0.001), "decay": (1.0, 2.0)}
TUNING = Tuning(
    suspect=9,
    draws=1,
    steps=5,
    batch_size=8,
    learning_rate=0.1,
    grids={"weight-decay": {"decay": tuple(range(1, 21))}},
)
REF = ProtocolRef(name="made-up", sha256="a" * 64, recipe="standard")


def rate(hits: int, total: int = 100) -> Rate:
    return Rate(hits, total)


def left(asr: int, held_out: int = 90, unseen: int = 880) -> Left:
    return Left(
        asr=rate(asr),
        held_out=rate(held_out),
        lost=max(0, 90 - held_out),
        unseen=rate(unseen, 1000),
        step=100,
    )


def poisoned(count: int) -> tuple[Poisoning, ...]:
    """So many self-poisonings of a suspect that had 90 % before and has 86 % now."""
    one = Poisoning(suspect=left(10), poisoned=left(100, 86), learning_rate=0.01)
    return (one,) * count


def found(*trials: Trial, defense: str = "weight-decay", share: float = 0.05) -> Search:
    return Search(
        protocol=REF,
        defense=defense,
        version=1,
        trusted_share=share,
        suspect=9,
        poisonings=poisoned(len(trials[0].left)),
        trials=trials,
    )


def test_every_point_is_tried_once_in_the_order_of_the_grid(tmp_path: Path) -> None:
    tried: list[tuple[float, ...]] = []

    def try_point(params: dict[str, float]) -> tuple[Left, ...]:
        tried.append(tuple(params.values()))
        return (left(round(100 * params["learning_rate"])),)

    ticks: list[tuple[int, int]] = []
    trials = search_grid(GRID, try_point, tmp_path / "a" / "kept", lambda *t: ticks.append(t))
    points = [*product(*GRID.values())]
    assert tried == points
    assert [tuple(trial.params.values()) for trial in trials] == points
    assert [trial.left[0].asr.hits for trial in trials] == [round(100 * lr) for lr, _ in points]
    assert ticks == [(done, 6) for done in range(6)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_a_search_that_was_cut_off_repeats_only_the_point_in_flight(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    tried: list[tuple[float, ...]] = []

    def try_point(params: dict[str, float]) -> tuple[Left, ...]:
        tried.append(tuple(params.values()))
        if len(tried) == 4:
            raise kind
        return (left(50),)

    with pytest.raises(kind):
        search_grid(GRID, try_point, tmp_path / "kept", lambda done, total: None)
    trials = search_grid(GRID, try_point, tmp_path / "kept", lambda done, total: None)
    assert len(trials) == 6
    assert len(tried) == 7
    assert len(set(tried)) == 6


@pytest.mark.parametrize(
    "damage", [lambda line: line[:-9], lambda line: line.replace(b"0.1", b"0.2")]
)
def test_points_from_a_damaged_line_on_are_tried_again(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    tried: list[tuple[float, ...]] = []

    def try_point(params: dict[str, float]) -> tuple[Left, ...]:
        tried.append(tuple(params.values()))
        return (left(50),)

    kept, points = tmp_path / "kept", [*product(*GRID.values())]
    trials = search_grid(GRID, try_point, kept, lambda done, total: None)
    lines = kept.read_bytes().splitlines()
    kept.write_bytes(b"\n".join([lines[0], damage(lines[1]), *lines[2:]]) + b"\n\xff\0")
    assert search_grid(GRID, try_point, kept, lambda done, total: None) == trials
    assert tried == [*points, *points[1:]]


def test_the_best_has_the_lowest_asr_then_the_highest_accuracy_then_is_first() -> None:
    trials = [
        Trial(params={"x": 1.0}, left=(left(10, 95), left(30, 95))),
        Trial(params={"x": 2.0}, left=(left(10, 80), left(10, 80))),
        Trial(params={"x": 3.0}, left=(left(0, 90), left(20, 90))),
        Trial(params={"x": 4.0}, left=(left(0, 90), left(20, 90))),
    ]
    assert found(*trials).best.params == {"x": 3.0}
    assert trials[2].asr == pytest.approx(0.1)
    assert trials[0].right == 190


def test_a_search_is_charged_against_the_suspect_not_its_poisoned_copy() -> None:
    """90 % before, 86 % poisoned, 87 and 89 % repaired: it costs 2 points, it does not win 2."""
    trial = Trial(params={"x": 1.0}, left=(left(0, 87, 850), left(0, 89, 870)))
    held_out, unseen = found(trial).cost(trial)
    assert held_out == pytest.approx(0.02)
    assert unseen == pytest.approx(0.02)


def test_instability_is_the_mean_absolute_difference_over_all_pairs() -> None:
    trials = [Trial(params={"x": float(n)}, left=(left(asr),)) for n, asr in enumerate((0, 10, 40))]
    assert found(*trials).instability == pytest.approx((10 + 40 + 30) / 300)
    assert found(trials[0]).instability == 0


def test_searches_are_kept_as_files_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    one = found(Trial(params={"decay": 0.5}, left=(left(3),)))
    two = found(Trial(params={"decay": 0.25}, left=(left(3),)), share=0.1)
    for search in (one, two):
        search.save(tmp_path / tuned.file_name(search.defense, search.trusted_share))
    assert tuned.load(tmp_path) == [one, two]
    assert tuned.chosen(tuned.load(tmp_path)) == {
        ("weight-decay", 0.05): {"decay": 0.5},
        ("weight-decay", 0.1): {"decay": 0.25},
    }
    tuned.copy_searches([one, two], tmp_path, tmp_path / "run")
    assert tuned.load(tmp_path / "run" / "tuning") == [one, two]
    assert tuned.load(tmp_path / "nowhere") == []
    path = tmp_path / "weight-decay-r0.1.json"
    path.write_text(path.read_text().replace('"hits": 3', '"hits": 300'))
    with pytest.raises(StoreError, match=r"weight-decay-r0\.1\.json: trials\.0\.left\.0\.asr"):
        tuned.load(tmp_path)


def test_a_search_that_was_impossible_chooses_nothing_and_says_why(tmp_path: Path) -> None:
    one = found(Trial(params={"decay": 0.5}, left=(left(3),)))
    nothing = {"trials": (), "poisonings": (), "trusted_share": 0.01, "impossible": "too few"}
    two = Search.model_validate(one.model_dump() | nothing)
    for search in (one, two):
        search.save(tmp_path / tuned.file_name(search.defense, search.trusted_share))
    assert tuned.load(tmp_path) == [two, one]
    assert tuned.chosen(tuned.load(tmp_path)) == {("weight-decay", 0.05): {"decay": 0.5}}
    for changes in ({"impossible": None}, {"trials": one.trials}):
        with pytest.raises(ValidationError, match="either trials or a reason"):
            Search.model_validate(two.model_dump() | changes)
    frames = frames_of([played("badnets")], [one, two])
    settings = frames["settings"].set_index("trusted_share").chosen
    assert dict(settings) == {0.05: "decay=0.5", 0.01: "the protocol's own: too few"}


def ready(tiny: Protocol, registry: Registry, root: Path) -> tuple[Worker, Tune]:
    """A worker that has the suspect of a search, and the search, which is kept in `root`/tuned."""
    protocol = tiny.model_copy(update={"tuning": TUNING})
    worker = Worker(Setup(protocol, protocol.recipe, "cpu", (), None, root))
    worker.store.begin()
    tune = plan_tuning(protocol, registry, root / "tuned", ["weight-decay"])[0]
    worker.train_victim(tune.suspect)
    return worker, tune


def test_a_defender_with_too_few_images_makes_no_search(
    tiny: Protocol, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is in the file, and the search has not failed."""
    worker, tune = ready(tiny, registry, tmp_path)

    def refuse(*_: object) -> None:
        raise CannotPoison("ASR 10% for 7.0% of accuracy")

    monkeypatch.setattr(searching, "self_poison", refuse)
    assert worker.tune(tune) is None
    (kept,) = tuned.load(tmp_path / "tuned")
    assert kept.impossible == "ASR 10% for 7.0% of accuracy"


def test_a_search_that_cannot_be_saved_keeps_its_points(
    tiny: Protocol, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, tune = ready(tiny, registry, tmp_path)
    points: list[int] = []

    class Poisoned:
        poisoning = poisoned(1)[0]

        def try_repair(self, *_: object) -> Left:
            points.append(1)
            return left(50)

    monkeypatch.setattr(searching, "self_poison", lambda *_: Poisoned())
    (tmp_path / "tuned").write_text("a file where the folder belongs")
    with pytest.raises(StoreError):
        worker.tune(tune)
    (tmp_path / "tuned").unlink()
    assert worker.tune(tune) is None
    assert len(points) == len(tuned.load(tmp_path / "tuned")[0].trials) == 20
    assert not [*(tmp_path / "artifacts" / "tuning").iterdir()]


def test_a_search_of_what_was_another_protocol_repair_or_recipe_is_none(
    tiny: Protocol, registry: Registry, tmp_path: Path
) -> None:
    protocol = tiny.model_copy(update={"tuning": TUNING})
    task = plan_tuning(protocol, registry, tmp_path, ["weight-decay"])[0]
    own = found(Trial(params={"decay": 0.5}, left=(left(3),)), share=task.trusted_share)
    own = own.model_copy(
        update={
            "protocol": ProtocolRef.of(protocol, task.suspect),
            "version": task.repair.version,
        }
    )
    store = Store(tmp_path / "run")
    others = (
        own.model_copy(update={"version": own.version + 1}),
        own.model_copy(update={"protocol": own.protocol.model_copy(update={"sha256": "b" * 64})}),
        own.model_copy(update={"protocol": own.protocol.model_copy(update={"recipe": "other"})}),
        own.model_copy(update={"protocol": own.protocol.model_copy(update={"init": "c" * 64})}),
        own.model_copy(update={"defense": "nad"}),
        own.model_copy(update={"trusted_share": 0.5}),
    )
    for other in others:
        other.save(task.path)
        assert not is_done(task, store)
        assert searched(protocol, registry, tmp_path) == []
    others[2].save(task.path)
    with pytest.raises(StoreError, match="was searched with recipe other; move it elsewhere"):
        tuned.refuse_other_recipe(task)
    own.save(task.path)
    tuned.refuse_other_recipe(task)
    assert is_done(task, store)
    assert searched(protocol, registry, tmp_path) == [own]
    # A repair that is not installed is nobody's to play.
    more = TUNING.model_copy(update={"grids": {**TUNING.grids, "not-there": {"x": (1,)}}})
    assert searched(tiny.model_copy(update={"tuning": more}), registry, tmp_path) == [own]
    assert searched(tiny, registry, tmp_path) == []  # which has no grids


def test_a_winner_is_used_at_its_share_under_what_the_user_asks_for(
    tiny: Protocol, registry: Registry
) -> None:
    winners = {("weight-decay", 0.05): {"decay": 0.5, "learning_rate": 0.25}}

    def settings(*defenses: str) -> list[dict[str, object]]:
        cells = plan(tiny, registry, defenses=defenses, tuned=winners)
        attacked = [cell for cell in cells if cell.victim.attack.name != "none"]
        return [cell.defense.stages[0].params for cell in attacked if cell.defense.stages]

    tuned_one, other = settings("weight-decay")
    assert (tuned_one["decay"], tuned_one["learning_rate"], tuned_one["steps"]) == (0.5, 0.25, 5)
    assert (other["decay"], other["learning_rate"], other["steps"]) == (0.01, 0.001, 5)
    asked, _ = settings("weight-decay:decay=0.125")
    assert (asked["decay"], asked["learning_rate"]) == (0.125, 0.25)


@pytest.mark.parametrize("name", protocols.released())
def test_a_whole_protocol_is_played_with_its_winners(name: str, registry: Registry) -> None:
    """What it says of a repair itself lies below its searches, as if the repair had been named."""
    protocol, winners = protocols.load(name), tuned.chosen(tuned.load(protocols.tuned_folder(name)))
    whole = plan(protocol, registry, tuned=winners)
    for (repair, share), found in winners.items():
        played = {
            str(cell.defense.stages[0].params): cell.defense.stages[0].params
            for cell in whole
            if cell.defense.name == repair and cell.trusted_share == share
        }
        (params,) = played.values()
        assert {key: written(params[key]) for key in found if "." not in key} == {
            key: written(value) for key, value in found.items() if "." not in key
        }
        cells = plan(protocol, registry, defenses=[repair], tuned=winners)
        assert {cell.key for cell in cells} <= {cell.key for cell in whole}


def test_only_what_nobody_typed_lies_below_a_search(registry: Registry) -> None:
    """A line of a protocol, typed as it stands, is asked for; of two of one name only the first
    is searched."""
    lines = ["weight-decay:steps=5,decay=0.001", "weight-decay:steps=5,decay=0.125"]
    text = small_board.TOML.replace(
        '"weight-decay:steps=8,batch_size=16,learning_rate=3",',
        ", ".join(f'"{one}"' for one in lines) + ",",
    )
    protocol, winners = small_board.parsed(text), {("weight-decay", 0.05): {"decay": 0.5}}

    def decays(*defenses: str) -> set[object]:
        cells = plan(protocol, registry, defenses=defenses, tuned=winners)
        return {
            cell.defense.stages[0].params["decay"]
            for cell in cells
            if cell.defense.name == "weight-decay" and cell.trusted_share == 0.05
        }

    assert decays() == {0.5, 0.125}
    assert decays(lines[0]) == {0.001}
    assert decays("weight-decay") == {0.5}


def test_a_winner_reaches_the_repair_inside_a_detector(
    with_population: Protocol, registry: Registry
) -> None:
    winners = {("weight-decay", 0.15): {"decay": 0.5}, ("weight-decay", 0.05): {"decay": 0.75}}
    spec = "calibrated-trigger-inversion:repair=weight-decay"
    cells = plan(with_population, registry, defenses=[spec], tuned=winners)
    (params,) = {str(c.defense.stages[0].params["repair"]) for c in cells if c.defense.stages}
    assert "'decay': 0.5" in params


def test_searches_are_planned_for_every_share_that_is_played(
    with_population: Protocol, registry: Registry, tmp_path: Path
) -> None:
    protocol = with_population.model_copy(update={"tuning": TUNING})
    searches = plan_tuning(protocol, registry, tmp_path)
    # That of the detectors is played first.
    assert [search.trusted_share for search in searches] == [0.15, 0.05]
    assert [search.path.name for search in searches] == [
        "weight-decay-r0.15.json",
        "weight-decay-r0.05.json",
    ]
    assert searches[0].repair.params["steps"] == 5
    assert searches[0].suspect.attack.name == "none"
    assert searches[0].suspect.seed == 9
    assert len({search.key for search in searches}) == 2
    with pytest.raises(ValueError, match="has no grid for strip; there are weight-decay"):
        plan_tuning(protocol, registry, tmp_path, ["strip"])
    with pytest.raises(ValueError, match="has no grid for any repair; there are none"):
        plan_tuning(with_population, registry, tmp_path)
