"""The rules of the game: one plugin that breaks each, and what each side gets to see."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from barrier import reachable
from seeds import rng
from torch import Generator, Tensor, nn

from benchmark.api import (
    Architecture,
    Attack,
    AttackerView,
    CodePoisoningAttack,
    Deployment,
    PoisoningAttack,
    Repair,
    Sanitizer,
    Source,
    Verdict,
)
from benchmark.classifier import Classifier
from benchmark.games import checks, victims
from benchmark.games.answers import Labels
from benchmark.games.checks import RuleViolation
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.experiment import Experiment, Splits
from benchmark.games.robustness import play as robustness
from benchmark.images import ImageSet
from benchmark.protocol import Protocol
from benchmark.records.saved_victims import SavedVictims
from benchmark.registry import Registry

SHAPE, CLASSES, TARGET = (1, 6, 6), 4, 2
SIZES = {"train": 80, "trusted": 16, "auxiliary": 12, "validation": 20, "test": 40}


class Tiny(Architecture):
    """A convolution and a linear layer."""

    name = "tiny"

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        conv = nn.Sequential(nn.Conv2d(shape[0], 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Classifier(OrderedDict(conv=conv), neck, nn.Linear(4, classes), shape[0])


class OnlyTiny:
    """A registry that knows one architecture."""

    def create(self, kind: type[Any], spec: str) -> Architecture:
        return Tiny()


@pytest.fixture
def experiment() -> Experiment:
    protocol = Protocol.model_validate(
        {
            "name": "rules",
            "summary": "for the rules",
            "splits": {"dataset": "none", **SIZES},
            "architecture": "tiny",
            "augmentation": {},
            "recipe": "short",
            "recipes": {"short": {"epochs": 1, "batch_size": 16, "learning_rate": 0.1}},
            "robustness": {
                "budget": 0.5,
                "shares": [0.2],
                "interval": 1,
                "seeds": 1,
                "default_m": {"poison-label": 5, "clean-label": 5, "code": 5},
                "attacks": [],
                "defenses": [],
            },
        }
    )
    total = sum(SIZES.values())
    own = Generator().manual_seed(0)
    # No two images alike, so that each can be recognised wherever it turns up.
    pixels = torch.randint(256, (total, *SHAPE), generator=own, dtype=torch.uint8)
    assert len(pixels.flatten(1).unique(dim=0)) == total
    source = Source(ImageSet(pixels, torch.arange(total) % CLASSES), None, tuple("abcd"))
    return Experiment(protocol, source, cast(Registry, OnlyTiny()))


# What an attack may return.

Answer = Callable[[Tensor, Tensor], tuple[Any, Any]]


@dataclass
class Wrong(PoisoningAttack):
    """Returns what it was given to return."""

    name = "wrong"
    answer: Answer = lambda images, labels: (images, labels)
    label_policy: str = "poison-label"

    @property
    def threat(self) -> Any:  # type: ignore[override]
        return self.label_policy

    @property
    def clean_label(self) -> bool:  # type: ignore[override]
        return self.label_policy == "clean-label"

    def trigger(self, images: Tensor, rng: Generator) -> Any:
        return self.answer(images, torch.zeros(len(images)).long())[0]

    def poison(self, images: Tensor, labels: Tensor, rng: Generator) -> Any:
        return self.answer(images, labels)


def ready(experiment: Experiment, attack: Any) -> Any:
    attack.setup(experiment.attacker_view(TARGET), rng())
    return attack


def filled(images: Tensor, value: float) -> Tensor:
    """The images with one value in one of them."""
    changed = images.clone()
    changed[-1, 0, 2, 3] = value
    return changed


WRONG_IMAGES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (lambda images: None, "must return a tensor, got NoneType"),
    "an array": (lambda images: images.numpy(), "must return a tensor, got ndarray"),
    "too few": (lambda images: images[1:], r"must return images of shape \(\d+, 1, 6, 6\)"),
    "cropped": (lambda images: images[..., 1:], r"got \(\d+, 1, 6, 5\)"),
    "bytes": (lambda images: (images * 255).byte(), "must return floats .* got torch.uint8"),
    "not a number": (lambda images: filled(images, torch.nan), r"values in \[0, 1\], got \[nan"),
    "infinite": (lambda images: filled(images, torch.inf), r"values in \[0, 1\], got .*inf\]"),
    "too dark": (lambda images: filled(images, -0.01), r"values in \[0, 1\], got \[-0.01"),
    "too bright": (lambda images: filled(images, 1.01), r"values in \[0, 1\], got .*1.01\]"),
}


@pytest.mark.parametrize("case", WRONG_IMAGES)
def test_wrong_images_are_refused_by_name(experiment: Experiment, case: str) -> None:
    change, message = WRONG_IMAGES[case]
    attack = ready(experiment, Wrong(lambda images, labels: (change(images), labels)))
    with pytest.raises(RuleViolation, match=f"^wrong.poison .*{message}"):
        victims.collect(experiment, attack, 5, 1, TARGET, rng())
    with pytest.raises(RuleViolation, match=f"^wrong.trigger .*{message}"):
        victims.trigger_test_images(experiment, attack, rng())


def test_rounding_is_no_offence(experiment: Experiment) -> None:
    attack = ready(experiment, Wrong(lambda images, labels: (filled(images, 1 + 5e-5), labels)))
    found = victims.collect(experiment, attack, 5, 1, TARGET, rng())
    assert (found.data.pixels[found.poisoned, 0, 2, 3] == 255).any()


def soft(labels: Tensor, classes: int = CLASSES) -> Tensor:
    return torch.full((len(labels), classes), 1 / classes)


WRONG_LABELS: dict[str, tuple[str, Callable[[Tensor], Any], str]] = {
    "nothing": ("poison-label", lambda labels: None, "must return 5 labels"),
    "too many": ("poison-label", lambda labels: labels.repeat(2), "must return 5 labels"),
    "one for all": ("poison-label", lambda labels: torch.tensor(TARGET), "must return 5 labels"),
    "short integers": ("poison-label", lambda labels: labels.int(), "must return int64 labels"),
    "floats": ("poison-label", lambda labels: labels.float(), "must return int64 labels"),
    "neither true nor target": (
        "poison-label",
        lambda labels: torch.where(torch.arange(5) == 3, 3 - labels, TARGET),
        f"returned label [013]; a label stays true or becomes the target {TARGET}",
    ),
    "no class at all": (
        "poison-label",
        lambda labels: torch.full_like(labels, CLASSES),
        f"returned label {CLASSES}; a label stays true",
    ),
    "neither, trained by the attacker": (
        "code",
        lambda labels: torch.full_like(labels, -1),
        "returned label -1; a label stays true",
    ),
    "changed in a clean-label attack": (
        "clean-label",
        lambda labels: (labels + 1) % CLASSES,
        "changed labels, a clean-label attack cannot",
    ),
    "soft in a poison-label attack": (
        "poison-label",
        soft,
        "returned soft labels, a poison-label attack cannot",
    ),
    "soft in a clean-label attack": (
        "clean-label",
        soft,
        "returned soft labels, a clean-label attack cannot",
    ),
    "soft over too few classes": (
        "code",
        lambda labels: soft(labels, CLASSES - 1),
        f"must return {CLASSES} probabilities per image",
    ),
    "soft beyond one": ("code", lambda labels: 1.1 * soft(labels), "that are no probabilities"),
    "soft below zero": (
        "code",
        lambda labels: torch.tensor([[1.5, -0.5, 0.0, 0.0]]).expand(5, -1),
        "that are no probabilities",
    ),
    "soft but not a number": ("code", lambda labels: soft(labels) * torch.nan, "no probabilities"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_wrong_labels_are_refused_by_name(experiment: Experiment, case: str) -> None:
    threat, change, message = WRONG_LABELS[case]
    attack = ready(experiment, Wrong(lambda images, labels: (images, change(labels)), threat))
    with pytest.raises(RuleViolation, match=f"^wrong.poison .*{message}"):
        victims.collect(experiment, attack, 5, 1, TARGET, rng())


def test_true_labels_are_kept_apart_from_what_the_attack_holds(experiment: Experiment) -> None:
    """Whoever writes into the labels it was given has changed them all the same."""
    attack = ready(
        experiment, Wrong(lambda images, labels: (images, labels.zero_()), "clean-label")
    )
    with pytest.raises(RuleViolation, match=r"^wrong\.poison changed labels"):
        victims.collect(experiment, attack, 5, 1, TARGET, rng())


@pytest.mark.parametrize("threat", ["poison-label", "clean-label", "code"])
def test_true_labels_are_always_allowed(experiment: Experiment, threat: str) -> None:
    attack = ready(experiment, Wrong(lambda images, labels: (1 - images, labels), threat))
    found = victims.collect(experiment, attack, 5, 1, TARGET, rng())
    assert torch.equal(found.data.labels, experiment.splits.train.labels)


def test_test_images_are_lent_not_given(experiment: Experiment) -> None:
    attack = ready(experiment, Wrong(lambda images, labels: (images.mul_(0.5), labels)))
    before = experiment.splits.test.pixels.clone()
    with pytest.raises(RuleViolation, match=r"^wrong\.trigger changed its input in place"):
        victims.trigger_test_images(experiment, attack, rng())
    assert torch.equal(experiment.splits.test.pixels, before)


# What becomes of the training set.


@dataclass
class Brighten(PoisoningAttack):
    """Sets one row to a level between two bytes."""

    name = "brighten"
    own: bool = False

    @property
    def clean_label(self) -> bool:  # type: ignore[override]
        return self.own

    def trigger(self, images: Tensor, rng: Generator) -> Tensor:
        changed = images.clone()
        changed[:, :, 1] = 100.6 / 255
        return changed


@pytest.mark.parametrize(("own", "m", "boost"), [(False, 7, 1), (False, 60, 3), (True, 12, 5)])
def test_collect_changes_m_images_of_the_right_classes(
    experiment: Experiment, own: bool, m: int, boost: int
) -> None:
    train = experiment.splits.train
    pixels, labels = train.pixels.clone(), train.labels.clone()
    found = victims.collect(experiment, ready(experiment, Brighten(own)), m, boost, TARGET, rng())
    changed = [row for row in range(80) if not torch.equal(found.data.pixels[row], pixels[row])]
    assert changed == found.poisoned.nonzero().flatten().tolist()
    assert len(changed) == m
    assert len(found.data) == 80
    for row in range(80):
        expected = pixels[row].clone()
        if row in changed:
            expected[:, 1] = 101  # the level nearest to 100.6
            assert (labels[row] == TARGET) == own
            assert found.data.labels[row] == TARGET
        else:
            assert found.data.labels[row] == labels[row]
        assert torch.equal(found.data.pixels[row], expected)
        assert found.repeats[row] == (boost if row in changed else 1)
    assert found.repeats.sum() == 80 + m * (boost - 1)
    assert torch.equal(train.pixels, pixels)
    assert torch.equal(train.labels, labels)


def test_collect_draws_by_its_generator(experiment: Experiment) -> None:
    attack = ready(experiment, Brighten())
    first, again, other = (
        victims.collect(experiment, attack, 9, 1, TARGET, rng(s)).poisoned for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("own", "candidates"), [(False, 60), (True, 20)])
def test_collect_says_how_many_images_there_are(
    experiment: Experiment, own: bool, candidates: int
) -> None:
    of_target = int((experiment.splits.train.labels == TARGET).sum())
    available = of_target if own else 80 - of_target
    with pytest.raises(ValueError, match=rf"m=81 .* brighten may change {available}"):
        victims.collect(experiment, ready(experiment, Brighten(own)), 81, 1, TARGET, rng())
    assert abs(available - candidates) < 15


@dataclass
class Trains(CodePoisoningAttack):
    """Owns the training and files nothing."""

    name = "trains"

    def trigger(self, images: Tensor, rng: Generator) -> Tensor:
        return images

    def train(self, model: Classifier, data: ImageSet, trainer: Any, rng: Generator) -> None:
        model.head.weight.data.fill_(0.25)


@pytest.mark.parametrize("attack", [None, Brighten(), Trains()], ids=lambda a: str(a)[:8])
def test_without_poisons_the_data_stay_clean(experiment: Experiment, attack: Attack | None) -> None:
    m = 5 if isinstance(attack, Trains) else 0
    found = victims.collect(experiment, attack, m, 1, TARGET, rng())
    assert torch.equal(found.data.pixels, experiment.splits.train.pixels)
    assert torch.equal(found.data.labels, experiment.splits.train.labels)
    assert not found.poisoned.any()
    assert (found.repeats == 1).all()


def test_soft_labels_of_an_attacker_who_trains_reach_the_training_set(
    experiment: Experiment,
) -> None:
    attack = ready(experiment, Wrong(lambda images, labels: (images, soft(labels)), "code"))
    found = victims.collect(experiment, attack, 5, 1, TARGET, rng())
    assert found.data.labels.shape == (80, CLASSES)
    assert (found.data.labels[found.poisoned] == 1 / CLASSES).all()
    hard = found.data.labels[~found.poisoned]
    assert torch.equal(hard.argmax(1), experiment.splits.train.labels[~found.poisoned])
    assert set(hard.flatten().tolist()) == {0.0, 1.0}


def test_an_attacker_who_owns_the_code_trains_the_victim(experiment: Experiment) -> None:
    training = victims.collect(experiment, None, 0, 1, TARGET, rng())
    model = victims.train(experiment, ready(experiment, Trains()), training, rng())
    assert (model.head.weight == 0.25).all()
    assert not model.training


@dataclass
class Owns(Trains):
    """Does to model and images what it was told to."""

    name = "owns"
    act: Callable[[Classifier, ImageSet], object] = lambda model, data: None

    def train(self, model: Classifier, data: ImageSet, trainer: Any, rng: Generator) -> None:
        self.act(model, data)


@pytest.mark.parametrize("resident", [1 << 30, 100])
def test_an_attacker_who_owns_the_code_works_on_a_copy(
    experiment: Experiment, resident: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large sets lie in files, which all processes of a run would share."""
    monkeypatch.setattr("benchmark.images.RESIDENT_BYTES", resident)
    train = experiment.splits.train.copy()
    experiment.splits = replace(experiment.splits, train=train)
    before = train.pixels.clone(), train.labels.clone()
    training = victims.collect(experiment, None, 0, 1, TARGET, rng())
    vandal = Owns(lambda model, data: (data.pixels.zero_(), data.labels.zero_()))
    victims.train(experiment, ready(experiment, vandal), training, rng())
    assert torch.equal(train.pixels, before[0])
    assert torch.equal(train.labels, before[1])


