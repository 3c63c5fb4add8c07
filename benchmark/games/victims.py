"""Collect, sanitize, train: the first half of the robustness game (Pick your Poison, Alg. 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmark.api import Attack, CodePoisoningAttack, PoisoningAttack, Sanitizer
from benchmark.classifier import Classifier
from benchmark.games import checks
from benchmark.games.experiment import Experiment, Progress
from benchmark.images import ImageSet, to_bytes, to_unit
from benchmark.metrics import changeable, source_class
from benchmark.protocol import ProtocolError


@dataclass(frozen=True)
class TrainingSet:
    """What the victim trains on.

    Attributes:
        data: clean and poisoned images, as many as before the attack.
        poisoned: bool (N,), for the harness's own bookkeeping.
        repeats: int64 (N,), occurrences per epoch: the boosting factor b where poisoned.
    """

    data: ImageSet
    poisoned: Tensor
    repeats: Tensor


def collect(
    experiment: Experiment, attack: Attack | None, m: int, boost: int, target: int, rng: Generator
) -> TrainingSet:
    """Let the attack exchange m training images; their number stays what it was.

    Poisoned images are rounded to 8 bits, as files would be. What implants a backdoor is the
    number of exposures, m * boost * epochs.

    Raises:
        ValueError: the split has fewer than m images the attack may change.
        RuleViolation: the attack returned what its threat model does not allow.
    """
    data = experiment.splits.train
    poisoned = torch.zeros(len(data), dtype=torch.bool, device=experiment.device)
    if isinstance(attack, PoisoningAttack) and m:
        candidates = may_change(experiment, attack, target)
        if m > len(candidates):
            raise ValueError(
                f"m={m} poisoned images asked for, {attack.name} may change {len(candidates)}"
            )
        order = torch.randperm(len(candidates), generator=rng, device=experiment.device)
        rows = candidates[order[:m]]
        images, labels = to_unit(data.pixels[rows]), data.labels[rows]
        new_images, new_labels = attack.poison(images.clone(), labels.clone(), rng)
        own = type(attack).poison is not PoisoningAttack.poison
        who = f"{attack.name}.{'poison' if own else 'trigger'}"
        new_images = checks.images(new_images, images, who)
        new_labels = checks.labels(new_labels, labels, attack, len(experiment.class_names))
        data = data.replace(rows, to_bytes(new_images), new_labels)
        poisoned[rows] = True
    repeats = torch.where(poisoned, boost, 1)
    return TrainingSet(data, poisoned, repeats)


def may_change(experiment: Experiment, attack: PoisoningAttack, target: int) -> Tensor:
    """Rows of the training images that an attack may exchange, int64 (N,)."""
    labels = experiment.splits.train.labels
    source = source_class(attack.source, target, len(experiment.class_names))
    return changeable(labels, target, source, attack.clean_label).nonzero().flatten()


def check_enough(experiment: Experiment, attack: Attack, m: int, target: int) -> None:
    """Find out before anything is trained that an attack has too few images, or no source class.

    Raises:
        ProtocolError: it may change fewer than m, or its source class is the target.
    """
    offset, classes = attack.source, len(experiment.class_names)
    if offset is not None and not 1 <= offset < classes:
        raise ProtocolError(
            f"{attack.name}: source={offset} asked for; the source class is (target + source) mod "
            f"{classes}, so that 1 to {classes - 1} are allowed"
        )
    if isinstance(attack, PoisoningAttack):
        there = len(may_change(experiment, attack, target))
        if m > there:
            of = f"{'' if attack.clean_label else 'not '}of target class {target}"
            if offset is not None and not attack.clean_label:
                of = f"of source class {source_class(offset, target, classes)}"
            raise ProtocolError(
                f"m={m} poisoned images asked for; {attack.name} may change the {there} training "
                f"images that are {of}"
            )


def sanitize(
    experiment: Experiment, sanitizer: Sanitizer, training: TrainingSet, rng: Generator
) -> TrainingSet:
    """Let the sanitizer remove images; it sees pixels and labels, not what is poisoned."""
    # Not the experiment itself: the sanitizer is handed this function.
    new_model, trainer = experiment.new_model, experiment.trainer()

    def train(data: ImageSet, rng: Generator) -> Classifier:
        model = new_model(rng)
        trainer.fit(model, data, rng)
        return model

    data = training.data
    keep = sanitizer.sanitize(data.copy(), train, rng)
    keep = checks.kept(keep, len(data), data.labels, sanitizer)
    return TrainingSet(data.subset(keep), training.poisoned[keep], training.repeats[keep])


def train(
    experiment: Experiment,
    attack: Attack | None,
    training: TrainingSet,
    rng: Generator,
    progress: Progress = lambda done, total: None,
    after_epoch: Callable[[Classifier], None] = lambda model: None,
) -> Classifier:
    """Train the victim; an attacker who owns the code trains it himself.

    He is lent a copy of the images, and nothing but the weights he leaves is the victim.
    """
    model = experiment.new_model(rng)

    def finished(epoch: int, epochs: int) -> None:
        after_epoch(model)
        progress(epoch, epochs)

    trainer = experiment.trainer(finished)
    if isinstance(attack, CodePoisoningAttack):
        attack.train(model, training.data.copy(), trainer, rng)
        model = experiment.rebuilt(model, f"{attack.name}.train")
    else:
        trainer.fit(model, training.data, rng, repeats=training.repeats)
    return model


def trigger_test_images(experiment: Experiment, attack: Attack | None, rng: Generator) -> Tensor:
    """The test images with the trigger, uint8 (N, C, H, W), made once per victim.

    Raises:
        RuleViolation: what the attack returned is not allowed, or the clean images again.
    """
    if attack is None:
        return experiment.splits.test.pixels[:0]
    parts = [*_triggered(experiment, attack, experiment.splits.test, rng)]
    _check_changed(attack, parts)
    return torch.cat([triggered for _, triggered in parts])


def check_trigger(experiment: Experiment, attack: Attack, rng: Generator) -> None:
    """Find out before a victim is trained that a trigger changes nothing, as above.

    On auxiliary images, which are the attacker's; test images he must not know before.
    """
    _check_changed(attack, _triggered(experiment, attack, experiment.splits.auxiliary, rng))


def _triggered(
    experiment: Experiment, attack: Attack, clean: ImageSet, rng: Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, part by part, and the same with the trigger, uint8 (B, C, H, W)."""
    for pixels in clean.pixels.split(experiment.images_per_pass):
        images = to_unit(pixels)
        lent = images.clone()
        returned = attack.trigger(lent, rng)
        checks.unchanged(images, lent, f"{attack.name}.trigger")
        yield pixels, to_bytes(checks.images(returned, images, f"{attack.name}.trigger"))


def _check_changed(attack: Attack, parts: Iterable[tuple[Tensor, Tensor]]) -> None:
    if all(torch.equal(clean, triggered) for clean, triggered in parts):
        raise checks.RuleViolation(
            f"{attack.name}.trigger changes nothing: in 8 bits all triggered images are the clean "
            "ones; return changed copies, by more than 1/255"
        )
