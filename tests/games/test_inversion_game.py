"""The inversion game's images and numbers, against literal loops and closed forms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from barrier import bytes_of
from inversion_scene import (
    CLASSES,
    CURVE_STARTS,
    EVALUATION,
    SELECTION,
    STARTS,
    TARGET,
    Nothing,
    Own,
    Random,
    Truth,
    experiment,
    game,
    linear,
    run,
    suspect,
    told,
    view,
)
from torch import Generator, Tensor

from backdoor_defenses.plainadv import PlainAdv
from backdoor_defenses.smoothinv.inverters import SmoothInv
from benchmark.api import Images, PoisoningAttack, Starts
from benchmark.classifier import Classifier
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.inversion.data import InversionData, check_enough, draw
from benchmark.games.inversion.play import play
from benchmark.games.inversion.score import best, score
from benchmark.games.transfer import covers_too_much, true_masks
from benchmark.images import to_bytes, to_unit
from benchmark.protocol import ProtocolError
from benchmark.triggers import Additive, Trigger


def answer(model: Classifier, image: Tensor) -> int:
    with torch.no_grad():
        return int(model(image[None])[0].argmax())


# The scene.


def test_starts_are_trusted_images_of_other_classes() -> None:
    splits, scenes = experiment().splits, [view(seed) for seed in range(4)]
    labels = splits.trusted.labels.tolist()
    there = dict(zip(bytes_of(splits.trusted.pixels), labels, strict=True))
    judging = {*bytes_of(splits.validation.pixels), *bytes_of(splits.test.pixels)}
    for found in scenes:
        assert len(found.starts) == STARTS
        assert TARGET not in found.starts.labels.tolist()
        kept = bytes_of(found.starts.pixels)
        assert [there[one] for one in kept] == found.starts.labels.tolist()
        assert not set(kept) & judging
        assert bytes_of(found.selection.pixels) == bytes_of(splits.validation.pixels[:SELECTION])
        assert bytes_of(found.evaluation.pixels) == bytes_of(splits.test.pixels[:EVALUATION])
    assert len({tuple(bytes_of(found.starts.pixels)) for found in scenes}) == 4
    again = view.__wrapped__(0)
    assert bytes_of(again.starts.pixels) == bytes_of(scenes[0].starts.pixels)


def test_the_scale_is_the_mean_norm_of_what_the_trigger_changes() -> None:
    total = 0.0
    for image in view().evaluation.pixels.numpy()[:, 0] / 255:
        total += math.sqrt(sum((1 - image[r, c]) ** 2 for r in (0, 1) for c in (0, 1)))
    assert view().scale == pytest.approx(total / EVALUATION, rel=1e-5)
    for mask, image in zip(view().masks, view().evaluation.pixels, strict=True):
        changed = [[r, c] for r in (0, 1) for c in (0, 1) if image[0, r, c] != 255]
        assert mask.nonzero().tolist() == changed
    expected = to_unit(view().starts.pixels)
    expected[:, :, :2, :2] = 1
    assert torch.equal(view().triggered_starts, expected)


# Counting.


def test_hits_are_those_of_a_literal_loop() -> None:
    outcome, model = run(Random, runs=2), suspect()
    assert len(outcome.attempts) == 2
    for attempt in outcome.attempts:
        change = attempt.trigger.variables[0]
        for data, found in (
            (view().selection, attempt.selection),
            (view().evaluation, attempt.evaluation),
        ):
            images = [(data.images + one).clamp(0, 1) for one in change]
            expected = [[answer(model, image) == TARGET for image in row] for row in images]
            assert found.tolist() == expected
            assert 0 < found.sum() < found.size


def test_reasr_and_the_clean_model_are_those_of_a_literal_loop() -> None:
    outcome = run(Random)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[:2, :2] = True
    for row in range(STARTS):
        change = outcome.attempts[0].trigger.variables[0][row]
        images = view().evaluation.images
        for found, model, kept in (
            (outcome.restricted, suspect(), inside),
            (outcome.on_clean_model, linear(0), torch.ones_like(inside)),
        ):
            changed = torch.where(kept, (images + change).clamp(0, 1), images)
            assert found is not None
            assert found[row].tolist() == [answer(model, image) == TARGET for image in changed]
    for found in (outcome.restricted, outcome.on_clean_model):
        assert found is not None
        assert 0 < found.sum() < found.size


def test_the_best_has_most_hits_on_images_of_other_classes_first_of_equals() -> None:
    own = np.random.default_rng(0)
    labels = own.integers(0, 4, 12)
    ties = 0
    for _ in range(50):
        bits = own.random((3, 5, 12)) < 0.5
        expected = []
        for start in range(5):
            counts = [
                sum(int(hit) for hit, label in zip(one[start], labels, strict=True) if label != 2)
                for one in bits
            ]
            ties += counts.count(max(counts)) > 1
            expected.append(counts.index(max(counts)))
        assert best(bits, labels != 2).tolist() == expected
    assert ties > 0


def test_selection_images_alone_decide_which_run_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two runs one works on the selection and the other on the evaluation images."""
    sets = [set(bytes_of(data.pixels)) for data in (view().selection, view().evaluation)]

    def picky(self: Additive, images: Tensor) -> Tensor:
        """Whiten the corner of the images of one set, whose number the trigger holds."""
        found = images.repeat(len(self.sum), 1, 1, 1, 1)
        for row, number in enumerate(self.sum[:, 0, 0, 0].int().tolist()):
            for column, picture in enumerate(bytes_of(to_bytes(images))):
                if picture in sets[number]:
                    found[row, column, :, :2, :2] = 1
        return found

    monkeypatch.setattr(Additive, "apply", picky)

    class Specialist(Own):
        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            which = int(self.params.get("which", 0))
            numbers = [(row + which) % 2 for row in range(len(starts.images))]
            yield Additive(torch.ones_like(starts.images) * torch.tensor(numbers).view(-1, 1, 1, 1))

    outcome = run(Specialist, configurations={"own": {"which": [0, 1]}}, runs=3)
    done = [(attempt.params["which"], attempt.restart) for attempt in outcome.attempts]
    assert done == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert told(outcome, "chosen") == [0, 1, 0]
    others = (view().evaluation.labels != TARGET).numpy()
    counts = np.stack([attempt.evaluation[:, others].sum(1) for attempt in outcome.attempts])
    assert (counts.max(0) == others.sum()).all()
    assert (counts[told(outcome, "chosen"), range(STARTS)] < others.sum()).all()
    # What is told about a chosen trigger is its own: these change no evaluation image.
    plain = [answer(suspect(), image) == TARGET for image in view().evaluation.images]
    assert outcome.restricted is not None
    assert outcome.restricted.tolist() == [plain] * STARTS