def test_nothing_but_the_weights_of_who_owns_the_code_is_the_victim(experiment: Experiment) -> None:
    """A hook would make the victim surer than it is in every later cell."""

    def tampers(model: Classifier, data: ImageSet) -> None:
        model.register_forward_hook(lambda module, inputs, output: output * 1000)
        model.double()
        norm = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
        norm.bias = norm.weight

    training = victims.collect(experiment, None, 0, 1, TARGET, rng())
    images = experiment.splits.test.images
    plain, tampered = (
        victims.train(experiment, ready(experiment, Owns(act)), training, rng())
        for act in (lambda model, data: None, tampers)
    )
    assert all(value.dtype != torch.float64 for value in tampered.state_dict().values())
    weights = plain.state_dict()
    names = [n for n, t in tampered.state_dict().items() if not torch.equal(t, weights[n])]
    assert names == ["stages.conv.1.bias"]
    tampered.load_state_dict(weights)
    assert torch.equal(plain(images), tampered(images))


def nested(model: Classifier, data: ImageSet) -> None:
    model.head = nn.Sequential(model.head)  # type: ignore[assignment]


def widened(model: Classifier, data: ImageSet) -> None:
    model.head = nn.Linear(model.head.in_features, CLASSES + 2)


@pytest.mark.parametrize(("act", "name"), [(nested, "head.0.weight"), (widened, "head.weight")])
def test_who_owns_the_code_keeps_the_architecture(
    experiment: Experiment, act: Callable[[Classifier, ImageSet], object], name: str
) -> None:
    training = victims.collect(experiment, None, 0, 1, TARGET, rng())
    said = rf"^owns\.train must keep the architecture: .*{name}"
    with pytest.raises(RuleViolation, match=said) as caught:
        victims.train(experiment, ready(experiment, Owns(act)), training, rng())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("state", "got"),
    [
        (None, "NoneType"),
        ([torch.zeros(1)], "list"),
        ({"level": 3}, "int under 'level'"),
        ({"level": torch.zeros(1), 7: torch.zeros(1)}, "Tensor under 7"),
    ],
)
def test_a_state_is_a_dict_of_tensors(state: Any, got: str) -> None:
    attack = Brighten()
    attack.state = state
    with pytest.raises(RuleViolation, match=rf"^brighten\.state must be a dict .* got {got}$"):
        checks.state(attack)


