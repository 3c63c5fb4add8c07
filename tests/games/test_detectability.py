"""The detectability game: what a detector gets, what it may return, and what is measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from barrier import bytes_of, reachable
from torch import Generator, Tensor

from benchmark.api import Detection, Detector, Source
from benchmark.classifier import Classifier
from benchmark.data.named import Digits
from benchmark.games import checks
from benchmark.games.answers import Labels
from benchmark.games.checks import RuleViolation
from benchmark.games.detectability.play import Scan, examine
from benchmark.games.detectability.score import score
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.experiment import Experiment, Splits
from benchmark.images import TrustedData
from benchmark.metrics import Rate
from benchmark.protocol import Protocol
from benchmark.registry import Registry
from benchmark.triggers import Additive, Patch

TARGET, REPEATS, SHARE, CLASSES = 3, 3, 0.1, 10
SIZES = {"train": 400, "trusted": 60, "auxiliary": 10, "validation": 20, "test": 130}


@pytest.fixture(scope="module")
def source() -> Source:
    return Digits().decode(())


@pytest.fixture(scope="module")
def experiment(source: Source, registry: Registry) -> Experiment:
    recipe = {"epochs": 3, "batch_size": 50, "learning_rate": 0.1, "precision": "float32"}
    protocol = Protocol.model_validate(
        {
            "name": "examined",
            "summary": "for the detectability game",
            "splits": {"dataset": "digits", **SIZES},
            "architecture": "resnet-small:width=16",
            "augmentation": {"pad": 1},
            "recipe": "short",
            "recipes": {"short": recipe},
            "robustness": {
                "budget": 0.5,
                "shares": [0.1],
                "interval": 1,
                "seeds": 1,
                "default_m": {"poison-label": 5, "clean-label": 5, "code": 5},
                "attacks": [],
                "defenses": [],
            },
            "detectability": {
                "models": 2,
                "repeats": REPEATS,
                "share": SHARE,
                "attacks": [],
                "detectors": [],
            },
        }
    )
    return Experiment(protocol, source, registry)


@pytest.fixture(scope="module")
def suspect(experiment: Experiment) -> Classifier:
    """Hardly trained, so that it gives many answers."""
    torch.set_num_threads(1)
    model = experiment.new_model(experiment.rng("model"))
    experiment.trainer().fit(model, experiment.splits.train, experiment.rng("training"))
    return model


def stamped(pixels: Tensor) -> Tensor:
    """A bright square, the digit shining through, in a corner that digits often leave black."""
    changed = pixels.clone()
    changed[:, :, 12:, 1:5] = changed[:, :, 12:, 1:5] // 2 + 128
    return changed


@pytest.fixture(scope="module")
def evaluation_set(experiment: Experiment) -> EvaluationSet:
    test = experiment.splits.test
    return EvaluationSet(experiment.splits.validation, test, stamped(test.pixels), TARGET)


@pytest.fixture(scope="module")
def clean_exam(experiment: Experiment) -> EvaluationSet:
    test = experiment.splits.test
    return EvaluationSet(experiment.splits.validation, test, test.pixels[:0], TARGET)


def scores(*values: float) -> Tensor:
    return torch.tensor(values or (0.0,) * CLASSES)


def verdict(**changes: Any) -> Detection:
    return Detection(**{"score": 0.5, "class_scores": scores()} | changes)


@dataclass
class Says(Detector):
    """Returns what it was given to return."""

    name = "says"
    answer: Callable[[], Any] = verdict

    def detect(self, model: Any, trusted: Any, rng: Any) -> Any:
        return self.answer()


@dataclass
class Spy(Detector):
    """Notes all it is given and drawn, and ruins what it can."""

    name = "spy"
    ruins: bool = False
    given: list[tuple[Any, ...]] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)

    def detect(self, *args: Any, **kwargs: Any) -> Detection:
        self.given.append((*args, *kwargs.values()))
        model, trusted, own = self.given[-1]
        self.seen.append(
            {
                "weights": {name: value.clone() for name, value in model.state_dict().items()},
                "pixels": trusted.pixels.clone(),
                "labels": trusted.labels.clone(),
                "state": own.get_state(),
                "global": torch.random.get_rng_state(),
            }
        )
        if self.ruins:
            with torch.no_grad():
                for value in model.state_dict().values():
                    value.zero_()
            model.train().requires_grad_(False)
            trusted.pixels.zero_(), trusted.labels.fill_(7)
            torch.rand(9, generator=own), torch.rand(9)
        return verdict()


def play(
    experiment: Experiment,
    evaluation_set: EvaluationSet,
    suspect: Classifier,
    detector: Detector,
    **changes: Any,
) -> list[Scan]:
    return examine(
        experiment, evaluation_set, suspect, detector, **{"share": SHARE, "seed": 0} | changes
    )


def weights(model: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


# What a detector is handed.


def test_a_detector_gets_a_copy_of_the_model_trusted_images_and_a_generator(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    spy = Spy()
    suspect.requires_grad_(False)
    play(experiment, evaluation_set, suspect, spy)
    suspect.requires_grad_(True)
    assert len(spy.given) == REPEATS
    lent = {value.data_ptr() for value in suspect.state_dict().values()}
    for given, seen in zip(spy.given, spy.seen, strict=True):
        model, trusted, own = given
        assert [type(thing) for thing in given] == [Classifier, TrustedData, Generator]
        assert same(seen["weights"], weights(suspect))
        assert not lent & {value.data_ptr() for value in model.state_dict().values()}
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        assert {part.name for part in fields(trusted)} == {"pixels", "labels", "pad", "flip"}
        assert (len(trusted), trusted.pad, trusted.flip) == (40, 1, False)
        assert own.device == experiment.device


def test_nothing_else_can_be_reached_from_it(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    """No experiment, target, or image beyond the trusted ones, which are bytes of its own."""
    spy = Spy()
    play(experiment, evaluation_set, suspect, spy)
    split = experiment.splits.trusted
    labels = dict(zip(bytes_of(split.pixels), split.labels.tolist(), strict=True))
    storages = {
        getattr(experiment.splits, part.name).pixels.untyped_storage().data_ptr()
        for part in fields(Splits)
    }
    assert any(isinstance(thing, EvaluationSet) for thing in reachable([evaluation_set]))
    for given in spy.given:
        things = reachable(*given)
        assert not [
            t
            for t in things
            if isinstance(t, Experiment | EvaluationSet | Labels | Splits | Protocol)
        ]
        assert not [t for t in things if hasattr(t, "__dict__") and "target" in vars(t)]
        shaped = [t for t in things if isinstance(t, Tensor) and t.shape[-2:] == (16, 16)]
        assert [t is given[1].pixels for t in shaped] == [True]
        kept = {t.untyped_storage().data_ptr() for t in things if isinstance(t, Tensor)}
        assert not kept & storages
        of_split = [labels[picture] for picture in bytes_of(given[1].pixels)]
        assert of_split == given[1].labels.tolist()


def test_a_ruinous_detector_harms_neither_the_suspect_nor_the_next_repeat(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    before, modes = weights(suspect), [module.training for module in suspect.modules()]
    data = {
        part.name: getattr(experiment.splits, part.name).pixels.clone() for part in fields(Splits)
    }
    labels = experiment.splits.trusted.labels.clone()
    quiet, ruinous = Spy(), Spy(ruins=True)
    for spy in (quiet, ruinous):
        play(experiment, evaluation_set, suspect, spy)
    assert not any(value.any() for value in ruinous.given[0][0].state_dict().values())
    assert same(weights(suspect), before)
    assert [module.training for module in suspect.modules()] == modes
    assert all(parameter.requires_grad for parameter in suspect.parameters())
    for name, pixels in data.items():
        assert torch.equal(getattr(experiment.splits, name).pixels, pixels)
    assert torch.equal(experiment.splits.trusted.labels, labels)
    for one, other in zip(quiet.seen, ruinous.seen, strict=True):
        assert same(one["weights"], other["weights"])
        assert all(torch.equal(one[part], other[part]) for part in one if part != "weights")


DRAWN = ("pixels", "labels", "state", "global")


def test_clean_and_poisoned_models_of_a_seed_are_met_alike(
    experiment: Experiment,
    evaluation_set: EvaluationSet,
    clean_exam: EvaluationSet,
    suspect: Classifier,
) -> None:
    """The same images and randomness, so that nothing but the model tells them apart."""
    other = experiment.new_model(experiment.rng("clean"))
    poisoned, clean = Spy(), Spy()
    play(experiment, evaluation_set, suspect, poisoned)
    torch.rand(5)
    play(experiment, clean_exam, other, clean)
    for one, two in zip(poisoned.seen, clean.seen, strict=True):
        assert all(torch.equal(one[part], two[part]) for part in DRAWN)
        assert not same(one["weights"], two["weights"])


def test_repeats_seeds_and_detectors_differ(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    """Repeats and seeds in images and randomness; detectors in their randomness only."""

    class Other(Spy):
        """A spy by another name."""

        name = "other"

    first, second, other = Spy(), Spy(), Other()
    play(experiment, evaluation_set, suspect, first)
    play(experiment, evaluation_set, suspect, second, seed=1)
    play(experiment, evaluation_set, suspect, other)
    seen = [*first.seen, *second.seen]
    for part in ("pixels", "state", "global"):
        assert len({bytes(one[part].numpy().tobytes()) for one in seen}) == 2 * REPEATS
    for one, two in zip(first.seen, other.seen, strict=True):
        assert torch.equal(one["pixels"], two["pixels"])
        assert not torch.equal(one["state"], two["state"])
        assert not torch.equal(one["global"], two["global"])


def test_a_smaller_share_is_part_of_a_larger_one(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    small, large = Spy(), Spy()
    play(experiment, evaluation_set, suspect, small, share=0.05)
    play(experiment, evaluation_set, suspect, large)
    for one, two in zip(small.seen, large.seen, strict=True):
        assert len(one["pixels"]) == 20
        assert set(bytes_of(one["pixels"])) < set(bytes_of(two["pixels"]))


def test_every_repeat_is_reported(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    given = [verdict(score=float(number)) for number in range(REPEATS)]
    returned, progress = iter(given), []
    scans = play(
        experiment,
        evaluation_set,
        suspect,
        Says(lambda: next(returned)),
        progress=lambda done, total: progress.append((done, total)),
    )
    assert [scan.detection.score for scan in scans] == [one.score for one in given]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert all(scan.seconds >= 0 for scan in scans)
    assert [scan.reversed_answers for scan in scans] == [None] * REPEATS


@dataclass
class Buffered(Detector):
    """Writes each answer over the last one."""

    name = "buffered"

    def __post_init__(self) -> None:
        self.scores, self.also, self.count = torch.zeros(CLASSES), {"reading": 0.0}, 0
        self.trigger = Additive(torch.zeros(CLASSES, *SHAPE))

    def detect(self, model: Any, trusted: Any, rng: Any) -> Detection:
        self.count += 1
        self.also["reading"] = float(self.count)
        self.trigger.variables[0].fill_(self.count / 10)
        self.scores.fill_(self.count)
        return Detection(self.scores[0], self.scores, None, self.trigger, self.also)  # type: ignore


def test_repeats_count_though_a_detector_uses_its_buffers_again(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    found = [s.detection for s in play(experiment, evaluation_set, suspect, Buffered())]
    assert [one.score for one in found] == [1, 2, 3]
    assert [one.class_scores.tolist() for one in found] == [[n] * CLASSES for n in (1, 2, 3)]
    assert [dict(one.also) for one in found] == [{"reading": n} for n in (1, 2, 3)]
    norms = [one.trigger.norms[0].item() for one in found if one.trigger is not None]
    assert norms == pytest.approx([25.6, 51.2, 76.8])


def test_all_repeats_have_the_same_readings(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    returned = iter([{"a": 1.0, "b": 2.0}, {"b": 1.0, "a": 2.0}, {"b": 1.0}])
    with pytest.raises(RuleViolation) as caught:
        play(experiment, evaluation_set, suspect, Says(lambda: verdict(also=next(returned))))
    assert str(caught.value) == (
        "says.detect must return the same readings in every repeat and for every model, got 'b' "
        "after 'a', 'b'"
    )


def test_a_clean_model_has_no_reversed_success(
    experiment: Experiment,
    evaluation_set: EvaluationSet,
    clean_exam: EvaluationSet,
    suspect: Classifier,
) -> None:
    """Without a true trigger, there is no target to reverse one for."""
    detector = Says(lambda: verdict(trigger=Additive(torch.zeros(CLASSES, 1, 16, 16))))
    for which, expected in ((clean_exam, False), (evaluation_set, True)):
        scans = play(experiment, which, suspect, detector)
        assert [scan.reversed_answers is not None for scan in scans] == [expected] * REPEATS


# What a detector may return.

SHAPE = (1, 16, 16)


def additive(*shape: int) -> Additive:
    return Additive(torch.zeros(shape))


class OneNorm(Additive):
    @property
    def norms(self) -> Tensor:
        return super().norms.sum()


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "must return a Detection, got NoneType"),
    "a bare score": (lambda: 0.7, "must return a Detection, got float"),
    "a pair": (lambda: (0.7, scores()), "must return a Detection, got tuple"),
    "too few class scores": (
        lambda: verdict(class_scores=scores(*range(9))),
        r"must return 10 class scores, got \(9,\)",
    ),
    "too many class scores": (
        lambda: verdict(class_scores=scores(*range(11))),
        r"must return 10 class scores, got \(11,\)",
    ),
    "a row of class scores": (
        lambda: verdict(class_scores=scores()[None]),
        r"must return 10 class scores, got \(1, 10\)",
    ),
    "no number": (lambda: verdict(score=math.nan), "must return finite scores, got nan"),
    "an infinite score": (lambda: verdict(score=math.inf), "must return finite scores, got inf"),
    "more than single precision holds": (
        lambda: verdict(score=1e39),
        r"must return finite scores, got 1e\+39",
    ),
    "a score that is missing": (
        lambda: verdict(score=None),
        "must return numbers as scores, got NoneType",
    ),
    "readings in a list": (
        lambda: verdict(also=[1.0]),
        "must return its readings as a dict, got list",
    ),
    "a decision that is a number": (
        lambda: verdict(flagged=2),
        "must return True, False or None as flagged, got 2",
    ),
    "no number for a class": (
        lambda: verdict(class_scores=scores(*[0.0] * 9, math.nan)),
        "must return finite scores, got nan",
    ),
    "minus infinity for a class": (
        lambda: verdict(class_scores=scores(-math.inf, *[0.0] * 9)),
        "must return finite scores, got -inf",
    ),
    "no number beside the score": (
        lambda: verdict(also={"index": 1.0, "other": math.nan}),
        "must return finite scores, got nan",
    ),
    "a trigger for too few classes": (
        lambda: verdict(trigger=additive(9, *SHAPE)),
        r"must return a trigger for each of 10 classes, got images of shape \(9, 1, 1, 16, 16\)",
    ),
    "a trigger for too many classes": (
        lambda: verdict(trigger=additive(11, *SHAPE)),
        r"must return a trigger for each of 10 classes, .* \(11, 1, 1, 16, 16\)",
    ),
    "a trigger of too many channels": (
        lambda: verdict(trigger=additive(10, 3, 16, 16)),
        r"must return a trigger for each of 10 classes, .* \(10, 1, 3, 16, 16\)",
    ),
    "a trigger that is a word": (
        lambda: verdict(trigger="no"),
        "must return a Trigger or None as trigger, got str",
    ),
    "a mask that is no number": (
        lambda: verdict(
            trigger=Patch(torch.full((10, 1, 16, 16), math.nan), torch.rand(10, *SHAPE))
        ),
        r"must return triggers of finite values .* each of 10 classes, got norms \[nan, .*",
    ),
    "a pattern that is no number where nothing is masked": (
        lambda: verdict(
            trigger=Patch(torch.zeros(10, 1, 16, 16), torch.full((10, *SHAPE), math.nan))
        ),
        r"must return triggers of finite values .*",
    ),
    "an infinite sum": (
        lambda: verdict(trigger=Additive(torch.full((10, *SHAPE), math.inf))),
        r"must return triggers of finite values .* got norms \[inf, .*",
    ),
    "one norm for all": (
        lambda: verdict(trigger=OneNorm(torch.zeros(10, *SHAPE))),
        r"must return triggers of finite values .* got norms 0\.0",
    ),
    "a complex score": (
        lambda: verdict(score=torch.tensor(1j)),
        "must return numbers as scores, got complex",
    ),
    "a whole number beyond all": (
        lambda: verdict(score=10**400),
        "must return finite scores, got inf",
    ),
    "one trigger": (
        lambda: verdict(trigger=additive(1, *SHAPE)),
        r"must return a trigger for each of 10 classes, .* \(1, 1, 1, 16, 16\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_detections_are_refused_by_name(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier, case: str
) -> None:
    answer, message = WRONG[case]
    with pytest.raises(RuleViolation, match=rf"^says\.detect {message}$"):
        play(experiment, evaluation_set, suspect, Says(answer))
    with pytest.raises(RuleViolation, match=rf"^says\.detect {message}$"):
        checks.detection(answer(), SHAPE, CLASSES, Says())


def test_a_right_detection_is_passed_on() -> None:
    for right in (
        verdict(),
        verdict(score=-3.0, flagged=True, also={"index": 2.5}),
        verdict(class_scores=torch.randn(CLASSES), trigger=additive(10, *SHAPE)),
        verdict(trigger=Patch(torch.rand(10, 1, 16, 16), torch.rand(10, 1, 16, 16))),
    ):
        found = checks.detection(right, SHAPE, CLASSES, Says())
        assert (found.score, found.flagged, found.also) == (right.score, right.flagged, right.also)
        assert torch.equal(found.class_scores, right.class_scores)
        if right.trigger is not None:
            assert found.trigger is not None
            assert type(found.trigger) is type(right.trigger)
            pictures = right.trigger.pictures
            assert all(torch.equal(p, pictures[n]) for n, p in found.trigger.pictures.items())


def test_numbers_count_whatever_a_detector_keeps_them_in() -> None:
    learning = torch.arange(CLASSES, dtype=torch.bfloat16).requires_grad_(True)
    given = Detection(
        learning.max(),  # type: ignore[arg-type]
        learning,
        np.bool_(True),  # type: ignore[arg-type]
        also={"reading": torch.tensor([2.5])},  # type: ignore[dict-item]
    )
    found = checks.detection(given, SHAPE, CLASSES, Says())
    assert (found.score, found.flagged, found.also) == (9.0, True, {"reading": 2.5})
    assert [type(n) for n in (found.score, found.flagged, found.also["reading"])] == [
        float, bool, float,
    ]  # fmt: skip
    assert found.class_scores.dtype == torch.float32
    assert not found.class_scores.requires_grad
    assert found.class_scores.tolist() == list(range(CLASSES))


# The reversed trigger, measured.


def random_patch(seed: int = 0, size: float = 0.6) -> Patch:
    own = Generator().manual_seed(seed)
    mask = (torch.rand(CLASSES, 1, 16, 16, generator=own) < size) * 0.9
    return Patch(mask, torch.rand(CLASSES, 1, 16, 16, generator=own))


def test_answers_are_the_suspects_under_the_whole_and_the_restricted_trigger(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    """ReASR of LSP: x' = (1 - m_gt m') x + m_gt m' D', pixel by pixel, for the true target."""
    trigger = random_patch()
    # The largest class score is another class's; the true target's trigger counts all the same.
    guess = verdict(trigger=trigger, class_scores=scores(*range(CLASSES)))
    found = play(experiment, evaluation_set, suspect, Says(lambda: guess))[0].reversed_answers
    assert found is not None
    assert found.shape == (2, 130)
    assert found.dtype == np.int16

    x = evaluation_set.test.pixels.numpy().astype(np.float64) / 255
    true = (evaluation_set.triggered != evaluation_set.test.pixels).numpy().any(axis=1)
    mask, pattern = trigger.mask[TARGET, 0].tolist(), trigger.pattern[TARGET, 0].tolist()
    whole, restricted = x.copy(), x.copy()
    for image in range(130):
        for row in range(16):
            for column in range(16):
                old = x[image, 0, row, column]
                for changed, m_gt in ((whole, 1.0), (restricted, float(true[image, row, column]))):
                    m = m_gt * mask[row][column]
                    changed[image, 0, row, column] = (1 - m) * old + m * pattern[row][column]
    with torch.no_grad():
        plain = suspect(evaluation_set.test.images).argmax(1).numpy()
        for row, changed in zip(found, (whole, restricted), strict=True):
            logits = suspect(torch.from_numpy(changed).float())
            first, second = logits.sort(1, descending=True).values[:, :2].T
            # Where two classes are level, rounding decides.
            clear = (first - second > 1e-4).numpy()
            assert clear.sum() > 120
            assert (row == logits.argmax(1).numpy())[clear].all()
    # All three differ, so that none was mistaken for another.
    for one, other in ((found[0], found[1]), (found[0], plain), (found[1], plain)):
        assert (one != other).any()


def test_a_restricted_trigger_that_touches_nothing_true_changes_no_answer(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    """And one that is kept to the true mask anyway is the same whole and restricted."""
    with torch.no_grad():
        plain = suspect(evaluation_set.test.images).argmax(1).tolist()
    inside = torch.zeros(CLASSES, 1, 16, 16)
    inside[:, :, 12:, 1:5] = 1
    for mask, beside in ((1 - inside, True), (inside, False)):
        # Squashing leaves a mask of zero at half a millionth.
        trigger = Patch(mask, torch.ones(CLASSES, 1, 16, 16))
        detector = Says(lambda trigger=trigger: verdict(trigger=trigger))  # type: ignore[misc]
        found = play(experiment, evaluation_set, suspect, detector)[0].reversed_answers
        assert found is not None
        whole, restricted = found.tolist()
        if beside:
            assert restricted == plain
            assert whole != plain
        else:
            assert restricted == whole


def test_measuring_takes_nothing_from_the_suspect(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    suspect.zero_grad(set_to_none=True)
    before, twin = weights(suspect), copy.deepcopy(suspect)
    play(experiment, evaluation_set, suspect, Says(lambda: verdict(trigger=random_patch())))
    assert same(before, weights(suspect))
    # It still learns: no inference tensor was left in it.
    suspect(evaluation_set.test.images[:4]).sum().backward()
    twin(evaluation_set.test.images[:4]).sum().backward()
    assert torch.equal(suspect.head.weight.grad, twin.head.weight.grad)
    suspect.zero_grad(set_to_none=True)


def reversed_success(
    labels: np.ndarray, answers: np.ndarray, target: int
) -> tuple[Rate | None, Rate | None]:
    """Success and ReASR of one examination whose suspect gave these answers."""
    evidence = {
        "labels_test": labels,
        "target": np.array(target),
        "scores": np.zeros(1),
        "class_scores": np.zeros((1, 4)),
        "flagged": np.array([-1]),
        "reversed_answers": answers[None],
    }
    (found,) = score(evidence, [0.0])["scans"]
    return found.success, found.reasr


@pytest.mark.parametrize("seed", range(5))
def test_reversed_success_counts_images_of_other_classes(seed: int) -> None:
    own = np.random.default_rng(seed)
    labels = own.integers(0, 4, 50).astype(np.int16)
    answers = own.integers(0, 4, (2, 50)).astype(np.int16)
    expected = []
    for row in answers.tolist():
        hits = total = 0
        for answer, label in zip(row, labels.tolist(), strict=True):
            if label == seed % 4:
                continue
            total += 1
            hits += answer == seed % 4
        expected.append((hits, total))
    assert reversed_success(labels, answers, seed % 4) == tuple(expected)
    assert reversed_success(labels, answers[:1], seed % 4) == (expected[0], None)
    assert 0 < expected[0][0] < expected[0][1] < 50


def test_reversed_success_of_nothing_but_target_images_is_none_of_none() -> None:
    labels = np.full(5, 2, np.int16)
    assert reversed_success(labels, np.full((2, 5), 2, np.int16), 2) == ((0, 0), (0, 0))


def test_a_trigger_on_most_of_the_image_restricts_nothing(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    """Where the true trigger changes most pixels, ReASR would be the whole trigger's success."""
    changed = evaluation_set.test.pixels.clone()
    changed[..., :9, :] ^= 1
    everywhere = replace(evaluation_set, triggered=changed)
    found = play(experiment, everywhere, suspect, Says(lambda: verdict(trigger=random_patch())))
    assert found[0].reversed_answers is not None
    assert found[0].reversed_answers.shape == (1, 130)


