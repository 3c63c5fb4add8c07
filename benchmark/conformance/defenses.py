"""What defenses have to hold, stage by stage."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import torch
from torch import Generator, Tensor

from benchmark.api import Deployment, Detector, Inverter, Repair, Sanitizer, Starts
from benchmark.conformance import tiny
from benchmark.conformance.subject import (
    STEPS,
    ConformanceError,
    DoesNotApply,
    Subject,
    Watch,
    depends_on_others,
    same,
)
from benchmark.games import checks, victims
from benchmark.games.detectability import play as detectability
from benchmark.games.inversion import play as inversion
from benchmark.games.robustness import play as robustness
from benchmark.images import to_unit

#: How many steps a repair has, at most, to change something; one with a parameter `steps` is told.
MOST_STEPS = 100

#: What outputs that are a detector's readings begin with.
READING = "the score "

#: Noise level at which a smoothed classifier is asked.
SIGMA = 0.25


def play_sanitizer(sanitizer: Sanitizer, watch: Watch) -> Mapping[str, Tensor]:
    """Sanitize a poisoned training set."""
    watch.over(sanitizer, "sanitize")
    experiment = tiny.experiment()
    left = victims.sanitize(experiment, sanitizer, tiny.training(), experiment.rng("sanitize"))
    return {"the choice of images": left.data.pixels, "the choice of labels": left.data.labels}


def play_repair(repair: Repair, watch: Watch) -> Mapping[str, Tensor]:
    """Repair the suspect, as far as the first steps."""
    repair = _shortened(repair, STEPS)
    watch.over(repair, "repair")
    experiment = tiny.experiment()
    trusted = experiment.trusted(tiny.SHARE, 0)
    robustness.play(
        experiment, tiny.evaluation_set(), tiny.suspect(), repair=repair, trusted=trusted
    )
    return {f"weight {name}": value for name, value in watch.models[0].state_dict().items()}


def _shortened(repair: Repair, most: int) -> Repair:
    """The repair with fewer steps, where it says how many it takes: the game holds it to them."""
    steps = checks.steps(repair)
    return repair if steps is None else replace(cast(Any, repair), steps=min(steps, most))


def finite(subject: Subject) -> None:
    """The weights are finite after a few steps."""
    for name, value in subject.round().outputs.items():
        if not value.isfinite().all():
            raise ConformanceError(
                f"{name} is not finite after a few steps; keep the repair from diverging, or "
                "choose a smaller learning rate"
            )


def changes(subject: Subject) -> None:
    """It changes the weights of the model that is handed over, with the last step at the latest."""
    suspect = tiny.suspect().state_dict()

    def unchanged(weights: Mapping[str, Tensor]) -> bool:
        return all(same(weights[name], value) for name, value in suspect.items())

    outputs = subject.round().outputs
    if not unchanged({name: outputs[f"weight {name}"] for name in suspect}):
        return
    # A repair may first optimise something else, such as masks, and use it in the end.
    repair, experiment = _shortened(subject.create(), MOST_STEPS), tiny.experiment()
    model = tiny.suspect().private_copy()
    steps = repair.repair(model, experiment.trusted(tiny.SHARE, 0), experiment.rng("repair"))
    taken = sum(1 for _ in islice(steps, MOST_STEPS))
    if unchanged(model.state_dict()):
        raise ConformanceError(
            f"{taken} steps leave all weights as they were; change the model in place, and yield "
            "after every step"
        )
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise ConformanceError("the last steps leave weights that are not finite")


def stops(subject: Subject) -> None:
    """It can be stopped after any step, and then changes nothing more."""
    subject.round()
    repair, experiment = subject.create(), tiny.experiment()
    model = tiny.suspect().private_copy()
    steps = repair.repair(model, experiment.trusted(tiny.SHARE, 0), experiment.rng("repair"))
    if not inspect.isgenerator(steps):
        raise DoesNotApply("it is no generator function, so nothing runs when it is stopped")
    next(steps, None)
    before = copy.deepcopy(model.state_dict())
    try:
        steps.close()
    except RuntimeError:
        raise ConformanceError(
            "repair goes on when it is stopped; do not yield where GeneratorExit is caught"
        ) from None
    if not all(same(before[name], value) for name, value in model.state_dict().items()):
        raise ConformanceError(
            "repair changes the model when it is stopped; let every yield leave the model as it "
            "shall be used"
        )


def ends(subject: Subject) -> None:
    """It changes nothing after its last step."""
    subject.round()
    repair, experiment = _shortened(subject.create(), STEPS), tiny.experiment()
    steps = robustness.measured_steps(
        repair,
        tiny.suspect().private_copy(),
        experiment.trusted(tiny.SHARE, 0),
        interval=1,
        rng=experiment.rng("repair"),
    )
    try:
        for _ in islice(steps, MOST_STEPS):
            pass
    except checks.RuleViolation as error:
        raise ConformanceError(str(error)) from None


def play_deployment(deployment: Deployment, watch: Watch) -> Mapping[str, Tensor]:
    """Guard the suspect while it is measured."""
    watch.over(deployment, "deploy")
    experiment = tiny.experiment()
    trusted = experiment.trusted(tiny.SHARE, 0)
    outcome = robustness.play(
        experiment, tiny.evaluation_set(), tiny.suspect(), deployment=deployment, trusted=trusted
    )
    assert outcome.suspicion is not None
    answers, (clean, triggered) = outcome.answers[-1], outcome.suspicion
    return {
        "the answer to clean images": torch.from_numpy(answers.test),
        "the answer to triggered images": torch.from_numpy(answers.triggered),
        "the suspicion of clean images": torch.from_numpy(clean),
        "the suspicion of triggered images": torch.from_numpy(triggered),
    }


def guards_one_by_one(subject: Subject) -> None:
    """The verdict on an image does not depend on the images beside it."""
    deployment, trusted = subject.repeatable().plugin, tiny.experiment().trusted(tiny.SHARE, 0)

    def deploy(rng: Generator) -> Callable[[Tensor], Tensor]:
        guarded = deployment.deploy(tiny.suspect().private_copy(), trusted, rng)

        def judged(images: Tensor) -> Tensor:
            with torch.no_grad():
                verdict = guarded(images)
            return torch.stack([verdict.predictions.float(), verdict.suspicion.float()], 1)

        return judged

    if depends_on_others(deploy, tiny.evaluation_set().test.images):
        raise ConformanceError(
            "the verdict on an image depends on the images beside it; judge every image for "
            "itself, with what deploy learnt from the trusted ones"
        )


def play_detector(detector: Detector, watch: Watch) -> Mapping[str, Tensor]:
    """Examine the suspect."""
    watch.over(detector, "detect")
    experiment, evaluation_set = tiny.experiment(), tiny.evaluation_set()
    if watch.decoy:  # the same model, said to be of another attack
        wrong = (evaluation_set.target + 1) % len(experiment.class_names)
        evaluation_set = replace(
            evaluation_set, triggered=255 - evaluation_set.triggered, target=wrong
        )
    scans = detectability.examine(
        experiment, evaluation_set, tiny.suspect(), detector, share=tiny.SHARE, seed=0
    )
    found = scans[0].detection
    outputs = {"the score": torch.tensor(found.score), "the class scores": found.class_scores}
    outputs |= {f"{READING}{name!r}": torch.tensor(value) for name, value in found.also.items()}
    if found.trigger is not None:
        outputs |= {f"the trigger's {k}": v for k, v in found.trigger.pictures.items()}
    return outputs


def told_nothing(subject: Subject) -> None:
    """What it finds does not change with what only the harness knows of the attack."""
    different = subject.repeatable().differs_from(subject.round(decoy=True))
    if different:
        raise ConformanceError(
            f"{different} changes with the attack that the harness is told of; use the model, the "
            "trusted images and rng only"
        )


def same_readings(subject: Subject) -> None:
    """It has the same readings for every model."""
    found, experiment = subject.round().outputs, tiny.experiment()
    (scan,) = detectability.examine(
        experiment, tiny.evaluation_set(), tiny.clean(), subject.create(), share=tiny.SHARE, seed=0
    )
    ours = {name for name in found if name.startswith(READING)}
    theirs = {f"{READING}{name!r}" for name in scan.detection.also}
    if ours != theirs:
        raise ConformanceError(
            f"{', '.join(sorted(ours ^ theirs))} is there for one model and not for another; "
            "return the same readings for all"
        )


def play_inverter(inverter: Inverter, watch: Watch) -> Mapping[str, Tensor]:
    """Reverse triggers of several classes in one batch, and one from another start; then smooth."""
    watch.over(inverter, "invert", "smoothed")
    experiment, images = tiny.experiment(), to_unit(tiny.experiment().splits.trusted.pixels[:4])
    targets = torch.arange(len(images))
    outputs: dict[str, Tensor] = {}
    for what, starts in {
        "the trigger": Starts(images, targets),
        "the restarted trigger": Starts(images[:1], targets[:1], restart=1),
    }.items():
        found = inversion.trail(
            inverter, tiny.suspect().private_copy(), starts, experiment.rng(what)
        )
        outputs |= {f"{what}'s {k}": v for k, v in found[max(found)].pictures.items()}
    classify = inverter.smoothed(tiny.suspect().private_copy(), SIGMA)
    if classify is not None:
        said, classes = classify(images, experiment.rng("smoothed")), len(experiment.class_names)
        who = f"{inverter.name}.smoothed"
        outputs["the smoothed answer"] = checks.probabilities(said, len(images), classes, who)
    return outputs


def inverts_one_by_one(subject: Subject) -> None:
    """The trigger from one image does not depend on the images beside it."""
    inverter, images = subject.repeatable().plugin, tiny.experiment().splits.trusted.images[:4]

    def reversed_from(images: Tensor, rng: Generator) -> Tensor:
        starts, model = Starts(images, torch.arange(len(images))), tiny.suspect().private_copy()
        found = inversion.trail(inverter, model, starts, rng)
        pictures = found[max(found)].pictures.values()
        return torch.cat([picture.flatten(1) for picture in pictures], 1)

    # Random numbers are drawn for the whole batch, as for the start of a trigger.
    if depends_on_others(lambda rng: lambda some: reversed_from(some, rng), images, alone=False):
        raise ConformanceError(
            "the trigger from one image depends on the images beside it; keep one loss for each "
            "and step on their sum"
        )


def hashes(subject: Subject) -> None:
    """What else a result depends on is named with its SHA-256."""
    found = subject.round().plugin.uses()
    texts = found.items() if isinstance(found, dict) else [("", None)]
    for name, sha in texts:
        if not (isinstance(sha, str) and re.fullmatch(r"[0-9a-f]{64}", sha) and name):
            raise ConformanceError(
                f"uses() returned {found!r}; return a dict from names to SHA-256 in 64 lower-case "
                "hexadecimal digits"
            )