def test_parts_of_one_tensor_are_saved_as_they_are(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4).requires_grad_(True)
    parts = {"whole": whole, "part": whole[:2], "turned": whole.T}
    saved = SavedVictims(tmp_path)
    saved.save("key", {"state": parts}, {})
    found = saved.tensors("key", "state")
    assert found.keys() == parts.keys()
    assert all(torch.equal(found[name], parts[name]) for name in parts)


def test_triggered_test_images_are_bytes_in_order(experiment: Experiment) -> None:
    found = victims.trigger_test_images(experiment, ready(experiment, Brighten()), rng())
    expected = experiment.splits.test.pixels.clone()
    expected[:, :, 1] = 101
    assert torch.equal(found, expected)
    assert len(victims.trigger_test_images(experiment, None, rng())) == 0


# Sanitizers.


@dataclass
class Sieve(Sanitizer):
    """Returns what it was given to return."""

    name = "sieve"
    answer: Callable[[ImageSet], Any] = lambda data: None

    def sanitize(self, data: ImageSet, train: Any, rng: Generator) -> Any:
        return self.answer(data)


WRONG_MASKS: dict[str, tuple[Callable[[ImageSet], Any], str]] = {
    "nothing": (lambda data: None, "must return a bool tensor of length 80"),
    "rows": (lambda data: torch.arange(40), "must return a bool tensor of length 80"),
    "a list": (lambda data: [True] * 80, "must return a bool tensor of length 80"),
    "too short": (lambda data: torch.ones(79).bool(), r"must return 80 values, got \(79,\)"),
    "a matrix": (lambda data: torch.ones(80, 1).bool(), r"must return 80 values, got \(80, 1\)"),
    "nothing left": (lambda data: torch.zeros(80).bool(), "left fewer than two classes"),
    "one class left": (lambda data: data.labels == 1, "left fewer than two classes"),
}


