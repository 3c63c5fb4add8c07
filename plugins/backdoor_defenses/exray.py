"""ExRay: a reversed trigger that only borrows the target's own features is no backdoor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from backdoor_defenses.abs import ABS
from backdoor_defenses.channel_masks import accuracies, exchange, features_of, overlaps
from benchmark import (
    Classifier,
    Count,
    Detection,
    Detector,
    Positive,
    Share,
    Trigger,
    TrustedData,
    hookimpl,
)
from benchmark.inversion import FrozenClassifier, success
from benchmark.memory import images_per_pass

#: Where the masks start, before tanh / 2 + 1/2: almost all channels are exchanged.
START = 4.0


@dataclass
class ExRay(Detector):
    """Filter another detector's reversed triggers by symmetric feature differencing.

    The authors filter the triggers of ABS. A class is alarmed when its trigger turns a share
    of `alarm` of all other images into it; other detectors' triggers, as of
    `detector=neural-cleanse`, are found at a threshold of their own, which `alarm` must not
    exceed. For an alarmed class and up to `victims` others, the smallest channel masks are
    learnt that exchange victims V with images T of the class, and V with their triggered
    versions V'. The alarm is false when both use the same channels: when the masks overlap by
    more than `overlap` of either, or the smaller mask turns the other pair around too, one
    way, with an accuracy of `exchanged`. A model with a pair that stands this is flagged.

    The method has no score. Here a class scores its trigger's success times the share of
    clean images, V and T, that are not turned around by the channels of the trigger's mask,
    averaged over its victims; 0 without alarm.

    Channels are those of the features, which is the same as masking the last stage where the
    neck averages over the map. Only images that the model classifies rightly are used, so
    that no accuracy starts low; a class without any is skipped. The authors' penalty is 10
    for sums over 10 images.
    """

    name, version, paper = "exray", 2, "Liu et al., CVPR 2022"
    detector: Detector = field(default_factory=ABS)
    alarm: Share = 0.99
    victims: Count = 9
    images: Count = 20
    steps: Count = 400
    learning_rate: Positive = 0.05
    penalty: Positive = 100.0
    overlap: Share = 0.8
    exchanged: Share = 0.8

    def detect(self, model: Classifier, trusted: TrustedData, rng: Generator) -> Detection:
        frozen = FrozenClassifier(model)
        trigger = self.detector.detect(model, trusted, rng).trigger
        if trigger is None:
            raise ValueError(f"exray filters reversed triggers, {self.detector.name} has none")
        classes = torch.arange(frozen.classes, device=trusted.device)
        rates = success(frozen, trigger, classes, trusted)
        images, present = self.sample(frozen, trusted, rng)
        targets, victims = self.pairs(present & (rates >= self.alarm), present, rng)
        if not len(targets):
            return Detection(0.0, torch.zeros_like(rates), False, trigger)
        natural, kept = self.compare(frozen, trigger, images, targets, victims)
        of_class = (targets == classes[:, None]).float()
        scores = rates * (of_class @ kept) / of_class.sum(1).clamp(min=1)
        return Detection(scores.max().item(), scores, not natural.all().item(), trigger)

    def sample(
        self, frozen: FrozenClassifier, trusted: TrustedData, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """Images (K, n, C, H, W) that are classified rightly, and bool (K,), who has any.

        A class that has fewer than n repeats them; what stands for one without is not used.
        """
        order = torch.randperm(len(trusted), generator=rng, device=trusted.device)
        parts = order.split(images_per_pass(frozen, trusted.pixels.shape[1:]))
        with torch.no_grad():
            answers = torch.cat([frozen(trusted.subset(rows).images).argmax(1) for rows in parts])
        right = order[answers == trusted.labels[order]]
        chosen = torch.zeros(frozen.classes, self.images, dtype=torch.int64, device=order.device)
        labels = trusted.labels[right]
        present = torch.bincount(labels, minlength=frozen.classes) > 0
        turns = torch.arange(self.images, device=order.device)
        for label in present.nonzero().flatten():
            own = right[labels == label]
            chosen[label] = own[turns % len(own)]
        images = trusted.subset(chosen.flatten()).images
        return images.unflatten(0, chosen.shape), present

    def pairs(self, alarmed: Tensor, present: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Alarmed classes with up to `victims` others each, drawn at random: int64 (P,) twice."""
        keys = torch.rand(len(present), len(present), generator=rng, device=present.device)
        excluded = ~present | torch.eye(len(present), dtype=torch.bool, device=present.device)
        keys = keys.masked_fill(excluded, torch.inf)
        nearest = keys.topk(min(self.victims, len(present)), largest=False)
        drawn = alarmed[:, None] & nearest.values.isfinite()
        targets, columns = drawn.nonzero(as_tuple=True)
        return targets, nearest.indices[targets, columns]

    def compare(
        self,
        frozen: FrozenClassifier,
        trigger: Trigger,
        images: Tensor,
        targets: Tensor,
        victims: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Whether a pair's trigger uses natural features, bool (P,), and what a class scores by.

        Args:
            images: (K, n, C, H, W) of every class.
            targets, victims: int64 (P,).
        """
        head, flat, shape = frozen.head, images.flatten(0, 1), images.shape[:2]
        alarmed, place = targets.unique(return_inverse=True)
        clean = features_of(frozen, flat, lambda part: part[None], 1)[0].unflatten(0, shape)
        triggered = features_of(
            frozen, flat, lambda part: trigger.apply(part)[alarmed], frozen.classes
        ).unflatten(1, shape)
        old = clean[victims].repeat(2, 1, 1)
        new = torch.cat([clean[targets], triggered[place, victims]])
        wanted = torch.stack([targets, victims], 1).repeat(2, 1)
        natural, of_trigger = self.differential_masks(head, old, new, wanted).chunk(2)
        swapped = accuracies(exchange(head, torch.cat([of_trigger, natural]), old, new), wanted)
        on_clean, on_triggered = swapped.chunk(2)
        trigger_is_smaller = (of_trigger.sum(1) < natural.sum(1))[:, None]
        by_smaller = torch.where(trigger_is_smaller, on_clean, on_triggered)
        alike = (overlaps(natural, of_trigger) > self.overlap).any(1)
        return alike | (by_smaller >= self.exchanged).any(1), 1 - on_clean.mean(1)

    def differential_masks(
        self, head: nn.Module, old: Tensor, new: Tensor, wanted: Tensor
    ) -> Tensor:
        """The smallest masks (J, D) found whose exchange still turns both sides around.

        Minimises the sum of a mask, minus `penalty` times the lead of the wanted logit over
        the other class's, as long as a side is less accurate than if all was exchanged.

        Args:
            old, new: as for `exchange`.
            wanted: int64 (J, 2), the class of `new` and that of `old`.
        """
        variable = torch.full((len(old), old.shape[2]), START, device=old.device)
        smallest = torch.tanh(variable) / 2 + 0.5
        variable.requires_grad_()
        reference = accuracies(exchange(head, smallest, old, new), wanted)
        classes = wanted[:, :, None, None].expand(-1, -1, old.shape[1], 1)
        optimizer = torch.optim.Adam([variable], self.learning_rate)
        for _ in range(self.steps):
            masks = torch.tanh(variable) / 2 + 0.5
            logits = exchange(head, masks, old, new)
            reached = accuracies(logits.detach(), wanted) >= reference
            better = reached.all(1) & (masks.sum(1) < smallest.sum(1))
            smallest = torch.where(better[:, None], masks.detach(), smallest)
            lead = (logits.gather(3, classes) - logits.gather(3, classes.flip(1))).mean((2, 3))
            optimizer.zero_grad(set_to_none=True)
            (masks.sum() - self.penalty * (lead * ~reached).sum()).backward()
            optimizer.step()
        return smallest


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(ExRay)
