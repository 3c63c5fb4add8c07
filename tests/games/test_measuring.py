"""What is measured is what a defender would deploy: fresh models, mixed questions, own images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from benchmark.api import Deployment, Repair, TrustedData, Verdict
from benchmark.classifier import Classifier
from benchmark.conformance import tiny
from benchmark.games.checks import RuleViolation
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.robustness import play as robustness
from benchmark.games.robustness.curve import Point
from benchmark.images import ImageSet

Body = Callable[[Classifier], object]


@dataclass
class Changes(Repair):
    """Halves one weight, and does something else to its model."""

    name = "changes"
    also: Body = lambda model: None

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        for _ in range(4):
            with torch.no_grad():
                model.head.weight[0, 0] /= 2
            self.also(model)
            yield


def play(**stages: Any) -> robustness.Outcome:
    experiment, evaluation_set = tiny.experiment(), tiny.evaluation_set()
    trusted = experiment.trusted(tiny.SHARE, 0)
    learning, judging = trusted.split(0.2, Generator().manual_seed(0))
    asked = EvaluationSet(
        judging, evaluation_set.test, evaluation_set.triggered, evaluation_set.target
    )
    return robustness.play(experiment, asked, tiny.suspect(), trusted=learning, **stages)


def hooked(model: Classifier) -> None:
    model.register_forward_hook(lambda module, inputs, output: output.roll(1, 1))


def deaf(model: Classifier) -> None:
    model.forward = lambda images: torch.zeros(len(images), 10)  # type: ignore[method-assign]


@pytest.mark.parametrize("also", [hooked, deaf])
def test_what_a_plugin_does_to_its_object_is_not_measured(also: Body) -> None:
    plain, tampered = play(repair=Changes()), play(repair=Changes(also))
    assert tampered.curve == plain.curve
    for one, other in zip(plain.answers, tampered.answers, strict=True):
        assert (one.test == other.test).all()
        assert (one.triggered == other.triggered).all()
    assert not tampered.model._forward_hooks


@dataclass
class Epilogue(Repair):
    """Changes the model once more behind its last yield."""

    name = "epilogue"
    rounds: int = 4
    harmless: bool = False

    def repair(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Iterator[None]:
        for _ in range(self.rounds):
            with torch.no_grad():
                model.head.bias.mul_(1.0001)
            yield
        with torch.no_grad():
            model.head.weight.mul_(1.0 if self.harmless else 0.0)
        model.train()


@dataclass
class Promised(Epilogue):
    """The same, and says how many steps it takes."""

    @property
    def steps(self) -> int:
        return self.rounds


@pytest.mark.parametrize("kind", [Epilogue, Promised])
@pytest.mark.parametrize("rounds", [1, 3, 4])
def test_what_changes_after_the_last_step_is_refused(kind: type[Epilogue], rounds: int) -> None:
    """Whether or not the steps divide the interval, which is 2."""
    with pytest.raises(RuleViolation, match=r"^epilogue\.repair changes the model after its last"):
        play(repair=kind(rounds))
    outcome = play(repair=kind(rounds, harmless=True))
    assert outcome.curve[-1].step == rounds


def test_a_repair_keeps_the_architecture() -> None:
    def wider(model: Classifier) -> None:
        model.head = nn.Linear(model.head.in_features, 11)

    with pytest.raises(RuleViolation, match=r"^changes\.repair must keep the architecture"):
        play(repair=Changes(wider))


@dataclass
class Notes(Deployment):
    """Answers each image by itself, by the sum of its bytes, and notes what it is asked."""

    name = "notes"

    def __post_init__(self) -> None:
        self.asked: list[Tensor] = []

    def deploy(
        self, model: Classifier, trusted: TrustedData, rng: Generator
    ) -> Callable[[Tensor], Verdict]:
        def answer(images: Tensor) -> Verdict:
            self.asked.append(images)
            sums = images.mul(255).round().long().flatten(1).sum(1)
            return Verdict(sums % 10, images.flatten(1).mean(1))

        return answer


def test_a_guard_cannot_tell_from_the_order_which_images_are_triggered() -> None:
    guard = Notes()
    outcome = play(deployment=guard)
    evaluation_set = tiny.evaluation_set()
    asked = (torch.cat(guard.asked) * 255).round().to(torch.uint8).flatten(1)
    triggered = {row.numpy().tobytes() for row in evaluation_set.triggered.flatten(1)}
    clean = {row.numpy().tobytes() for row in evaluation_set.test.pixels.flatten(1)}
    kinds = [row.numpy().tobytes() in triggered - clean for row in asked]
    # As long a run of one kind as a fair shuffle makes; in order it would be 80.
    longest = max(len(run) for run in "".join("t" if k else "c" for k in kinds).split("t"))
    assert longest < 40
    # Every answer and suspicion came back to its image.
    answers = outcome.answers[1]
    assert outcome.suspicion is not None
    for pixels, classes, suspicion in (
        (evaluation_set.test.pixels, answers.test, outcome.suspicion[0]),
        (evaluation_set.triggered, answers.triggered, outcome.suspicion[1]),
    ):
        assert (classes == (pixels.long().flatten(1).sum(1) % 10).numpy()).all()
        expected = (pixels / 255).flatten(1).mean(1).numpy()
        np.testing.assert_allclose(suspicion, expected, atol=1e-6)


@dataclass
class Answers(Deployment):
    """Suspects what the model is sure of, and answers in its own way."""

    name = "answers"
    way: str = "plain"

    def deploy(
        self, model: Classifier, trusted: TrustedData, rng: Generator
    ) -> Callable[[Tensor], Verdict]:
        classes, scores = torch.zeros(5000, dtype=torch.int64), torch.zeros(5000)

        def answer(images: Tensor) -> Verdict:
            sure = model(images).softmax(1)
            if self.way == "learning":
                with torch.enable_grad():
                    sure = sure * torch.ones(1, requires_grad=True)
            found = Verdict(sure.argmax(1), sure.amax(1))
            if self.way == "rounded":
                return Verdict(found.predictions, found.suspicion.bfloat16())
            if self.way != "buffered":
                return found
            classes[: len(images)], scores[: len(images)] = found.predictions, found.suspicion
            return Verdict(classes[: len(images)], scores[: len(images)])

        return answer


@pytest.mark.parametrize(
    ("way", "close"), [("buffered", 0.0), ("learning", 0.0), ("rounded", 0.01)]
)
def test_answers_count_however_a_guard_keeps_them(
    way: str, close: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.experiment(), "images_per_pass", 32)
    plain, other = play(deployment=Answers()), play(deployment=Answers(way))
    assert (plain.answers[-1].test == other.answers[-1].test).all()
    assert (plain.answers[-1].triggered == other.answers[-1].triggered).all()
    assert plain.suspicion is not None
    assert other.suspicion is not None
    for one, two in zip(plain.suspicion, other.suspicion, strict=True):
        np.testing.assert_allclose(one, two, atol=close, rtol=0)


def test_a_guard_is_asked_in_the_same_order_every_time() -> None:
    one, other = Notes(), Notes()
    play(deployment=one)
    play(deployment=other)
    assert torch.equal(torch.cat(one.asked), torch.cat(other.asked))


@pytest.mark.parametrize(("count", "share", "held_out"), [(10, 0.2, 2), (2, 0.2, 1), (3, 0.9, 2)])
def test_images_that_judge_are_trusted_ones_that_a_defense_does_not_get(
    count: int, share: float, held_out: int
) -> None:
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    trusted = TrustedData(pixels.contiguous(), torch.arange(count), pad=1, flip=True)
    learning, judging = trusted.split(share, Generator().manual_seed(1))
    assert (len(learning), len(judging)) == (count - held_out, held_out)
    assert sorted([*learning.labels.tolist(), *judging.labels.tolist()]) == list(range(count))
    assert (learning.pad, learning.flip) == (1, True)


def test_a_loss_is_counted_image_by_image() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    data = ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels)
    key = EvaluationSet(data, data, data.pixels, 0).labels

    def answers(*predicted: int) -> Any:
        found = np.array(predicted, np.int16)
        return robustness.Answers(found, found, found)

    base = answers(0, 1, 2, 0)
    point = Point.of(key, answers(1, 1, 0, 3), "repair", 50, base)
    # Images 0 and 2 are lost, image 3 is won.
    assert (point.held_out.hits, point.held_out.total, point.lost) == (2, 4, 2)


def test_targets_and_triggers_take_turns() -> None:
    experiment = tiny.experiment()
    assert [experiment.target(seed) for seed in (0, 1, 9, 10, 99)] == [0, 1, 9, 0, 9]
    assert experiment.attacker_view(13).target == 3


def test_a_repair_begins_with_the_sanitized_model_even_if_that_costs_too_much() -> None:
    worse = tiny.suspect().private_copy()
    with torch.no_grad():
        worse.head.weight.zero_()
    seen: list[float] = []
    play(
        repair=Changes(
            also=lambda model: seen.append(float(model.head.weight.detach().abs().sum()))
        ),
        sanitized=worse,
        seed_parts=("test",),
    )
    assert set(seen) == {0.0}
