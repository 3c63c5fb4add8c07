"""Neural Cleanse against its definitions, number by number, and on a planted backdoor."""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from seeds import rng
from torch import Tensor, nn

from backdoor_defenses import neural_cleanse
from backdoor_defenses.neural_cleanse import NeuralCleanse, anomaly_index, verdict
from backdoor_defenses.neural_cleanse_additive import AdditiveNeuralCleanse
from backdoor_defenses.smallest_trigger import CostSchedule
from benchmark.classifier import Classifier
from benchmark.images import TrustedData
from benchmark.inversion import minimise
from benchmark.triggers import Additive, Patch

# The verdict.


def literal_index(norms: list[float]) -> list[float]:
    """Wang et al. 2019, Sec. IV-B: absolute deviation over 1.4826 times its median."""
    median = statistics.median(norms)
    mad = statistics.median([abs(norm - median) for norm in norms])
    return [abs(norm - median) / (1.4826 * mad) for norm in norms]


def spread(norms: list[float]) -> bool:
    median = statistics.median(norms)
    return statistics.median([abs(norm - median) for norm in norms]) > 1e-3


several_norms = st.lists(st.floats(0, 1000, width=32), min_size=3, max_size=30)


@settings(deadline=None, max_examples=200)
@given(several_norms)
def test_the_anomaly_index_is_the_published_one(norms: list[float]) -> None:
    """With the middle two averaged where their number is even."""
    assume(spread(norms))
    found = anomaly_index(torch.tensor(norms)).tolist()
    assert found == pytest.approx(literal_index(norms), rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=200)
@given(several_norms)
def test_only_a_class_below_the_median_is_flagged(norms: list[float]) -> None:
    assume(spread(norms))
    median = statistics.median(norms)
    indices = zip(literal_index(norms), norms, strict=True)
    worst = max((index for index, norm in indices if norm < median), default=0.0)
    assume(abs(worst - 2) > 1e-6)
    flagged, index = verdict(torch.tensor(norms))
    assert index == pytest.approx(worst, rel=1e-9, abs=1e-9)
    assert flagged == (worst > 2)


def test_a_small_norm_is_flagged_and_a_large_one_is_not() -> None:
    """Median 30, MAD 2: an index of 2 is a distance of 5.93."""
    others = [28.0, 29.0, 30.0, 30.5, 32.0]
    assert not verdict(torch.tensor([*others, 80.0]))[0]
    assert verdict(torch.tensor([*others, 3.0]))[0]
    exactly = [26.0, 28.0, 30.0, 32.0, 34.0]
    flagged, index = verdict(torch.tensor([*exactly, 31.0, 30.0 - 5.9]))
    assert index == pytest.approx(5.9 / (1.4826 * 2))
    assert not flagged
    assert verdict(torch.tensor([*exactly, 31.0, 30.0 - 5.95]))[0]


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_equal_norms_are_no_anomaly(classes: int) -> None:
    norms = torch.full((classes,), 12.5)
    assert anomaly_index(norms).tolist() == [0] * classes
    assert verdict(norms) == (None if classes < 3 else False, 0.0)


@pytest.mark.parametrize("odd", [63.999, 1.0, 99.0])
def test_a_scale_of_zero_gives_no_index(odd: float) -> None:
    norms = torch.tensor([64.0] * 9 + [odd])
    assert anomaly_index(norms).tolist() == [0] * 10
    assert verdict(norms) == (False, 0.0)


@given(st.floats(0, 1000, width=32), st.floats(0, 1000, width=32))
def test_two_classes_give_no_index_and_no_verdict(one: float, other: float) -> None:
    """Both always lie 1 / 1.4826 deviations from their mean, whatever they are."""
    if abs(one - other) > 1e-3:
        assert literal_index([one, other]) == pytest.approx([0.674491, 0.674491], rel=1e-4)
    assert anomaly_index(torch.tensor([one, other])).tolist() == [0, 0]
    assert verdict(torch.tensor([one, other])) == (None, 0.0)


whole_norms = st.lists(st.integers(0, 1000), min_size=3, max_size=30)


@settings(deadline=None, max_examples=200)
@given(whole_norms, st.integers(-10, 10), st.integers(0, 1000), st.randoms())
def test_neither_unit_nor_origin_nor_order_of_the_norms_matters(
    norms: list[int], exponent: int, shift: int, random: Any
) -> None:
    """Whole numbers and powers of two, so that none is rounded."""
    plain = torch.tensor(norms, dtype=torch.float64)
    index = anomaly_index(plain)
    changed = plain * 2.0**exponent + shift
    assert torch.equal(anomaly_index(changed), index)
    assert verdict(changed) == verdict(plain)
    order = list(range(len(norms)))
    random.shuffle(order)
    assert torch.equal(anomaly_index(plain[order]), index[order])
    assert verdict(plain[order]) == verdict(plain)