# What a reversed trigger, the detector's own code, meets.


@dataclass
class Remembers(Says):
    """Keeps what its trigger was shown, and tells how much of it there was at every repeat."""

    name = "remembers"

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        self.known = getattr(self, "known", [])
        self.told = [*getattr(self, "told", []), sum(len(images) for images in self.known)]
        detector = self

        class Spy(Additive):
            def apply(self, images: Tensor) -> Tensor:
                detector.known.append(images)
                triggered = super().apply(images)
                images.zero_()
                return triggered

        return verdict(trigger=Spy(torch.zeros(CLASSES, 1, 16, 16)))


def test_no_repeat_follows_a_look_at_test_images(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    """One blank image per repeat checks the trigger's shape; test images come after the last."""
    detector = Remembers()
    before = evaluation_set.test.pixels.clone()
    scans = examine(experiment, evaluation_set, suspect, detector, share=SHARE, seed=0)
    assert detector.told == [0, 1, 2]
    assert torch.equal(evaluation_set.test.pixels, before)
    # A trigger that blackens what it is given changes nothing that is measured.
    for scan in scans:
        assert scan.reversed_answers is not None
        assert (scan.reversed_answers[0] == scan.reversed_answers[1]).all()


def test_a_trigger_that_leaves_the_range_of_images_is_refused(
    experiment: Experiment, evaluation_set: EvaluationSet, suspect: Classifier
) -> None:
    class Glares(Additive):
        def apply(self, images: Tensor) -> Tensor:
            return super().apply(images) + 2

    @dataclass
    class Dazzles(Says):
        name = "dazzles"

        def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
            return verdict(trigger=Glares(torch.zeros(CLASSES, 1, 16, 16)))

    with pytest.raises(RuleViolation, match=r"dazzles's trigger must return values in \[0, 1\]"):
        examine(experiment, evaluation_set, suspect, Dazzles(), share=SHARE, seed=0)


def test_class_scores_must_be_a_tensor() -> None:
    with pytest.raises(RuleViolation, match=r"says\.detect must return class scores as a tensor"):
        checks.detection(verdict(class_scores=[0.0] * CLASSES), (1, 16, 16), CLASSES, Says())
