"""Trains one victim and notes what it answers before it is saved."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from benchmark import metrics
from benchmark.api import Defense, Sanitizer
from benchmark.classifier import Classifier, tensors_sha256
from benchmark.games import victims
from benchmark.games.arena import Arena, Progress
from benchmark.games.exam import ask, predictor
from benchmark.images import to_unit
from benchmark.runs.cells import Victim
from benchmark.runs.workshop import Workshop
from benchmark.training import mixed_precision


def train(shop: Workshop, victim: Victim, progress: Progress) -> None:
    """Train, save and measure a victim."""
    started = time.perf_counter()
    arena = shop.arena
    attack = shop.attack(victim.attack)
    seed, target = victim.seed, arena.target(victim.seed)
    names = (victim.attack.label, victim.attack.m, victim.attack.boost, seed)
    torch.manual_seed(arena.protocol.seed("global", *names))
    if attack is not None:
        attack.setup(arena.attacker_view(seed), shop.trigger_rng(victim))
    rng = arena.rng("collect", *names)
    training = victims.collect(arena, attack, victim.attack.m, victim.attack.boost, target, rng)
    removed: dict[str, int] = {}
    if victim.sanitizer is not None:
        sanitizer = shop.registry.create(Defense, victim.sanitizer.label)
        assert isinstance(sanitizer, Sanitizer)
        before = training
        rng = arena.rng("sanitize", *names, victim.sanitizer.label)
        training = victims.sanitize(arena, sanitizer, before, rng)
        removed = {
            "removed": len(before.data) - len(training.data),
            "removed_poisons": int(before.poisoned.sum() - training.poisoned.sum()),
        }
    model = victims.train(arena, attack, training, arena.rng("train", *names), progress)
    triggered = victims.trigger_test_images(arena, attack, arena.rng("test", *names))
    labels = arena.splits.test.labels.cpu().numpy()
    predict = predictor(model, arena.recipe.precision)
    answers = _answers(shop, victim, model, triggered)
    confidence, clean_model = answers["confidence"], answers["clean_model"].numpy()
    facts = {
        "victim": str(victim),
        "model_sha256": tensors_sha256(model.state_dict()),
        "test_hits": int(np.sum(ask(predict, arena.splits.test.pixels) == labels)),
        "target_hits": int(np.sum(ask(predict, triggered) == target)),
        "target_confidence": confidence.mean().item() if len(confidence) else None,
        "asr_clean_model": (
            None if attack is None else metrics.attack_success(clean_model, labels, target)
        ),
        "seconds": time.perf_counter() - started,
        **removed,
    }
    tensors = {
        "model": model.state_dict(),
        "state": {} if attack is None else attack.state,
        "exam": {"triggered": triggered},
        "answers": answers,
    }
    shop.store.save_victim(victim.key, tensors, facts)


def _answers(
    shop: Workshop, victim: Victim, model: Classifier, triggered: Tensor
) -> dict[str, Tensor]:
    """What the triggered test images are for the victim and for the clean model of its repetition.

    Returns:
        confidence: float32 (M,), the victim's probability of the target for images of other
            classes.
        clean_model: int16 (N,), the classes that the clean model puts the images into.

        Both are empty for a clean victim.
    """
    arena = shop.arena
    if not len(triggered):
        return {"confidence": torch.zeros(0), "clean_model": torch.zeros(0, dtype=torch.int16)}
    clean = ask(predictor(shop.load(victim.clean), arena.recipe.precision), triggered)
    target = arena.target(victim.seed)
    others = triggered[arena.splits.test.labels != target]
    confidence = [
        _confidence(arena, model, pixels, target) for pixels in others.split(arena.images_per_pass)
    ]
    return {"confidence": torch.cat(confidence), "clean_model": torch.from_numpy(clean)}


def _confidence(arena: Arena, model: Classifier, pixels: Tensor, target: int) -> Tensor:
    """Probability of the target."""
    with torch.inference_mode(), mixed_precision(pixels.device, arena.recipe.precision):
        logits = model(to_unit(pixels)).float()
    found: Tensor = logits.softmax(1)[:, target].cpu()
    return found