# The schedule of the cost.


def literal_costs(works: list[bool], initial: float, k: float, patience: int) -> list[float]:
    """METHODS 3.5: every `patience`-th check in a row on one side of the threshold counts."""
    cost, costs = 0.0, []
    for now in range(len(works)):
        row = 0
        while row <= now and works[now - row] == works[now]:
            row += 1
        if row % patience == 0:
            if not works[now]:
                cost /= k**1.5
            elif cost == 0:
                cost = initial
            else:
                cost *= k
        costs.append(cost)
    return costs


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 4).flatmap(
        lambda classes: st.lists(
            st.tuples(*[st.sampled_from([True, True, False])] * classes), max_size=40
        )
    ),
    st.floats(1e-4, 1),
    st.floats(1.1, 3),
    st.integers(1, 4),
)
def test_the_cost_follows_every_class_by_itself(
    checks: list[tuple[bool, ...]], initial: float, k: float, patience: int
) -> None:
    classes = len(checks[0]) if checks else 1
    schedule = CostSchedule(classes, initial, k, patience)
    assert schedule.cost.tolist() == [0] * classes
    expected = [
        literal_costs([row[c] for row in checks], initial, k, patience) for c in range(classes)
    ]
    for number, row in enumerate(checks):
        schedule.check(torch.tensor(row))
        wanted = [costs[number] for costs in expected]
        assert schedule.cost.tolist() == pytest.approx(wanted, rel=1e-4, abs=0)


def test_a_schedule_by_hand() -> None:
    """Patience 2 and k = 4: set, kept, times 4, kept, over 8, and back to the start of a row."""
    schedule, costs = CostSchedule(1, 1.0, 4.0, 2), []
    for works in (True, True, True, True, False, False, True, False, True, True):
        schedule.check(torch.tensor([works]))
        costs.append(schedule.cost.item())
    assert costs == [0, 1, 1, 4, 4, 0.5, 0.5, 0.5, 0.5, 2]


def literal_end(works: list[bool], smallest: list[float], k: float, patience: int) -> int | None:
    """The check after which a class is finished, None if it never is (METHODS 3.5)."""
    costs = [0.0, *literal_costs(works, 1e-3, k, patience)]
    mark, since, up, down = math.inf, 0, False, False
    for number, norm in enumerate(smallest):
        before, now = costs[number : number + 2]
        up |= now > before > 0
        down |= now < before
        mark, since = (norm, 0) if norm < 0.99 * mark else (mark, since + 1)
        if since >= 2 * patience and up and down:
            return number
    return None


# Models with and without a planted backdoor.

SIDE, CLASSES, PLANTED = 10, 8, 2
CELLS = SIDE // 2
#: The top left corner of 2x2 pixels; three of the other 24 cells belong to every class.
CORNER = (slice(0, 2), slice(0, 2))


def cells_of(label: int) -> list[int]:
    return [1 + label, 9 + label, 17 + label]


def detector(weight: float, threshold: float = 0.5) -> Classifier:
    """Class c is brightness of its three cells; a bright corner adds `weight` to class 2.

    Classes differ in how much their cells weigh, so that none is like another.
    The second channel of the convolution fires where four pixels sum to more than `threshold`.
    """
    conv = nn.Conv2d(1, 2, 2, stride=2)
    head = nn.Linear(2 * CELLS**2, CLASSES)
    with torch.no_grad():
        conv.weight.copy_(torch.stack([torch.full((1, 2, 2), 0.25), torch.ones(1, 2, 2)]))
        conv.bias.copy_(torch.tensor([0.0, -threshold]))
        head.weight.zero_(), head.bias.zero_()
        for label in range(CLASSES):
            head.weight[label, cells_of(label)] = 5.0 + 0.5 * (3 * label % CLASSES)
        head.weight[PLANTED, CELLS**2] = weight
    stages = OrderedDict[str, nn.Module](conv=nn.Sequential(conv, nn.BatchNorm2d(2), nn.ReLU()))
    model = Classifier(stages, nn.Flatten(), head, 1)
    model.normalise_by(torch.zeros(1), torch.ones(1))
    return model.eval()


