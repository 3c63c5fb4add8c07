"""Trains one victim and notes what it answers before it is saved."""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmark import metrics
from benchmark.api import Defense, Sanitizer
from benchmark.games import victims
from benchmark.games.arena import Arena, Progress
from benchmark.games.exam import ask, predictor
from benchmark.images import to_unit
from benchmark.models import Classifier, tensors_sha256
from benchmark.runs.cells import Victim
from benchmark.runs.workshop import Workshop
from benchmark.training import mixed_precision


def train(shop: Workshop, victim: Victim, progress: Progress) -> None:
    """Train, save and measure a victim."""
    started = time.perf_counter()
    arena = shop.arena
    attack = shop.attack(victim.attack)
    # The trigger is fixed per experiment; what is drawn with it differs by repetition.
    names = (victim.attack.label, victim.attack.m, victim.attack.boost)
    torch.manual_seed(arena.protocol.seed("global", *names, victim.seed))
    if attack is not None:
        attack.setup(arena.attacker_view(), arena.rng("trigger", victim.attack.label))
    rng = arena.rng("collect", *names, victim.seed)
    training = victims.collect(arena, attack, victim.attack.m, victim.attack.boost, rng)
    removed: dict[str, int] = {}
    if victim.sanitizer is not None:
        sanitizer = shop.registry.create(Defense, victim.sanitizer.label)
        assert isinstance(sanitizer, Sanitizer)
        before = training
        rng = arena.rng("sanitize", *names, victim.sanitizer.label, victim.seed)
        training = victims.sanitize(arena, sanitizer, before, rng)
        removed = {
            "removed": len(before.data) - len(training.data),
            "removed_poisons": int(before.poisoned.sum() - training.poisoned.sum()),
        }
    model = victims.train(
        arena, attack, training, arena.rng("train", *names, victim.seed), progress
    )
    triggered = victims.trigger_test_images(arena, attack, arena.rng("test", *names))
    labels = arena.splits.test.labels.cpu().numpy()
    predict = predictor(model, arena.recipe.precision)
    facts = {
        "victim": str(victim),
        "model_sha256": tensors_sha256(model.state_dict()),
        "test_hits": int(np.sum(ask(predict, arena.splits.test.pixels) == labels)),
        "target_hits": int(np.sum(ask(predict, triggered) == arena.target)),
        "target_confidence": _target_confidence(arena, model, triggered),
        "asr_clean_model": None if attack is None else _clean_hits(shop, victim, triggered),
        "seconds": time.perf_counter() - started,
        **removed,
    }
    state = {} if attack is None else attack.state
    tensors = {"model": model.state_dict(), "state": state, "exam": {"triggered": triggered}}
    shop.store.save_victim(victim.key, tensors, facts)


def _clean_hits(shop: Workshop, victim: Victim, triggered: torch.Tensor) -> tuple[int, int]:
    """ASR of the trigger on the clean model of the same repetition, in counts."""
    labels = shop.arena.splits.test.labels.cpu().numpy()
    answers = ask(predictor(shop.load(victim.clean), shop.arena.recipe.precision), triggered)
    return metrics.attack_success(answers, labels, shop.arena.target)


def _target_confidence(arena: Arena, model: Classifier, triggered: torch.Tensor) -> float | None:
    """Mean probability of the target on triggered images of other classes."""
    if not len(triggered):
        return None
    others = triggered[arena.splits.test.labels != arena.target]
    total = 0.0
    for pixels in others.split(victims.BATCH):
        with (
            torch.inference_mode(),
            mixed_precision(pixels.device, arena.recipe.precision),
        ):
            logits = model(to_unit(pixels)).float()
        total += logits.softmax(1)[:, arena.target].sum().item()
    return total / len(others)