# Fidelity, in closed form.


def test_the_true_trigger_is_recognised() -> None:
    outcome = run(Truth, configurations={"own": {"share": [0.01, 1.0]}})
    others = (view().evaluation.labels != TARGET).numpy()
    assert told(outcome, "chosen") == [1] * STARTS
    assert told(outcome, "overlap") == [1] * STARTS
    assert told(outcome, "distance") == pytest.approx(np.zeros(STARTS), abs=1e-6)
    assert outcome.restricted is not None
    assert outcome.restricted[:, others].all()
    assert outcome.attempts[1].evaluation[:, others].all()
    assert not outcome.on_clean_model[:, others].all()
    assert torch.equal(outcome.inverted, view().triggered_starts)


def test_no_change_is_one_scale_away() -> None:
    outcome = run(Nothing)
    starts = view().starts.images
    norms = [float((1 - image[0, :2, :2]).square().sum().sqrt()) for image in starts]
    expected = [norm / view().scale for norm in norms]
    assert told(outcome, "distance") == pytest.approx(expected, rel=1e-5)
    assert told(outcome, "distance") == pytest.approx(np.ones(STARTS), abs=0.1)
    plain = [answer(suspect(), image) == TARGET for image in view().evaluation.images]
    assert outcome.attempts[0].evaluation.tolist() == [plain] * STARTS