def bright_cells(count: int = 48) -> TrustedData:
    """Dark noise with the three cells of the class bright, and a black corner."""
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(50, (count, 1, SIDE, SIDE), generator=rng(), dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        for cell in cells_of(label):
            row, column = 2 * (cell // CELLS), 2 * (cell % CELLS)
            image[0, row : row + 2, column : column + 2] += 150
    pixels[:, :, 0:2, 0:2] = 0
    return TrustedData(pixels, labels)


@pytest.fixture(scope="module")
def found() -> Any:
    torch.set_num_threads(1)
    return NeuralCleanse(steps=400, patience=5).detect(detector(20.0), bright_cells(), rng())


def test_the_planted_model_is_right_on_clean_images_and_obeys_its_trigger() -> None:
    """The tests below are about a backdoor only if there is one."""
    images, labels = bright_cells().images, bright_cells().labels
    stamped = images.clone()
    stamped[:, :, 0:2, 0:2] = 1
    for weight, answers in ((20.0, torch.full_like(labels, PLANTED)), (0.0, labels)):
        assert torch.equal(detector(weight)(images).argmax(1), labels)
        assert torch.equal(detector(weight)(stamped).argmax(1), answers)


def test_a_planted_backdoor_is_found_flagged_and_located(found: Any) -> None:
    norms = found.trigger.norms
    assert int(norms.argmin()) == PLANTED
    assert int(found.class_scores.argmax()) == PLANTED
    assert found.flagged is True
    assert found.also["anomaly index"] > 2
    mask = found.trigger.mask[PLANTED, 0]
    # Four pixels at most are needed, and most of the mask lies on them.
    assert mask.sum() < 4
    assert mask[CORNER].sum() > 0.8 * mask.sum()
    # The pattern is bright where the mask is.
    weights = mask[CORNER] / mask[CORNER].sum()
    assert (found.trigger.pattern[PLANTED, 0][CORNER] * weights).sum() > 0.8


def test_the_reversed_triggers_work(found: Any) -> None:
    """Every kept mask reached its threshold, and on the clean model takes many pixels."""
    data, model = bright_cells(), detector(20.0)
    triggered = found.trigger.apply(data.images)
    for label in range(CLASSES):
        assert (model(triggered[label]).argmax(1) == label).float().mean() > 0.9
    clean = NeuralCleanse(steps=400, patience=5).detect(detector(0.0), data, rng())
    assert clean.trigger is not None
    assert clean.trigger.norms.min() > 2 * found.trigger.norms.min()
    assert clean.score < found.score
    assert clean.flagged is False
    assert clean.also["anomaly index"] < found.also["anomaly index"]


def test_scores_are_minus_the_norms_and_the_index_stands_apart(found: Any) -> None:
    """Pick your Poison scores by the norm, Wang et al. by the anomaly index."""
    norms = [math.fsum(mask.flatten().tolist()) for mask in found.trigger.mask]
    assert found.score == pytest.approx(-min(norms), rel=1e-5)
    assert found.class_scores.tolist() == pytest.approx([-norm for norm in norms], rel=1e-5)
    below = [
        index
        for index, norm in zip(literal_index(norms), norms, strict=True)
        if norm < statistics.median(norms)
    ]
    assert found.also == {"anomaly index": pytest.approx(max(below), rel=1e-3)}


DETECTORS = [NeuralCleanse(steps=12, check=3, patience=1), AdditiveNeuralCleanse(steps=12)]


@pytest.mark.parametrize("defense", DETECTORS, ids=lambda defense: defense.name)
def test_detection_follows_its_generator_and_nothing_else(defense: Any) -> None:
    """The global seed does not matter; model and trusted images stay as they are."""
    model, data = detector(20.0), bright_cells()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        results.append(defense.detect(model, data, rng(seed)))
    first, again, other = results
    assert first.score == again.score
    assert torch.equal(first.class_scores, again.class_scores)
    for name, picture in first.trigger.pictures.items():
        assert torch.equal(picture, again.trigger.pictures[name])
        assert not torch.equal(picture, other.trigger.pictures[name])
    assert torch.equal(data.pixels, bright_cells().pixels)
    assert torch.equal(data.labels, bright_cells().labels)
    after = model.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert all(parameter.requires_grad for parameter in model.parameters())


# Which mask is kept.


@pytest.mark.parametrize("threshold", [0.5, 0.95])
def test_the_smallest_mask_that_reached_the_threshold_is_kept(
    monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    """Looked up in the whole history; a class that nothing reaches covers the image."""
    rates: list[dict[int, float]] = []
    history: list[tuple[list[float], Tensor, Tensor]] = []

    def rate(*args: Any) -> Tensor:
        measured = real_rate(*args)
        rates.append(dict(zip(args[1].tolist(), measured.tolist(), strict=True)))
        return measured

    def watched(trigger: Patch, losses: Any, *, after: Callable[[int], bool], **rest: Any) -> None:
        def noted(step: int) -> bool:
            history.append((trigger.norms.tolist(), trigger.mask.clone(), trigger.pattern.clone()))
            return after(step)

        minimise(trigger, losses, after=noted, **rest)

    real_rate = neural_cleanse.hit_rate
    monkeypatch.setattr(neural_cleanse, "hit_rate", rate)
    monkeypatch.setattr(neural_cleanse, "minimise", watched)

    model = detector(20.0)
    with torch.no_grad():
        model.head.bias[5] = -1000.0
    defense = NeuralCleanse(
        steps=120, check=4, patience=2, threshold=threshold, initial_cost=0.02, batch_size=16
    )
    found = defense.reverse(model, bright_cells(), rng())
    # One class is never reached, hence never finished.
    assert len(rates) == len(history) == 120

    lengths, ends = set(), []
    for label in range(CLASSES):
        smallest: tuple[float, int] | None = None
        works, norms = [], []
        for last in range(3, 120, 4):
            if label not in rates[last]:
                break
            share = sum(rates[step][label] for step in range(last - 3, last + 1)) / 4
            norm = history[last][0][label]
            works.append(share >= threshold - 1e-7)
            if works[-1] and (smallest is None or norm < smallest[0]):
                smallest = (norm, last)
            norms.append(math.inf if smallest is None else smallest[0])
        end = literal_end(works, norms, 1.5, 2)
        assert end == (None if len(works) == 30 and label in rates[-1] else len(works) - 1)
        ends.append(end)
        if label == 5:
            assert smallest is None
            assert found.norms[label].item() == pytest.approx(SIDE**2, rel=1e-5)
            continue
        assert smallest is not None
        _, mask, pattern = history[smallest[1]]
        lengths.add(smallest[1])
        torch.testing.assert_close(found.mask[label], mask[label], atol=5e-6, rtol=0)
        torch.testing.assert_close(found.pattern[label], pattern[label], atol=5e-6, rtol=0)
    # It was neither always the last nor always the same one, and some classes ended early.
    assert len(lengths) > 2
    assert len(set(ends) - {None, 29}) > 1


@pytest.mark.usefixtures("exact")
def test_reversing_equals_the_algorithm_class_by_class() -> None:
    """METHODS 3.5 with a loop over classes, torch's own Adam and scalar bookkeeping.

    One batch holds all images, so that their order does not matter.
    """
    model, data, steps = detector(20.0), bright_cells(16), 40
    defense = NeuralCleanse(
        steps=steps, check=2, patience=2, threshold=0.9, initial_cost=0.03, batch_size=16
    )
    found = defense.reverse(model, data, rng(3))

    draw = torch.rand(CLASSES, 2, SIDE, SIDE, generator=rng(3))
    costs_seen = set()
    for label in range(CLASSES):
        u, v = (
            torch.atanh((draw[label, part] - 0.5) * (2 - 1e-6)).requires_grad_(True)
            for part in (0, 1)
        )
        optimizer = torch.optim.Adam([u, v], lr=0.1, betas=(0.5, 0.9))
        best, best_norm = (torch.ones(SIDE, SIDE), torch.tanh(v).detach() / 2 + 0.5), 100.0
        works: list[bool] = []
        shares: list[float] = []
        norms: list[float] = []
        cost = 0.0
        for step in range(steps):
            m, p = torch.tanh(u) / 2 + 0.5, torch.tanh(v) / 2 + 0.5
            logits = model((1 - m) * data.images + m * p)
            shares.append((logits.argmax(1) == label).double().mean().item())
            loss = -logits.log_softmax(1)[:, label].mean() + cost * m.abs().sum()
            u.grad, v.grad = torch.autograd.grad(loss, (u, v))
            optimizer.step()
            if step % 2:
                works.append((shares[-1] + shares[-2]) / 2 >= 0.9)
                m, p = (torch.tanh(x).detach() / 2 + 0.5 for x in (u, v))
                if works[-1] and m.sum().item() < best_norm:
                    best, best_norm = (m, p), m.sum().item()
                norms.append(best_norm if True in works else math.inf)
                if literal_end(works, norms, 1.5, 2) is not None:
                    break
                cost = literal_costs(works, 0.03, 1.5, 2)[-1]
                costs_seen.add(cost)
        torch.testing.assert_close(found.mask[label, 0], best[0], atol=2e-3, rtol=0)
        torch.testing.assert_close(found.pattern[label, 0], best[1], atol=2e-3, rtol=0)
    assert len(costs_seen) > 3


def test_steps_after_the_last_whole_check_count() -> None:
    found = NeuralCleanse(steps=9, check=10, threshold=0.0).reverse(
        detector(20.0), bright_cells(), rng()
    )
    assert (found.norms < SIDE * SIDE - 1).all()  # not the mask that covers the image


# The additive variant of Pick your Poison.


def test_the_additive_score_is_minus_the_smallest_l1_norm() -> None:
    defense = AdditiveNeuralCleanse(steps=300, learning_rate=0.03)
    # A sum starts near zero, so that a detector which is silent there stays unfound.
    found = defense.detect(detector(20.0, threshold=0.0), bright_cells(), rng())
    assert isinstance(found.trigger, Additive)
    norms = [math.fsum(abs(value) for value in one.flatten().tolist()) for one in found.trigger.sum]
    assert found.score == pytest.approx(-min(norms), rel=1e-5)
    assert found.class_scores.tolist() == pytest.approx([-norm for norm in norms], rel=1e-5)
    assert norms.index(min(norms)) == PLANTED
    assert found.flagged is None


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_the_additive_variant_minimises_error_and_norm_class_by_class(weight: float) -> None:
    """Alg. 6 of Pick your Poison with the norm of its Tab. V (C19), by torch's own Adam.

    The rate falls in equal steps, and a trigger is the smallest that worked at a check, or
    else the last one.
    """
    model, data = detector(20.0, threshold=0.0), bright_cells(16)
    with torch.no_grad():
        model.head.bias[5] = -1000.0
    # Away from black and white, where rounding decides on which side of the clip a pixel is.
    data.pixels.clamp_(min=100)
    defense = AdditiveNeuralCleanse(
        steps=40, batch_size=16, learning_rate=0.04, norm_weight=weight, check=3, threshold=0.4
    )
    found = defense.reverse(model, data, rng(3))
    start = 0.01 * torch.rand(CLASSES, 1, SIDE, SIDE, generator=rng(3))
    chosen = []
    for label in range(CLASSES):
        t = start[label].clone().requires_grad_(True)
        optimizer = torch.optim.Adam([t], lr=0.04, betas=(0.5, 0.9))
        best: tuple[float, int, Tensor] | None = None
        shares: list[float] = []
        for step in range(40):
            optimizer.param_groups[0]["lr"] = 0.04 * (40 - step) / 40
            logits = model((data.images + t).clamp(0, 1))
            shares.append((logits.argmax(1) == label).double().mean().item())
            loss = -logits.log_softmax(1)[:, label].mean() + weight * t.abs().sum()
            (t.grad,) = torch.autograd.grad(loss, t)
            optimizer.step()
            if step % 3 == 2 or step == 39:
                norm = t.detach().abs().sum().item()
                if statistics.mean(shares) >= 0.4 - 1e-7 and (best is None or norm < best[0]):
                    best = (norm, step, t.detach().clone())
                shares = []
        chosen.append(None if best is None else best[1])
        expected = t.detach() if best is None else best[2]
        torch.testing.assert_close(found.sum[label], expected, atol=2e-3, rtol=0)
    assert chosen[5] is None
    assert len(set(chosen)) > (1 if weight else 3)


@pytest.mark.parametrize("weight", [0.02, 0.05])
def test_the_additive_norm_does_not_stop_at_adams_floor(weight: float) -> None:
    """On sum 0.05 * (t - goal)^2 + weight * |t| the optimum is known: soft thresholding."""
    goal = torch.zeros(1, 1, 28, 28)
    goal[..., :3, :3] = 1
    norms = []
    for falling in (True, False):
        trigger = Additive.random(1, (1, 28, 28), rng())
        minimise(
            trigger,
            lambda trigger=trigger: (  # type: ignore[misc]
                0.05 * (trigger.sum - goal).square().sum() + weight * trigger.norms
            ),
            steps=100,
            learning_rate=0.1,
            falling=falling,
        )
        norms.append(trigger.norms.item())
    optimum = 9 * (1 - weight / 0.1)
    assert norms[0] == pytest.approx(optimum, rel=0.15)
    assert norms[1] > 2 * optimum