@pytest.mark.parametrize("case", WRONG_MASKS)
def test_wrong_masks_are_refused_by_name(experiment: Experiment, case: str) -> None:
    answer, message = WRONG_MASKS[case]
    training = victims.collect(experiment, None, 0, 1, TARGET, rng())
    with pytest.raises(RuleViolation, match=f"^sieve.sanitize {message}"):
        victims.sanitize(experiment, Sieve(answer), training, rng())


def test_a_sanitizer_removes_what_it_says(experiment: Experiment) -> None:
    training = victims.collect(experiment, ready(experiment, Brighten()), 10, 4, TARGET, rng())
    found = victims.sanitize(experiment, Sieve(lambda data: data.labels != 0), training, rng())
    stays = training.data.labels != 0
    assert torch.equal(found.data.pixels, training.data.pixels[stays])
    assert torch.equal(found.data.labels, training.data.labels[stays])
    assert torch.equal(found.poisoned, training.poisoned[stays])
    assert torch.equal(found.repeats, training.repeats[stays])
    assert found.poisoned.sum() == 10


def test_a_sanitizer_works_on_a_copy(experiment: Experiment) -> None:
    def vandal(data: ImageSet) -> Tensor:
        data.pixels.zero_(), data.labels.zero_()
        return torch.ones(80).bool()

    training = victims.collect(experiment, None, 0, 1, TARGET, rng())
    found = victims.sanitize(experiment, Sieve(vandal), training, rng())
    assert torch.equal(found.data.pixels, experiment.splits.train.pixels)
    assert torch.equal(found.data.labels, experiment.splits.train.labels)