def test_the_overlap_is_that_of_the_pixels_that_change_most() -> None:
    """Two of four pixels are shared: 2 / (2 * 4 - 2)."""

    class Beside(Own):
        def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
            change = torch.full_like(starts.images, 0.1)
            change[:, :, 0:2, 1:3] = 2 * (starts.images[:, :, 0:2, 1:3] < 0.5) - 1
            yield Additive(change)

    assert told(run(Beside), "overlap") == pytest.approx([1 / 3] * STARTS)


# The target, and the smoothed classifier.


def test_every_class_has_a_trigger_of_its_own_for_each_start() -> None:
    outcome = run(Truth)
    classes = outcome.classes[None]
    assert classes.shape == (CURVE_STARTS, CLASSES, EVALUATION)
    images = view().evaluation.images
    triggered = images.clone()
    triggered[:, :, :2, :2] = 1
    for label in range(CLASSES):
        shown = triggered if label == TARGET else images
        expected = [answer(suspect(), image) == label for image in shown]
        assert classes[:, label].tolist() == [expected] * CURVE_STARTS
    others = (view().evaluation.labels != TARGET).numpy()
    assert classes[:, TARGET, others].all()


def test_without_noise_the_smoothed_classifier_is_the_model() -> None:
    class Smooth(Nothing):
        def smoothed(self, model: Classifier, sigma: float):  # type: ignore[no-untyped-def]
            return SmoothInv(samples=3).smoothed(model, sigma)

    assert run(Nothing, sigmas=[0.0]).smoothed == {}
    outcome, model = run(Smooth, sigmas=[0.0, 2.0]), suspect()
    assert list(outcome.smoothed) == [0, 2]
    for row, images in enumerate((view().evaluation.images, to_unit(view().triggered))):
        with torch.no_grad():
            first, second = model(images).sort(1, descending=True).values[:, :2].T
        # The smoothed classifier counts in bfloat16.
        clear = (first - second > 0.5).numpy()
        assert clear.sum() > 30
        plain = np.array([answer(model, image) for image in images])
        assert (outcome.smoothed[0][row] == plain)[clear].all()
        assert (outcome.smoothed[2][row] != plain).any()


def test_plainadv_finds_a_way_inside_its_ball() -> None:
    grid = {"plainadv": {"epsilon": [1.5]}}
    kind = partial(PlainAdv, steps=20)
    outcome = run(kind, seed=1, inverters=["plainadv"], configurations=grid)
    norms = (outcome.inverted - view().starts.images).flatten(1).norm(dim=1)
    # Kept as bytes.
    assert bool((norms <= 1.5 + 16 / 510).all())
    for image in outcome.inverted:
        assert answer(suspect(), image) == TARGET


def test_the_overlap_counts_pixels_by_their_largest_channel() -> None:
    own = np.random.default_rng(3)
    for _ in range(20):
        starts = own.integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)
        masks = own.random((2, 4, 5)) < 0.4
        masks[:, 0, 0] = True
        inverted = own.integers(0, 256, starts.shape).astype(np.uint8)
        triggered = np.where(masks[:, None], 255 - starts, starts)
        expected = []
        for start, image, mask in zip(starts.astype(int), inverted, masks, strict=True):
            strength = {(r, c): max(abs(image[:, r, c] - start[:, r, c]))
                        for r in range(4) for c in range(5)}  # fmt: skip
            true = {place for place in strength if mask[place]}
            found = set(sorted(strength, key=lambda place: -strength[place])[: len(true)])
            expected.append(len(found & true) / len(found | true))
        assert overlaps(starts, inverted, triggered) == pytest.approx(expected)


def test_a_true_trigger_that_changes_nothing_here_overlaps_with_nothing() -> None:
    starts = np.zeros((2, 1, 3, 3), np.uint8)
    triggered, inverted = starts.copy(), starts + 1
    triggered[1, 0, 0, 0] = 255
    assert overlaps(starts, inverted, triggered) == [None, 1]


