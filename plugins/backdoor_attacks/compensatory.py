"""LSP's compensatory model: how soft a label hides a backdoor from which detector."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Generator

from backdoor_defenses.abs import ABS
from backdoor_defenses.channel_masks import exchange, features_of
from backdoor_defenses.exray import ExRay
from backdoor_defenses.neural_cleanse import FixedCostNeuralCleanse
from backdoor_defenses.stimulation import activation_weights, margins, stimulate
from benchmark import Classifier, Trigger, TrustedData
from benchmark.inversion import FrozenClassifier, cross_entropy_to, logits_of, success

Chosen = Literal["auto", "auto-abs", "auto-exray", "auto-all"]
#: Size of what a detector reverses for the target, and its cross-entropy there.
Terms = tuple[float, float]

#: A soft label's target never has more than this probability where the rate is computed.
MOST_CONFIDENT = 0.999
INVERSION_STEPS, INVERSION_BATCH = 200, 32


class Inversion(NamedTuple):
    """What a detector does to a model for one class, as far as its loss goes.

    Attributes:
        cost: weight of the size in the detector's loss, relative to 1 for its classification term.
    """

    cost: float
    terms: Callable[[Classifier, TrustedData, int, Generator], Terms]


def target_confidence(rate: float, classes: int) -> float:
    """The target's probability in a poisoned label, e^(ar-1) / (e^(ar-1) + K - 1)."""
    return 1 / (1 + (classes - 1) * math.exp(1 - rate))


def attack_rate(confidence: float, classes: int) -> float:
    """The inverse of `target_confidence`, ar = 1 + ln((K-1) q / (1-q))."""
    return 1 + math.log((classes - 1) * confidence / (1 - confidence))


def compensatory_rate(benign: Terms, backdoored: Terms, cost: float, classes: int) -> float:
    """The largest attack rate that should hide a backdoor from an inversion (eqs. 7-10).

    The soft label's cross-entropy has to make up for the smaller size: it must be at least
    L* = cost * (size_benign - size_backdoored) + CE_benign.

    Args:
        benign, backdoored: size of what a detector reverses for the target and its
            cross-entropy, on a model without and with the base attack; for Neural Cleanse the
            size is the L1 norm of a mask.
        cost: weight of the size in the detector's loss.

    Raises:
        ValueError: no rate above 1 is small enough.
    """
    least = cost * (benign[0] - backdoored[0]) + benign[1]
    # Without a smaller trigger (least <= 0) any rate hides it; the cap keeps the rate finite.
    confidence = min(math.exp(-max(least, 0.0)), MOST_CONFIDENT)
    rate = attack_rate(confidence, classes) if confidence > 0 else -math.inf
    if rate <= 1:
        raise ValueError(
            f"lsp: no attack rate above 1 hides this backdoor: its soft label would need a "
            f"cross-entropy of {least:.3f}, and at rate 1 it is ln K = {math.log(classes):.3f}"
        )
    return rate


def mask_terms(
    model: Classifier, data: TrustedData, target: int, cost: float, rng: Generator
) -> Terms:
    """L1 norm and cross-entropy of the mask that Neural Cleanse reverses at a fixed cost."""
    frozen, classes = FrozenClassifier(model), torch.tensor([target], device=data.device)
    detector = FixedCostNeuralCleanse(INVERSION_STEPS, INVERSION_BATCH, 0.1, cost)
    trigger = detector.reverse(frozen, data, rng, classes)
    with torch.no_grad():
        left = cross_entropy_to(logits_of(frozen, trigger.apply(data.images)), classes)
    return trigger.norms.item(), left.item()


def stimulated(
    detector: ABS, frozen: FrozenClassifier, data: TrustedData, target: int, rng: Generator
) -> Trigger:
    """ABS's best trigger for one class, from the most suspicious channel of every stage."""
    seeds = data.subset((data.labels != target).nonzero().flatten()[: detector.seed_images])
    gains = stimulate(frozen, seeds.images, detector.levels, detector.scale)
    widths = [len(g) for g in gains]
    best = [margins(g, seeds.labels)[:, target].argmax() for g in gains]
    starts = accumulate(widths[:-1], initial=0)
    channels = torch.stack([first + at for first, at in zip(starts, best, strict=True)])
    classes = torch.full_like(channels, target)
    weights = activation_weights(channels, widths, detector.others_weight)
    trigger = detector.reverse(frozen, data, classes, weights, rng)
    return trigger.take(success(frozen, trigger, classes, data).argmax()[None])


def abs_terms(model: Classifier, data: TrustedData, target: int, rng: Generator) -> Terms:
    """By how many pixels ABS's mask exceeds its limit, and the trigger's cross-entropy."""
    detector, frozen = ABS(), FrozenClassifier(model)
    trigger = stimulated(detector, frozen, data, target, rng)
    height, width = data.pixels.shape[2:]
    excess = trigger.norms - detector.size * height * width
    with torch.no_grad():
        logits = logits_of(frozen, trigger.apply(data.images))
        left = cross_entropy_to(logits, torch.tensor([target], device=data.device))
    return max(excess.item(), 0.0), left.item()


def exray_terms(model: Classifier, data: TrustedData, target: int, rng: Generator) -> Terms:
    """Channels that turn victims into their triggered versions, and the cross-entropy they leave.

    Both are means over victim classes; the trigger is ABS's.
    """
    detector, frozen = ExRay(), FrozenClassifier(model)
    trigger = stimulated(ABS(), frozen, data, target, rng)
    images, present = detector.sample(frozen, data, rng)
    present[target] = False
    victims = present.nonzero().flatten()
    if not len(victims):
        raise ValueError("lsp: the surrogate classifies no auxiliary image rightly")
    flat, shape = images[victims].flatten(0, 1), (len(victims), images.shape[1])
    old = features_of(frozen, flat, lambda part: part[None], 1)[0].unflatten(0, shape)
    new = features_of(frozen, flat, trigger.apply, 1)[0].unflatten(0, shape)
    wanted = torch.stack([torch.full_like(victims, target), victims], 1)
    masks = detector.differential_masks(frozen.head, old, new, wanted)
    with torch.no_grad():
        forward = exchange(frozen.head, masks, old, new)[:, 0]
        left = cross_entropy_to(forward, wanted[:, 0])
    return masks.sum(1).mean().item(), left.mean().item()


def inversions(which: Chosen, cost: float) -> list[Inversion]:
    """The detectors that a choice of the rate looks at.

    Args:
        cost: weight of the mask's norm in Neural Cleanse's loss.
    """

    def by_mask(model: Classifier, data: TrustedData, target: int, rng: Generator) -> Terms:
        return mask_terms(model, data, target, cost, rng)

    detector = ABS()
    found = {
        "auto": Inversion(cost, by_mask),
        "auto-abs": Inversion(detector.mask_weight / detector.logit_weight, abs_terms),
        "auto-exray": Inversion(1 / ExRay().penalty, exray_terms),
    }
    return list(found.values()) if which == "auto-all" else [found[which]]