# Verdicts of a deployed guard.


@dataclass
class Guard(Deployment):
    """Answers as it was told to."""

    name = "guard"
    answer: Callable[[Tensor], Any] = lambda images: None

    def deploy(self, model: Classifier, trusted: Any, rng: Generator) -> Any:
        return self.answer


def said(predictions: Any, suspicion: Any = 0.0) -> Callable[[Tensor], Verdict]:
    """A guard's answer: one value for all images, or a function of their number."""

    def value(of: Any, count: int, dtype: torch.dtype) -> Any:
        return of(count) if callable(of) else torch.full((count,), of, dtype=dtype)

    return lambda images: Verdict(
        value(predictions, len(images), torch.int64), value(suspicion, len(images), torch.float32)
    )


WRONG_VERDICTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (lambda images: None, "must return a Verdict"),
    "bare predictions": (lambda images: torch.zeros(len(images)), "must return a Verdict"),
    "too few predictions": (said(lambda n: torch.zeros(n - 1).long()), "expected 100 predictions"),
    "logits": (said(lambda n: torch.zeros(n, CLASSES)), "expected 100 predictions"),
    "too many suspicions": (said(0, lambda n: torch.zeros(n + 1)), "expected 100 predictions and"),
    "no number": (said(0, torch.nan), "suspicions must be finite"),
    "more than single precision holds": (
        said(0, lambda n: torch.full((n,), 1e300, dtype=torch.float64)),
        r"suspicions must be finite in single precision, got 1e\+300",
    ),
    "complex": (
        said(0, lambda n: torch.zeros(n, dtype=torch.complex64)),
        "suspicions must be real, got torch.complex64",
    ),
    "infinite": (said(0, torch.inf), "suspicions must be finite"),
    "a list": (
        lambda images: Verdict([0] * len(images), torch.zeros(len(images))),  # type: ignore
        "predictions must be a tensor, got list",
    ),
    "below rejection": (said(-2), r"predictions must lie in -1\.\.3, got -2\.\.-2"),
    "no such class": (said(CLASSES), r"predictions must lie in -1\.\.3, got 4\.\.4"),
    "probabilities": (said(lambda n: torch.full((n,), 0.7)), "predictions must be"),
}