def overlaps(starts: np.ndarray, inverted: np.ndarray, triggered: np.ndarray) -> list[float | None]:
    """The overlap of each start image, of evidence with one run and one evaluation image."""
    bits = np.zeros((1, len(starts), 1), np.uint8)
    evidence = {
        "target": np.array(0),
        "scale": np.array(1.0),
        "starts": starts,
        "inverted": inverted,
        "triggered": triggered,
        "labels_starts": np.ones(len(starts), np.int16),
        **dict.fromkeys(("labels_selection", "labels_evaluation"), np.ones(1, np.int16)),
        "selection": bits,
        "evaluation": bits,
        "classes": bits[..., None],
        "restricted": bits[0],
        "on_clean_model": bits[0],
    }
    return [start.overlap for start in score(evidence, [({}, 0)], [None])["starts"]]


# A trigger that covers the image, or nothing of it.


@dataclass
class Band(PoisoningAttack):
    """Turns the upper `rows` rows of every image into their negative, which changes each pixel."""

    name = "band"
    rows: int = 8

    def trigger(self, images: Images, rng: Generator) -> Images:
        changed = images.clone()
        changed[:, :, : self.rows] = 1 - changed[:, :, : self.rows]
        return changed


def banded(rows: int) -> InversionData:
    test, attack = experiment().splits.test, Band(rows)
    triggered = to_bytes(attack.trigger(test.images, experiment().rng()))
    evaluation_set = EvaluationSet(experiment().splits.validation, test, triggered, TARGET)
    assert torch.equal(
        true_masks(evaluation_set)[:EVALUATION],
        draw(experiment(), evaluation_set, attack, game(), 0).masks,
    )
    return draw(experiment(), evaluation_set, attack, game(), 0)


@pytest.mark.parametrize(("rows", "covered"), [(8, False), (9, True), (16, True)])
def test_where_the_true_trigger_covers_more_than_half_its_pixels_say_nothing(
    rows: int, covered: bool
) -> None:
    shown = banded(rows)
    # A grey level of 127.5 would not change, and there is none.
    assert shown.masks.double().mean().item() == rows / 16
    assert covers_too_much(shown.masks) == covered
    outcome = play(
        experiment(), shown, suspect(), linear(0), lambda params: Random(**params), game(),
        seed_parts=("band",),
    )  # fmt: skip
    assert (outcome.restricted is None) == covered
    shares = told(outcome, "overlap")
    assert [share is None for share in shares] == [covered] * STARTS
    assert all(covered or 0 < share < 1 for share in shares)
    assert all(distance > 0 for distance in told(outcome, "distance"))


def test_masks_are_those_of_each_image_not_of_all() -> None:
    """Of TSB's kind: one random pixel per image, which is everywhere over many images."""
    own = np.random.default_rng(1)
    test = experiment().splits.test
    triggered, places = test.pixels.clone(), own.integers(0, 16, (len(test), 2))
    for image, (r, c) in zip(triggered, places, strict=True):
        image[0, r, c] = 255 - image[0, r, c]
    masks = true_masks(EvaluationSet(experiment().splits.validation, test, triggered, TARGET))
    assert [mask.nonzero().tolist() for mask in masks] == [[place] for place in places.tolist()]
    assert not covers_too_much(masks)


def test_a_trigger_that_changes_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="the trigger of band changes no image"):
        banded(0)


@pytest.mark.parametrize("source", [None, 0])
def test_images_that_cannot_be_attacked_are_no_images(source: int | None) -> None:
    first = int(experiment().splits.test.labels[0])
    target, of = (first, f"other classes than the target {first}")
    if source is not None:
        source = (first + 1) % 10
        target, of = 0, f"class {source}, which the attack is for"
    with pytest.raises(ProtocolError, match=f"^none of the 1 evaluation images is of {of}$"):
        check_enough(experiment(), game(evaluation=1), target, source)
    with pytest.raises(ProtocolError, match=f"^60 start images asked .* of {of}$"):
        check_enough(experiment(), game(start_images=60), target, source)
    check_enough(experiment(), game(), target, None)
