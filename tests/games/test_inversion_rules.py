"""The inversion game's rules: what an inverter is handed, what it may yield, what is random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from barrier import bytes_of
from inversion_scene import (
    CLASSES,
    CURVE_STARTS,
    RADII,
    STARTS,
    TARGET,
    Nothing,
    Own,
    Random,
    game,
    run,
    suspect,
    told,
    view,
)
from torch import Generator, Tensor

from benchmark.api import Starts
from benchmark.classifier import Classifier
from benchmark.games.checks import RuleViolation
from benchmark.games.inversion.play import Outcome
from benchmark.images import to_bytes
from benchmark.triggers import Additive, Trigger


class Spy(Own):
    """Notes what it is given, and ruins what it can."""

    ruins: ClassVar[bool] = False
    given: ClassVar[list[dict[str, Any]]]

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        self.given.append(
            {
                "params": self.params,
                "weights": weights,
                "frozen": [not parameter.requires_grad for parameter in model.parameters()],
                "training": [module.training for module in model.modules()],
                "images": starts.images.clone(),
                "targets": starts.targets.clone(),
                "restart": starts.restart,
                "state": rng.get_state(),
                "global": torch.random.get_rng_state(),
            }
        )
        change = torch.randn(starts.images.shape, generator=rng) * 0.3
        if self.ruins:
            with torch.no_grad():
                for value in model.state_dict().values():
                    value.zero_()
            starts.images.fill_(0.5)
            torch.rand(9)
        yield Additive(change)


def spied(ruins: bool = False, **changes: Any) -> tuple[Outcome, list[dict[str, Any]]]:
    kind = type("Fresh", (Spy,), {"given": [], "ruins": ruins})
    return run(kind, **changes), kind.given  # type: ignore[attr-defined]


def test_every_run_gets_the_model_the_starts_and_the_target_but_no_norm() -> None:
    outcome, given = spied(configurations={"own": {"a": [1, 2], "b": [3]}}, runs=5)
    restarts = [(one["params"], one["restart"]) for one in given]
    points = [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 3.0}]
    assert restarts == [(point, n) for n in range(3) for point in points] + [({}, 0)]
    assert [(one.params, one.restart) for one in outcome.attempts] == restarts[:-1]
    weights = suspect().state_dict()
    begin = view().starts.images
    for one in given:
        assert all(torch.equal(value, weights[name]) for name, value in one["weights"].items())
        assert not any(one["frozen"] + one["training"])
    for one in given[:-1]:
        assert torch.equal(one["images"], begin)
        assert one["targets"].tolist() == [TARGET] * STARTS
    # At last all classes, from the first starts.
    shown = given[-1]["images"].view(CURVE_STARTS, CLASSES, 1, 16, 16)
    assert torch.equal(shown[:, 4], begin[:CURVE_STARTS])
    assert given[-1]["targets"].tolist() == list(range(CLASSES)) * CURVE_STARTS
    # The true trigger's norm is nowhere to be found.
    assert {field.name for field in fields(Starts)} == {"images", "targets", "restart"}


def test_an_inverter_with_a_radius_meets_all_classes_at_every_radius() -> None:
    """One without has its own setting."""
    given: list[tuple[float, int]] = []

    class Round(Nothing):
        def __init__(self, epsilon: float = 3.0) -> None:
            super().__init__()
            self.epsilon = epsilon

        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            given.append((self.epsilon, len(starts.targets)))
            yield Additive(torch.full_like(starts.images, self.epsilon / 16))

    outcome = run(Round, configurations={"own": {"epsilon": [0.5]}})
    every = CURVE_STARTS * CLASSES
    assert given == [(0.5, STARTS), *((radius, every) for radius in RADII)]
    assert tuple(outcome.classes) == RADII
    for radius, hits in outcome.classes.items():
        images = (view().evaluation.images + radius / 16).clamp(0, 1)
        answers = suspect()(images).argmax(1)
        for label in range(CLASSES):
            expected = (answers == label).tolist()
            assert hits[:, label].tolist() == [expected] * CURVE_STARTS
    assert list(run(Nothing).classes) == [None]


def test_there_are_at_least_as_many_runs_as_asked_for() -> None:
    grid = {"epsilon": (1.0, 2.0), "sigma": (0.1, 0.2, 0.3)}
    assert game(runs=3).attempts("own") == [({}, 0), ({}, 1), ({}, 2)]
    for runs, expected in ((1, 6), (6, 6), (7, 12)):
        found = game(configurations={"own": grid}, runs=runs).attempts("own")
        assert len(found) == expected
        points = [{"epsilon": e, "sigma": s} for e in (1.0, 2.0) for s in (0.1, 0.2, 0.3)]
        assert found == [(point, n) for n in range(expected // 6) for point in points]


def same(one: Outcome, other: Outcome) -> bool:
    pairs = [(one.inverted.numpy(), other.inverted.numpy())]
    pairs += [(one.classes[None], other.classes[None])]
    for a, b in zip(one.attempts, other.attempts, strict=True):
        pairs += [(a.selection, b.selection), (a.evaluation, b.evaluation)]
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_ruinous_inverter_changes_nobody_elses_input() -> None:
    before = view().starts.pixels.clone()
    settings: dict[str, Any] = {"configurations": {"own": {"a": [1, 2]}}, "runs": 4}
    (one, quiet), (other, ruined) = spied(**settings), spied(ruins=True, **settings)
    assert torch.equal(view().starts.pixels, before)
    assert len(quiet) == len(ruined) == 5
    for a, b in zip(quiet, ruined, strict=True):
        assert all(torch.equal(value, b["weights"][name]) for name, value in a["weights"].items())
        for part in ("images", "targets", "state", "global"):
            assert torch.equal(a[part], b[part])
    assert same(one, other)
    assert told(one, "distance") == told(other, "distance")


def test_randomness_is_that_of_names_and_no_two_runs_share_it() -> None:
    torch.rand(3)
    settings: dict[str, Any] = {"configurations": {"own": {"a": [1, 2]}}, "runs": 4}
    (one, first), (two, second) = spied(**settings), spied(**settings)
    other, third = spied(seed=1, **settings)
    assert same(one, two)
    assert not same(one, other)
    for part in ("state", "global"):
        states = [run[part].numpy().tobytes() for run in (*first, *second, *third)]
        assert states[:5] == states[5:10]
        assert len(set(states)) == 10
    assert bytes_of(view(0).starts.pixels) != bytes_of(view(1).starts.pixels)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 11])
def test_the_trail_keeps_powers_of_two_and_the_last(steps: int) -> None:
    outcome = run(type("Stepping", (Nothing,), {"steps": steps}))
    kept = [step for step in (1, 2, 4, 8) if step <= steps]
    kept += [steps] if steps not in kept else []
    assert list(outcome.attempts[0].trail) == list(outcome.trail) == kept
    begin = view().starts.images
    for step in kept:
        expected = (begin + (step - 1) / 100).clamp(0, 1)
        assert torch.equal(outcome.trail[step], expected)
    assert torch.equal(to_bytes(outcome.inverted), to_bytes(outcome.trail[steps]))
    assert torch.equal(outcome.inverted, to_bytes(outcome.inverted).float() / 255)


# What is refused.


class Loose(Trigger):
    """Puts on images whatever a function says."""

    def __init__(self, count: int, change: Callable[[Tensor], Tensor]) -> None:
        self.variables, self.count, self.change = [], count, change

    def apply(self, images: Tensor) -> Tensor:
        return self.change(images.repeat(self.count, 1, 1, 1, 1))

    @property
    def norms(self) -> Tensor:
        return torch.zeros(self.count)

    @property
    def pictures(self) -> dict[str, Tensor]:
        return {}


EACH = r"own\.invert must yield a trigger for each of 3 start images, got images of shape \("
KIND = r"own\.invert must yield a Patch or an Additive, got "
NOT_FINITE = r"own's trigger must return values in \[0, 1\], got \[nan, nan\]"

REFUSED: dict[str, tuple[Callable[[Starts], list[Any]], str]] = {
    "nothing": (lambda starts: [], r"own\.invert must yield at least one trigger"),
    "None": (lambda starts: [None], KIND + "NoneType"),
    "a tensor": (lambda starts: [starts.images], KIND + "Tensor"),
    "a kind of its own": (lambda starts: [Loose(3, torch.zeros_like)], KIND + "Loose"),
    "too few": (lambda starts: [Additive(starts.images[:1])], EACH + "1, 1, 1"),
    "a wrong one first": (lambda starts: [None, Additive(starts.images)], "got NoneType"),
    "NaN": (lambda starts: [Additive(starts.images * float("nan"))], NOT_FINITE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_trigger_is_refused_in_one_sentence(name: str) -> None:
    yields, message = REFUSED[name]

    class Offender(Own):
        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            yield from yields(starts)

    with pytest.raises(RuleViolation, match=message) as caught:
        run(Offender)
    assert "\n" not in str(caught.value)


def test_runs_of_random_sums_differ() -> None:
    """So that what is compared above can differ at all."""
    outcome = run(Random, runs=2)
    first, second = outcome.attempts
    assert (first.selection != second.selection).any()