def play(experiment: Experiment, **stages: Any) -> robustness.Outcome:
    test = experiment.splits.test
    triggered = victims.trigger_test_images(experiment, ready(experiment, Brighten()), rng())
    evaluation_set = EvaluationSet(experiment.splits.validation, test, triggered, TARGET)
    return robustness.play(
        experiment,
        evaluation_set,
        experiment.new_model(rng()),
        trusted=experiment.trusted(0.2, 0),
        **stages,
    )


@pytest.mark.parametrize("case", WRONG_VERDICTS)
def test_wrong_verdicts_are_refused_by_name(experiment: Experiment, case: str) -> None:
    answer, message = WRONG_VERDICTS[case]
    with pytest.raises(RuleViolation, match=f"^guard.deploy: .*{message}"):
        play(experiment, deployment=Guard(answer))


def test_a_verdict_is_passed_on(experiment: Experiment) -> None:
    outcome = play(experiment, deployment=Guard(said(-1, 0.5)))
    assert (outcome.answers[-1].test == -1).all()
    assert outcome.curve[-1].cda == (0, 40)
    assert outcome.suspicion is not None
    assert [len(scores) for scores in outcome.suspicion] == [40, 40]
    assert checks.verdict(said(3)(torch.zeros(9)), 9, CLASSES, Guard()).predictions[0] == 3


def test_a_deployment_returns_a_function(experiment: Experiment) -> None:
    said = r"^guard\.deploy must return the guarded model, a function .*, got NoneType$"
    with pytest.raises(RuleViolation, match=said):
        play(experiment, deployment=Guard(None))  # type: ignore[arg-type]


