"""What every attack has to hold."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from benchmark.api import Attack, CodePoisoningAttack
from benchmark.conformance import tiny
from benchmark.conformance.subject import ConformanceError, Subject, Watch, depends_on_others, same
from benchmark.games import checks, victims
from benchmark.games.evaluation import ask, predictor
from benchmark.records.store import Store

#: At least so many triggered images must differ from the clean ones.
MOST = 0.5


def play(attack: Attack, watch: Watch) -> Mapping[str, Tensor]:
    """Prepare, poison, train where the code is the attack's, and trigger the test images."""
    experiment = tiny.experiment()
    owns_code = isinstance(attack, CodePoisoningAttack)
    watch.over(attack, "setup", "trigger", "train" if owns_code else "poison")
    attack.setup(experiment.attacker_view(0), experiment.rng("trigger"))
    # What is no tensor is the check `state`'s business.
    learnt = attack.state if isinstance(attack.state, Mapping) else {}
    state = {name: v for name, v in learnt.items() if isinstance(v, Tensor)}
    outputs = {f"state[{name!r}]": value.clone() for name, value in state.items()}
    # A single image has to be possible as well as many.
    for m in (tiny.m_of(attack), 1):
        training = victims.collect(
            experiment, attack, m, 1, experiment.target(0), experiment.rng("collect", m)
        )
        poisoned = training.data.subset(training.poisoned)
        outputs |= {f"poison of {m}": poisoned.pixels, f"labels of {m}": poisoned.labels}
    if owns_code:
        model = victims.train(experiment, attack, training, experiment.rng("train"))
        outputs |= {f"weight {name}": value for name, value in model.state_dict().items()}
    triggered = victims.trigger_test_images(experiment, attack, experiment.rng("test"))
    return outputs | {"trigger": triggered}


def state(subject: Subject) -> None:
    """A trigger from what was saved and loaded equals the original's, bit for bit."""
    found, experiment = subject.repeatable(), tiny.experiment()
    advice = "put all that prepare learns into self.state, as tensors"
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            store.victims.save("check", {"state": checks.state(found.plugin)}, {})
        except Exception as error:
            raise ConformanceError(f"the state cannot be saved ({error}); {advice}") from error
        loaded = store.victims.tensors("check", "state")
    attack = subject.create()
    Watch().over(attack, "setup", "trigger")
    attack.setup(experiment.attacker_view(0), experiment.rng("trigger"), loaded)
    try:
        triggered = victims.trigger_test_images(experiment, attack, experiment.rng("test"))
    except Exception as error:
        raise ConformanceError(
            f"after saving and loading the trigger fails with {type(error).__name__}: {error}; "
            f"{advice}"
        ) from error
    if not same(triggered, found.outputs["trigger"]):
        raise ConformanceError(f"after saving and loading the trigger is another one; {advice}")


def batches(subject: Subject) -> None:
    """An image's triggered version does not depend on the images beside it."""
    attack, images = subject.repeatable().plugin, tiny.experiment().splits.test.images
    if depends_on_others(lambda rng: lambda some: attack.trigger(some, rng), images):
        raise ConformanceError(
            "an image's triggered version depends on the images beside it; treat every image for "
            "itself, with what prepare learnt"
        )


def eight_bits(subject: Subject) -> None:
    """The trigger is still there after rounding to 8 bits, as files would be."""
    triggered, clean = subject.round().outputs["trigger"], tiny.experiment().splits.test.pixels
    changed = (triggered != clean).flatten(1).any(1).float().mean().item()
    if changed < MOST:
        raise ConformanceError(
            f"after rounding to 8 bits the trigger changes only {changed:.0%} of the images; make "
            "it stronger than 1/255"
        )


def trains(subject: Subject) -> None:
    """Its training changes the model, and leaves finite weights that can be evaluated."""
    found, experiment = subject.round(), tiny.experiment()
    model = experiment.new_model(experiment.rng("train"))
    weights = {name: found.outputs[f"weight {name}"] for name in model.state_dict()}
    if all(same(weights[name], value) for name, value in model.state_dict().items()):
        raise ConformanceError("train left the model as it was; train it in place")
    if not all(value.isfinite().all() for value in weights.values()):
        raise ConformanceError(
            "train left weights that are not finite; keep the training from diverging"
        )
    model.load_state_dict(weights)
    ask(predictor(model, experiment.recipe.precision), experiment.splits.test.pixels)
