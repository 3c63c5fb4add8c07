"""Trains one victim and notes what it answers before it is saved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from benchmark.api import Attack, Defense, PoisoningAttack, Sanitizer
from benchmark.classifier import Classifier, tensors_sha256
from benchmark.games import checks, victims
from benchmark.games.evaluation import ask, predictor
from benchmark.games.experiment import Experiment, Progress
from benchmark.images import to_unit
from benchmark.metrics import attacked
from benchmark.protocol import ProtocolError
from benchmark.records.cell import Victim
from benchmark.runs.context import RunContext
from benchmark.training import mixed_precision


def train(context: RunContext, victim: Victim, progress: Progress) -> None:
    """Train, save and measure a victim.

    Raises:
        ProtocolError: the weights to start from are not those of the plan.
    """
    started = time.perf_counter()
    experiment = context.experiment
    if victim.init != experiment.initial.sha256:
        raise ProtocolError(
            f"init: {experiment.recipe.init} has digest {str(experiment.initial.sha256)[:12]}…, "
            f"this victim starts from {str(victim.init)[:12]}…; restore the file"
        )
    attack = context.attack(victim.attack)
    seed, target = victim.seed, experiment.target(victim.seed)
    names = (victim.attack.label, victim.attack.m, victim.attack.boost, seed)
    torch.manual_seed(experiment.protocol.seed("global", *names))
    if attack is not None:
        attack.setup(experiment.attacker_view(seed), context.trigger_rng(victim))
        checks.state(attack)
        _check_trigger(context, victim, attack, experiment.rng("test", *names))
    rng = experiment.rng("collect", *names)
    training = victims.collect(
        experiment, attack, victim.attack.m, victim.attack.boost, target, rng
    )
    if victim.sanitizer is not None:
        sanitizer = context.registry.create(Defense, victim.sanitizer.label)
        assert isinstance(sanitizer, Sanitizer)
        rng = experiment.rng("sanitize", *names, victim.sanitizer.label)
        training = victims.sanitize(experiment, sanitizer, training, rng)
    rng, states = experiment.rng("train", *names), list[Mapping[str, Tensor]]()

    def keep(model: Classifier) -> None:
        if experiment.recipe.followed:
            states.append({name: t.to("cpu", copy=True) for name, t in model.state_dict().items()})

    model = victims.train(experiment, attack, training, rng, progress, keep)
    triggered = victims.trigger_test_images(experiment, attack, experiment.rng("test", *names))
    labels = experiment.splits.test.labels.cpu().numpy()
    predict = predictor(model, experiment.recipe.precision)
    confidence = _confidences(context, victim, model, triggered)
    facts = {
        "victim": str(victim),
        "model_sha256": tensors_sha256(model.state_dict()),
        "test_hits": int(np.sum(ask(predict, experiment.splits.test.pixels) == labels)),
        "target_hits": int(np.sum(ask(predict, triggered) == target)),
        "seconds": time.perf_counter() - started,
    }
    tensors = {
        "model": model.state_dict(),
        "state": {} if attack is None else checks.state(attack),
        "triggered": {"triggered": triggered},
        "confidence": {"confidence": confidence},
    }
    if states:
        tensors["epochs"] = _answers(experiment, states, triggered)
    context.store.victims.save(victim.key, tensors, facts)


def _check_trigger(context: RunContext, victim: Victim, attack: Attack, rng: Generator) -> None:
    """Find out before the training that a trigger changes nothing.

    A twin of the attack is asked, with generators of its own: no number depends on that. What else
    it does wrong comes out later. Who owns the training may learn the trigger there.
    """
    if not isinstance(attack, PoisoningAttack):
        return
    state = {name: value.clone() for name, value in attack.state.items()}
    on_gpu = context.experiment.device.type == "cuda" and torch.cuda.is_initialized()
    with torch.random.fork_rng([context.experiment.device] if on_gpu else []):
        try:
            victims.check_trigger(context.experiment, context.attack_with(victim, state), rng)
        except checks.RuleViolation:
            raise
        except Exception:  # such as of an attack that has learnt more than its state says
            return


def _answers(
    experiment: Experiment, states: Sequence[Mapping[str, Tensor]], triggered: Tensor
) -> dict[str, Tensor]:
    """Classes after each epoch for the test images and the triggered ones, int16 (epochs, N)."""
    asked = {"test": experiment.splits.test.pixels, "triggered": triggered}
    answers: dict[str, list[np.ndarray]] = {name: [] for name in asked}
    for state in states:
        predict = predictor(experiment.loaded(state), experiment.recipe.precision)
        for name, pixels in asked.items():
            answers[name].append(ask(predict, pixels))
    return {name: torch.from_numpy(np.stack(found)) for name, found in answers.items()}


def _confidences(
    context: RunContext, victim: Victim, model: Classifier, triggered: Tensor
) -> Tensor:
    """The victim's probability of the target for what the ASR counts, float32 (M,).

    There are none of a clean victim.
    """
    experiment = context.experiment
    if not len(triggered):
        return torch.zeros(0)
    target, source = context.aim(victim)
    counted = triggered[attacked(experiment.splits.test.labels, target, source)]
    parts = counted.split(experiment.images_per_pass)
    return torch.cat([_confidence(experiment, model, pixels, target) for pixels in parts])


def _confidence(experiment: Experiment, model: Classifier, pixels: Tensor, target: int) -> Tensor:
    """Probability of the target; a model that diverged gives none, and is sure of nothing."""
    with torch.inference_mode(), mixed_precision(pixels.device, experiment.recipe.precision):
        logits = model(to_unit(pixels)).float()
    found: Tensor = logits.softmax(1)[:, target].nan_to_num(0).cpu()
    return found