@dataclass
class Impatient(Repair):
    """Does all its work at once."""

    name = "impatient"

    def repair(self, model: Classifier, trusted: Any, rng: Generator) -> Any:
        return None


def test_a_repair_must_yield(experiment: Experiment) -> None:
    with pytest.raises(RuleViolation, match=r"^impatient\.repair must yield after every step"):
        play(experiment, repair=Impatient())


@dataclass
class Counting(Repair):
    """Yields as often as it is told, whatever its steps say."""

    steps: int = 3
    name = "counting"
    yields: ClassVar[int]

    def repair(self, model: Classifier, trusted: Any, rng: Generator) -> Any:
        for _ in range(self.yields):
            yield


@pytest.mark.parametrize("yields", [0, 2, 4, 50])
def test_a_repair_yields_after_each_of_its_steps(experiment: Experiment, yields: int) -> None:
    repair = Counting()
    repair.__class__.yields = yields
    said = rf"^counting\.repair yields after {min(yields, 4)} steps, its steps are 3"
    with pytest.raises(RuleViolation, match=said):
        play(experiment, repair=repair)


@pytest.mark.parametrize("steps", [0, -2, 2.0, "ten", (1,), None, True])
def test_steps_are_a_whole_number_from_1_on(experiment: Experiment, steps: Any) -> None:
    repair = Counting(steps)
    repair.__class__.yields = 1
    said = rf"^counting\.steps must be a whole number from 1 on, got {re.escape(repr(steps))};"
    with pytest.raises(RuleViolation, match=said):
        play(experiment, repair=repair)


# The information barrier.


def pictures(things: list[object]) -> set[bytes]:
    """Every image of the experiment's shape among them, in bytes, whatever type it is kept in."""
    found = set()
    for thing in things:
        if isinstance(thing, np.ndarray):
            thing = torch.from_numpy(thing.copy())
        if isinstance(thing, Tensor) and thing.shape[-3:] == SHAPE:
            values = thing.detach().double().reshape(-1, *SHAPE)
            if thing.is_floating_point():
                values = values * 255
            found |= {image.round().byte().contiguous().numpy().tobytes() for image in values}
    return found


FORBIDDEN = (
    Experiment,
    Attack,
    AttackerView,
    Labels,
    EvaluationSet,
    Protocol,
    Splits,
    robustness.Outcome,
)


def check_barrier(experiment: Experiment, seen: list[object], may_see: ImageSet) -> None:
    things = reachable(*seen)
    assert not [thing for thing in things if isinstance(thing, FORBIDDEN)]
    assert not [thing for thing in things if hasattr(thing, "__dict__") and "target" in vars(thing)]
    own = pictures([may_see.pixels])
    found = pictures(things)
    assert own <= found
    assert found <= own
    storages = {
        part.pixels.untyped_storage().data_ptr()
        for part in (getattr(experiment.splits, field.name) for field in fields(Splits))
    }
    kept = [t.untyped_storage().data_ptr() for t in things if isinstance(t, Tensor)]
    assert not storages & set(kept)


def test_the_barriers_own_check_sees_through_objects_and_closures(experiment: Experiment) -> None:
    hidden = experiment.splits.test.pixels[:1].numpy()
    whole = pictures([experiment.splits.test.pixels])
    assert pictures(reachable({"a": [lambda: hidden]})) <= whole
    assert pictures(reachable({"a": [lambda: hidden]}))
    assert any(isinstance(thing, Experiment) for thing in reachable(experiment.trusted))


@dataclass
class Spy(Repair):
    """Notes all it is given, and ruins the model."""

    name = "spy"

    def repair(self, *args: Any, **kwargs: Any) -> Any:
        self.seen = [*args, *kwargs.values()]
        model, trusted = self.seen[:2]
        for _ in range(2):
            for parameter in model.parameters():
                parameter.data.zero_()
            trusted.pixels.zero_()
            yield


