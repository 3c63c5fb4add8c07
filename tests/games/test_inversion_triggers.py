"""What may be a trigger, and what its number must not hang on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from inversion_scene import (
    STARTS,
    TARGET,
    Corner,
    Nothing,
    Own,
    Truth,
    experiment,
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
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.inversion.data import draw
from benchmark.games.inversion.play import play
from benchmark.triggers import Additive, Patch, Trigger


def corner_sum(starts: Starts) -> Tensor:
    change = torch.zeros_like(starts.images)
    change[:, :, :2, :2] = 1
    return change


def test_a_trigger_has_no_code_of_its_own() -> None:
    """It would see the images that it is judged on, and could tell later runs."""

    class Looks(Additive):
        def apply(self, images: Tensor) -> Tensor:
            raise AssertionError("was shown images")

    class Learns(Own):
        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            yield Looks(corner_sum(starts))

    with pytest.raises(RuleViolation, match="must yield a Patch or an Additive, got Looks"):
        run(Learns)


def test_a_trigger_leaves_behind_what_was_put_in_the_place_of_its_methods() -> None:
    class Learns(Own):
        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            trigger = Additive(corner_sum(starts))
            trigger.apply = lambda images: images[None] * 0  # type: ignore[method-assign]
            yield trigger

    class Honest(Own):
        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            yield Additive(corner_sum(starts))

    assert (run(Learns).classes[None] == run(Honest).classes[None]).all()


def test_targets_are_not_the_inverters_to_change() -> None:
    class Lazy(Own):
        """Reverses the target's trigger for every class."""

        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            starts.targets.fill_(TARGET)
            yield Additive(corner_sum(starts))

    others = (view().evaluation.labels != TARGET).numpy()
    classes = run(Lazy).classes[None][..., others]
    assert classes[:, TARGET].all()
    assert not classes[:, TARGET + 1].any()


def test_a_trigger_may_still_carry_gradients() -> None:
    class Open(Own):
        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            trigger = Patch.random(len(starts.images), (1, 16, 16), rng)
            trigger.variables = [variable.requires_grad_(True) for variable in trigger.variables]
            yield trigger

    assert len(told(run(Open), "distance")) == STARTS


def test_a_trigger_that_is_optimised_in_place_leaves_a_trail() -> None:
    class InPlace(Own):
        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            trigger = Additive(torch.zeros_like(starts.images))
            for _ in range(4):
                trigger.variables[0] += 0.1
                yield trigger

    trail, begin = run(InPlace).trail, view().starts.images
    for step in (1, 2, 4):
        assert torch.allclose(trail[step], (begin + 0.1 * step).clamp(0, 1))


def test_pixels_that_do_not_change_overlap_nothing() -> None:
    assert told(run(Nothing), "overlap") == [0] * STARTS


def test_as_many_starts_as_asked_for_or_none() -> None:
    test, attack = experiment().splits.test, Corner()
    evaluation_set = EvaluationSet(experiment().splits.validation, test, view().triggered, TARGET)
    with pytest.raises(ValueError, match="start"):
        draw(experiment(), evaluation_set, attack, game(start_images=59), 0)


def test_no_more_images_are_made_in_a_pass_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment(), "images_per_pass", 40)
    made: list[int] = []
    apply = Additive.apply

    def counted(self: Additive, images: Tensor) -> Tensor:
        changed = apply(self, images)
        made.append(changed.shape[0] * changed.shape[1])
        return changed

    monkeypatch.setattr(Additive, "apply", counted)
    run(Truth)
    assert max(made) <= 40


def test_small_passes_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"configurations": {"own": {"share": [0.3, 0.6]}}}
    expected = run(Truth, **settings)
    monkeypatch.setattr(experiment(), "images_per_pass", 7)
    found = run(Truth, **settings)
    for one, other in zip(expected.attempts, found.attempts, strict=True):
        assert (one.selection == other.selection).all()
        assert (one.evaluation == other.evaluation).all()
    for part in ("restricted", "on_clean_model"):
        assert (getattr(expected, part) == getattr(found, part)).all()
    assert (expected.classes[None] == found.classes[None]).all()
    rates = [attempt.evaluation.mean() for attempt in expected.attempts]
    assert 0 < rates[0] < rates[1]


def test_the_suspects_weights_stay_as_they_are() -> None:
    model = suspect()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    class Ruins(Nothing):
        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            with torch.no_grad():
                for value in model.state_dict().values():
                    value.zero_()
            yield from super().invert(model, starts, rng)

    play(
        experiment(),
        view(),
        model,
        suspect(),
        lambda params: Ruins(**params),
        game(),
        seed_parts=(0,),
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