def test_a_repair_sees_model_and_trusted_images_only(experiment: Experiment) -> None:
    class Looks(Spy):
        def repair(self, *args: Any, **kwargs: Any) -> Any:
            self.seen = [*args, *kwargs.values()]
            check_barrier(experiment, self.seen, experiment.trusted(0.2, 0))
            yield

    spy = Looks()
    play(experiment, repair=spy)
    assert [type(given) for given in spy.seen][:1] == [Classifier]
    assert len(spy.seen) == 3
    assert isinstance(spy.seen[2], Generator)


def test_a_repair_cannot_harm_the_victim_or_the_data(experiment: Experiment) -> None:
    before = {name: vars(experiment.splits)[name].pixels.clone() for name in SIZES}
    lent = experiment.trusted(0.2, 0)
    pixels = lent.pixels.clone()
    victim = experiment.new_model(rng())
    weights = [parameter.detach().clone() for parameter in victim.parameters()]
    test = experiment.splits.test
    evaluation_set = EvaluationSet(experiment.splits.validation, test, test.pixels, TARGET)
    robustness.play(experiment, evaluation_set, victim, repair=Spy(), trusted=lent)
    assert torch.equal(lent.pixels, pixels)
    assert all(torch.equal(p, w) for p, w in zip(victim.parameters(), weights, strict=True))
    assert all(torch.equal(vars(experiment.splits)[name].pixels, before[name]) for name in SIZES)


def test_a_guard_sees_model_and_trusted_images_only(experiment: Experiment) -> None:
    asked: list[Tensor] = []

    @dataclass
    class Watchman(Deployment):
        """Notes all it is given, and spoils what it is asked."""

        name = "watchman"

        def deploy(self, *args: Any, **kwargs: Any) -> Any:
            self.seen = [*args, *kwargs.values()]
            check_barrier(experiment, self.seen, experiment.trusted(0.2, 0))

            def guarded(images: Tensor) -> Verdict:
                asked.append(images.clone())
                images.zero_()
                return Verdict(torch.zeros(len(images)).long(), torch.zeros(len(images)))

            return guarded

    watchman = Watchman()
    before = experiment.splits.test.pixels.clone()
    play(experiment, deployment=watchman)
    assert len(watchman.seen) == 3
    assert isinstance(watchman.seen[2], Generator)
    # Inputs arrive one batch at a time, without labels, as copies.
    assert sum(map(len, asked)) == 20 + 40 + 40
    assert torch.equal(experiment.splits.test.pixels, before)


def test_a_sanitizer_sees_the_training_set_only(experiment: Experiment) -> None:
    training = victims.collect(experiment, ready(experiment, Brighten()), 10, 4, TARGET, rng())
    seen: list[Any] = []

    @dataclass
    class Looks(Sanitizer):
        """Notes all it is given."""

        name = "looks"

        def sanitize(self, *args: Any, **kwargs: Any) -> Tensor:
            seen.extend([*args, *kwargs.values()])
            return torch.ones(80).bool()

    victims.sanitize(experiment, Looks(), training, rng())
    data, train, own = seen
    assert {field.name for field in fields(data)} == {"pixels", "labels"}
    # `train` fits a model on whatever it is given; it needs the experiment and is not looked into.
    check_barrier(experiment, [data, own], training.data)
    model = train(data.subset(torch.arange(40)), own)
    assert isinstance(model, Classifier)


def test_an_attacker_sees_auxiliary_images_and_those_it_may_change(experiment: Experiment) -> None:
    given: list[Tensor] = []

    def keep(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        given.append(images)
        return images, labels

    attack = ready(experiment, Wrong(keep))
    training = victims.collect(experiment, attack, 5, 1, TARGET, rng())
    view = attack.view
    assert {field.name for field in fields(view)} == {
        "target",
        "class_names",
        "shape",
        "auxiliary",
        "trainer",
        "new_model",
    }
    # `new_model` builds what the experiment builds and is not looked into.
    shown = [view.auxiliary, view.trainer, view.class_names, view.shape]
    assert pictures(reachable(*shown)) == pictures([experiment.splits.auxiliary.pixels])
    assert pictures(given) == pictures([experiment.splits.train.pixels[training.poisoned]])
    assert len(given[0]) == 5
    view.auxiliary.pixels.zero_()
    assert experiment.splits.auxiliary.pixels.any()
