"""First-party plugins keep all rules, and every rule is broken by something made to break it."""

from __future__ import annotations

import gc
import io
import re
import runpy
from pathlib import Path
from unittest import SkipTest

import misbehaving
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from stand_ins import STAND_INS
from whole_runs import left_behind

from backdoor_attacks import compensatory
from backdoor_defenses.smoothinv import training
from benchmark.api import Attack, Defense
from benchmark.cli.examine import examine
from benchmark.conformance import Check, ConformanceError, checks, tiny
from benchmark.conformance.probe import effects
from benchmark.errors import UserError
from benchmark.registry import Registry, RegistryError
from benchmark.unchanged import ChangedSetting, unchanged

#: Settings for images of 16x16 pixels, and for little time.
SETTINGS = {
    "clip": STAND_INS["clip"].partition(":")[2],
    "tsb": "side=0.25",
    "htba": "steps=5",
    "colorbd": "trials=4,steps=2,least_psnr=10,least_ssim=0.5",
    "neural-cleanse": "steps=6",
    "strip": "overlays=4",
    "neural-cleanse-additive": "steps=6",
    "neural-cleanse-fixed": "steps=6",
    "neural-cleanse-normal": "steps=6",
    "neural-cleanse-repair": "inversion.steps=5",
    "nad": "teacher_steps=3",
    "anp": "steps=3,threshold=1",
    "calibrated-trigger-inversion": "steps=5,repair.steps=5",
    "abs": "steps=5",
    "abs-filter": "steps=5",
    "exray": "steps=5,alarm=0,detector.steps=5",
    "target-identification": "inverter.steps=3",
    "smoothinv-diffusion": "samples=1,denoiser={folder}/denoiser",
    "folder": "path={folder}/cifar10",
}

NAMES = [entry.plugin.name for entry in Registry().entries]
#: They share all code with another one and differ in numbers only.
SIBLINGS = ("blind-p", "blind-g", "blind-s-star", "neural-cleanse-fixed")


def failures(found: list[Check], all_apply: bool = False) -> dict[str, str]:
    """The sentence of every check that fails, or that does not apply."""
    sentences = {}
    for check in found:
        try:
            check()
        except ConformanceError as error:
            sentences[str(check)] = str(error)
        except SkipTest as reason:
            if all_apply:
                sentences[str(check)] = str(reason)
    return sentences


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small stand-ins for published data sets, and a denoiser that was hardly trained."""
    folder = tmp_path_factory.mktemp("sets")
    shapes = {
        "cifar10": ((32, 32, 3), 10),
        "fashion_mnist": ((28, 28), 10),
        "gtsrb": ((32, 32, 3), 43),
    }
    for name, (shape, classes) in shapes.items():
        buffer = io.BytesIO()
        Image.fromarray(np.full(shape, 100, np.uint8)).save(buffer, "PNG")
        cell = {"bytes": buffer.getvalue(), "path": "0.png"}
        columns = {"image": [cell] * classes, "label": list(range(classes))}
        (folder / name).mkdir()
        for split in ("train", "test"):
            pq.write_table(pa.table(columns), folder / name / f"{split}-00000-of-00001.parquet")
    unet, scheduler = training.train(tiny.experiment().splits.train, steps=1, seed=0, device="cpu")
    training.save(unet, scheduler, folder / "denoiser")
    return folder


def quick(found: list[Check]) -> list[Check]:
    """Without the one that takes a process of its own."""
    return [check for check in found if str(check) != "cheap-to-list"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly if name in SIBLINGS else ()) for name in NAMES],
)
def test_first_party_plugins_keep_all_rules(
    name: str, registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("POISONGAMES_DATA", str(folder))
    settings = SETTINGS.get(name, "").format(folder=folder)
    assert failures(quick(checks(f"{name}:{settings}", registry)), all_apply=True) == {}


def test_first_party_modules_are_cheap_to_list(registry: Registry) -> None:
    """All in one process, where one alone would be blamed for what it loads."""
    found = effects(*sorted({entry.plugin.__module__ for entry in registry.entries}))
    own = {"backdoor_attacks", "backdoor_defenses"}
    assert set(found.pop("packages")) <= own
    assert found == {"touched": [], "printed": ""}


@pytest.mark.parametrize(
    "spec", ["lsp:rate=auto,cost=0.001", "wanet:clean_label=False", "lsp:base=a-blend"]
)
def test_other_settings_keep_all_rules_too(
    spec: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensatory, "INVERSION_STEPS", 20)
    assert failures(quick(checks(spec, registry)), all_apply=True) == {}


LATE = """
@dataclass
class Late(Repair):
    \"\"\"Weigh the channels first, and change the model with the last step.\"\"\"

    name, version, paper = "late", 1, "none, made for a test"

    def repair(self, model, trusted, rng):
        for step in range(1, 41):
            if step == 40:
                with torch.no_grad():
                    model.head.weight.fill_(0.5)
            yield
"""


@pytest.mark.parametrize(
    ("value", "broken"), [("0.5", {}), ("np.inf", {"changes": "the last steps leave weights that"})]
)
def test_a_repair_may_change_the_weights_at_the_end(
    value: str, broken: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "late.py"
    path.write_text(
        HEAD + LATE.replace("0.5", value) + "\n\n@hookimpl\n"
        "def register_defenses(register):\n    register(Late)\n"
    )
    found = failures(quick(checks("late", Registry([path]))))
    assert found.keys() == broken.keys()
    assert all(text in found[rule] for rule, text in broken.items())


HEAD = """
from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field

import numpy as np
import torch

from benchmark import *
from benchmark.api import Dataset, Source, hookimpl
from benchmark.triggers import Additive
from benchmark.models import SmallResNet
"""

#: For every kind a plugin that keeps all rules, which what comes behind it may break.
SOUND = {
    "attack": '''
@dataclass
class Sound(PoisoningAttack):
    """Whiten a corner."""

    name, version, paper = "sound", 1, "none, made for a test"

    def trigger(self, images, rng):
        stamped = images.clone()
        stamped[:, :, :3, :3] = 1
        return stamped
''',
    "code": '''
@dataclass
class Sound(CodePoisoningAttack):
    """Whiten a corner."""

    name, version, paper = "sound", 1, "none, made for a test"

    def trigger(self, images, rng):
        stamped = images.clone()
        stamped[:, :, :3, :3] = 1
        return stamped

    def train(self, model, data, trainer, rng):
        trainer.fit(model, data, rng)
''',
    "sanitize": '''
@dataclass
class Sound(Sanitizer):
    """Keep most images."""

    name, version, paper = "sound", 1, "none, made for a test"

    def sanitize(self, data, train, rng):
        return torch.rand(len(data), generator=rng) < 0.9
''',
    "repair": '''
@dataclass
class Sound(Repair):
    """Add noise to the weights."""

    name, version, paper = "sound", 1, "none, made for a test"

    def shake(self, model, rng):
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.01 * torch.randn(weight.shape, generator=rng)

    def repair(self, model, trusted, rng):
        for _ in range(5):
            self.shake(model, rng)
            yield
''',
    "deploy": '''
@dataclass
class Sound(Deployment):
    """Suspect what the model is sure of."""

    name, version, paper = "sound", 1, "none, made for a test"

    def deploy(self, model, trusted, rng):
        def guarded(images):
            sure = model(images).softmax(1)
            return Verdict(sure.argmax(1), sure.amax(1))

        return guarded
''',
    "detect": '''
@dataclass
class Sound(Detector):
    """Score a class by its mean logit."""

    name, version, paper = "sound", 1, "none, made for a test"

    def detect(self, model, trusted, rng):
        with torch.no_grad():
            scores = model(trusted.images).mean(0)
        return Detection(scores.max().item(), scores)
''',
    "invert": '''
@dataclass
class Sound(Inverter):
    """Add a share of the image to itself."""

    name, version, paper = "sound", 1, "none, made for a test"

    def invert(self, model, starts, rng):
        for step in range(4):
            yield Additive(0.1 * step * starts.images)
''',
    "dataset": '''
@dataclass
class Sound(Dataset):
    """Black images of two classes."""

    name, version = "sound", 1
    labels = torch.arange(10) % 2
    names = ("even", "odd")

    def pixels(self):
        return torch.zeros(10, 1, 8, 8, dtype=torch.uint8)

    def decode(self, files):
        return Source(ImageSet(self.pixels(), self.labels), None, self.names)
''',
    "architecture": '''
@dataclass
class Sound(Architecture):
    """A small residual network."""

    name, version = "sound", 1

    def build(self, shape, classes):
        return SmallResNet().build(shape, classes)
''',
}

HOOKS = {"attack": "attacks", "code": "attacks", "dataset": "datasets"} | {
    "architecture": "architectures"
}

TAIL = """

@hookimpl
def register_{hook}(register):
    register(Sound)
"""


def made(kind: str, body: str, folder: Path, head: str = "") -> list[Check]:
    """The checks of a plugin in a file of its own."""
    path = folder / "sound.py"
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    tail = TAIL.format(hook=HOOKS.get(kind, "defenses"))
    path.write_text(f"{HEAD}{head}\n{SOUND[kind]}\n{lines}{tail}")
    registry = Registry([path])
    assert not registry.failures
    return checks("sound", registry)


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_plugin_of_every_kind_keeps_all_rules(kind: str, tmp_path: Path) -> None:
    assert failures(quick(made(kind, "", tmp_path))) == {}


#: Kind, the only check that fails, its sentence, and what breaks it.
BROKEN = [
    ("attack", "version", "version is True; count", "version = True"),
    ("attack", "summary", "has 101 characters; sum up in at most 100", f'__doc__ = "{"x" * 100}."'),
    ("attack", "summary", "not one sentence", '__doc__ = "No full stop"'),
    ("attack", "summary", "not one sentence", '__doc__ = "Whiten it. Then relabel it."'),
    ("attack", "source", "paper is 'mine', which names no source", 'paper = "mine"'),
    ("attack", "source", "paper is '', which names no source", 'paper = ""'),
    (
        "attack",
        "settings",
        "parameter sizes cannot be read from its default's text '[1,2]'",
        "sizes: tuple[bool, ...] = (1, 2)",
    ),
    (
        "attack",
        "round-trip",
        "sound:steps=6 does not build the same plugin again",
        "steps: int = 3\ndef __post_init__(self):\n    self.steps *= 2",
    ),
    (
        "attack",
        "round-trip",
        "sound:steps=",
        "steps: int = 0\ndef __post_init__(self):\n    self.steps *= 2",
    ),
    (
        "attack",
        "plays",
        "sound.poison must return images of shape (30, 1, 16, 16), got (29, 1, 16, 16)",
        "def poison(self, images, labels, rng):\n    return images[1:], labels[1:]",
    ),
    (
        "attack",
        "plays",
        "a round of the game fails with IndexError: index 1 is out of bounds",
        "def poison(self, images, labels, rng):\n    images[1]\n    return images, labels",
    ),
    (
        "attack",
        "plays",
        "sound.trigger changes nothing: in 8 bits all triggered images are the clean ones",
        "def trigger(self, images, rng):\n    return (images + 0.001).clamp(0, 1)",
    ),
    (
        "attack",
        "quiet",
        "it prints 'now poisoning' while it plays; remove that",
        "def poison(self, images, labels, rng):\n    print('now poisoning')\n"
        "    return super().poison(images, labels, rng)",
    ),
    (
        "repair",
        "quiet",
        "it prints 'step' while it plays",
        "def repair(self, model, trusted, rng):\n    for _ in range(5):\n"
        "        self.shake(model, rng)\n        print('step', file=sys.stderr)\n        yield",
    ),
    ("sanitize", "plays", "a bool tensor of length 400", "def sanitize(self, *_):\n    return [1]"),
    (
        "repair",
        "plays",
        "sound.repair must yield after every step",
        "def repair(self, model, trusted, rng):\n    self.shake(model, rng)",
    ),
    (
        "repair",
        "plays",
        "sound.steps must be a whole number from 1 on, got 'x'",
        "steps: str = 'x'",
    ),
    (
        "deploy",
        "plays",
        "sound.deploy must return the guarded model",
        "def deploy(self, model, trusted, rng):\n    pass",
    ),
    (
        "deploy",
        "plays",
        "the guarded model must return a Verdict",
        "def deploy(self, model, trusted, rng):\n    return model",
    ),
    (
        "detect",
        "plays",
        "must return finite scores, got nan",
        "def detect(self, *_):\n    return Detection(0.0, torch.full((10,), np.nan))",
    ),
    (
        "invert",
        "plays",
        "a trigger for each of 1 start images",
        "def invert(self, model, starts, rng):\n    yield Additive(torch.zeros(4, 1, 16, 16))",
    ),
    (
        "invert",
        "plays",
        "sound.smoothed must return probabilities (4, 10), got (4, 1, 16, 16)",
        "def smoothed(self, model, sigma):\n    return lambda images, rng: images",
    ),
    ("dataset", "plays", "labels in 0..0, one for each", 'names = ("all",)'),
    ("dataset", "plays", "must return images with int64 labels", "labels = torch.zeros(10)"),
    (
        "architecture",
        "plays",
        "must return logits (4, 10), got (4, 11)",
        "def build(self, shape, classes):\n    return SmallResNet().build(shape, classes + 1)",
    ),
    (
        "architecture",
        "plays",
        "no gradient reaches idle; use it or leave it out",
        "def build(self, shape, classes):\n    model = SmallResNet().build(shape, classes)\n"
        "    model.idle = torch.nn.Parameter(torch.zeros(1))\n    return model",
    ),
    (
        "architecture",
        "plays",
        "must return a Classifier",
        "def build(self, shape, classes):\n    model = torch.nn.Identity()\n"
        "    model.normalise_by = lambda mean, std: None\n    return model",
    ),
    (
        "attack",
        "inputs",
        "trigger changed its input in place; work on a copy such as images.clone()",
        "def trigger(self, images, rng):\n    images[:, :, :3] = 1\n    return images\n"
        "def poison(self, images, labels, rng):\n    return images * 0.5, labels",
    ),
    (
        "attack",
        "inputs",
        "poison changed its input in place",
        "def poison(self, images, labels, rng):\n    labels[:] = self.view.target\n"
        "    return images, labels",
    ),
    (
        "attack",
        "inputs",
        "setup changed its input in place",
        "def prepare(self, rng):\n    self.view.auxiliary.pixels[:] = 0",
    ),
    (
        "code",
        "inputs",
        "train changed its input in place",
        "def train(self, model, data, trainer, rng):\n    data.pixels[:, :, 0] = 9\n"
        "    trainer.fit(model, data, rng)",
    ),
    (
        "sanitize",
        "inputs",
        "sanitize changed its input in place",
        "def sanitize(self, data, train, rng):\n    data.pixels[:] = 0\n    return data.labels < 9",
    ),
    (
        "repair",
        "inputs",
        "repair changed its input in place",
        "def repair(self, model, trusted, rng):\n    trusted.pixels[:] = 0\n"
        "    self.shake(model, rng)\n    yield",
    ),
    (
        "deploy",
        "inputs",
        "deploy changed its input in place",
        "def deploy(self, model, trusted, rng):\n    def guarded(images):\n"
        "        images[:, :, 0] = 1\n        sure = model(images)\n"
        "        return Verdict(sure.argmax(1), sure.amax(1))\n    return guarded",
    ),
    (
        "detect",
        "inputs",
        "detect changed its input in place",
        "def detect(self, model, trusted, rng):\n    trusted.labels[:] = 0\n"
        "    return Detection(0.0, torch.zeros(10))",
    ),
    (
        "invert",
        "inputs",
        "invert changed its input in place",
        "def invert(self, model, starts, rng):\n    starts.images.mul_(0.5)\n"
        "    yield Additive(starts.images.clone())",
    ),
    (
        "attack",
        "deterministic",
        "state['pattern'] differs between two rounds of equal seeds",
        "def prepare(self, rng):\n    self.state['pattern'] = torch.full((3,), random.random())",
    ),
    (
        "attack",
        "deterministic",
        "trigger differs between two rounds",
        "def trigger(self, images, rng):\n    return images * np.random.rand()\n"
        "def poison(self, images, labels, rng):\n    return images, labels",
    ),
    (
        "repair",
        "deterministic",
        "weight ",
        "def shake(self, model, rng):\n    model.head.weight.data *= random.random()",
    ),
    (
        "dataset",
        "deterministic",
        "pixels differs",
        "def pixels(self):\n    return torch.full((10, 1, 8, 8), random.randrange(256)).byte()",
    ),
    (
        "architecture",
        "deterministic",
        "weight head.bias differs",
        "def build(self, shape, classes):\n    model = SmallResNet().build(shape, classes)\n"
        "    model.head.bias.data.fill_(random.random())\n    return model",
    ),
    (
        "attack",
        "own-randomness",
        "trigger depends on torch's global random state; draw with generator=rng",
        "def trigger(self, images, rng):\n    return images * torch.rand(1)\n"
        "def poison(self, images, labels, rng):\n    return images, labels",
    ),
    (
        "attack",
        "own-randomness",
        "setup changes torch's global random state; do without torch.manual_seed",
        "def prepare(self, rng):\n    torch.manual_seed(0)",
    ),
    (
        "repair",
        "own-randomness",
        "depends on torch's global random state",
        "def shake(self, model, rng):\n    model.head.weight.data *= torch.rand(1)",
    ),
    (
        "attack",
        "state",
        "after saving and loading the trigger fails with AttributeError",
        "def prepare(self, rng):\n    self.level = torch.rand(1, generator=rng)\n"
        "def trigger(self, images, rng):\n    return images * self.level",
    ),
    (
        "attack",
        "state",
        "after saving and loading the trigger is another one; put all that prepare learns into",
        "level = 0.1\ndef prepare(self, rng):\n    self.level = 0.7\n"
        "def trigger(self, images, rng):\n    return images * self.level",
    ),
    (
        "attack",
        "state",
        "the state cannot be saved",
        "def prepare(self, rng):\n    self.state['level'] = 0.5",
    ),
    (
        "attack",
        "state",
        "sound.state must be a dict of tensors, got NoneType",
        "def prepare(self, rng):\n    self.state = None",
    ),
    (
        "attack",
        "batches",
        "an image's triggered version depends on the images beside it",
        "def trigger(self, images, rng):\n    return (images + images.mean(0)) / 2",
    ),
    (
        "attack",
        "batches",
        "an image's triggered version depends on the images beside it",
        "def trigger(self, images, rng):\n"
        "    return images * torch.linspace(0.5, 1, len(images)).view(-1, 1, 1, 1)",
    ),
    (
        "attack",
        "eight-bits",
        "after rounding to 8 bits the trigger changes only ",
        "def trigger(self, images, rng):\n    faint = (images + 0.001).clamp(0, 1)\n"
        "    return torch.where(images.mean((1, 2, 3), True) > 0.36, 1 - images, faint)",
    ),
    (
        "code",
        "trains",
        "train left the model as it was; train it in place",
        "def train(self, model, data, trainer, rng):\n    pass",
    ),
    (
        "code",
        "trains",
        "train left weights that are not finite",
        "def train(self, model, data, trainer, rng):\n    model.head.weight.data.fill_(np.nan)",
    ),
    (
        "repair",
        "finite",
        "weight head.weight is not finite after a few steps",
        "def shake(self, model, rng):\n    model.head.weight.data.fill_(np.nan)",
    ),
    (
        "repair",
        "changes",
        "5 steps leave all weights as they were",
        "def shake(self, model, rng):\n    pass",
    ),
    (
        "repair",
        "stops",
        "repair changes the model when it is stopped",
        "def repair(self, model, trusted, rng):\n    try:\n        for _ in range(5):\n"
        "            self.shake(model, rng)\n            yield\n"
        "    except GeneratorExit:\n        self.shake(model, rng)",
    ),
    (
        "repair",
        "ends",
        "sound.repair changes the model after its last yield, where it is not measured any more",
        "steps: int = 5\ndef repair(self, model, trusted, rng):\n"
        "    for _ in range(self.steps):\n        self.shake(model, rng)\n        yield\n"
        "    self.shake(model, rng)",
    ),
    (
        "repair",
        "stops",
        "repair goes on when it is stopped",
        "def repair(self, model, trusted, rng):\n    for _ in range(5):\n"
        "        self.shake(model, rng)\n        try:\n            yield\n"
        "        except GeneratorExit:\n            yield",
    ),
    (
        "deploy",
        "guards-one-by-one",
        "the verdict on an image depends on the images beside it",
        "def deploy(self, model, trusted, rng):\n    def guarded(images):\n"
        "        sure = model(images).softmax(1)\n"
        "        return Verdict(sure.argmax(1), sure.amax(1) - sure.amax(1).mean())\n"
        "    return guarded",
    ),
    (
        "detect",
        "told-nothing",
        "the class scores changes with the attack that the harness is told of",
        "def detect(self, model, trusted, rng):\n    frame = sys._getframe()\n"
        "    while 'evaluation_set' not in frame.f_locals:\n        frame = frame.f_back\n"
        "    target = torch.tensor(frame.f_locals['evaluation_set'].target)\n"
        "    return Detection(1.0, torch.nn.functional.one_hot(target, 10).float())",
    ),
    (
        "detect",
        "same-readings",
        "is there for one model and not for another",
        "def detect(self, model, trusted, rng):\n"
        "    own = f'reading {round(1e6 * abs(model.head.bias[0].item()))}'\n"
        "    return Detection(1.0, torch.zeros(10), also={own: 1.0})",
    ),
    (
        "invert",
        "inverts-one-by-one",
        "the trigger from one image depends on the images beside it",
        "def invert(self, model, starts, rng):\n"
        "    yield Additive(starts.images.mean(0).expand_as(starts.images).clone())",
    ),
    ("invert", "hashes", "uses() returned {'w': 'ab'}", "def uses(self):\n    return {'w': 'ab'}"),
    ("invert", "hashes", "uses() returned None", "def uses(self):\n    return None"),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("kind", "check", "sentence", "body"), BROKEN, ids=[f"{b[0]}-{b[1]}-{b[2]}" for b in BROKEN]
)
def test_what_breaks_one_rule_fails_one_check(
    kind: str, check: str, sentence: str, body: str, tmp_path: Path
) -> None:
    found = failures(quick(made(kind, body, tmp_path)))
    if check == "stops":
        gc.collect()  # what cannot be stopped says so here, not in somebody else's test
    assert list(found) == [check], found
    assert sentence in found[check]
    assert "\n" not in found[check]


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        ("", ""),
        ("import pandas", "pandas; import it in the function that needs it"),
        ("print('hello')", "prints 'hello\\n'; remove that"),
        # Here, too, a registry would refuse it.
        (
            "if 'pytest' not in sys.modules: torch.set_num_threads(7)",
            "changes torch's number of threads; leave that as it is",
        ),
        ("assert 'pytest' in sys.modules", "in a fresh process fails (AssertionError: )"),
        ("if 'pytest' not in sys.modules: sys.exit()", "fails (the process ended)"),
    ],
)
def test_what_is_dear_to_list_fails_one_check(head: str, sentence: str, tmp_path: Path) -> None:
    (check,) = (c for c in made("attack", "", tmp_path, head) if str(c) == "cheap-to-list")
    if not sentence:
        check()
        return
    with pytest.raises(ConformanceError, match=re.escape(sentence)):
        check()


def test_the_rule_knows_the_settings_that_a_registry_puts_back(tmp_path: Path) -> None:
    path = tmp_path / "sets.py"
    path.write_text(
        "import os, torch\ntorch.set_default_dtype(torch.float64)\ntorch.manual_seed(3)\n"
        "torch.backends.mkldnn.enabled = False\nos.chdir('/')\n"
    )
    named = effects(str(path))["touched"]
    assert named == [
        "the working directory",
        "torch's default dtype",
        "torch's global random state",
        "torch.backends.mkldnn.enabled",
    ]
    refused = [name for name in named if name != "torch's global random state"]
    with pytest.raises(ChangedSetting, match=re.escape(" and ".join(refused))), unchanged():
        runpy.run_path(str(path))


def test_every_check_is_broken_by_something(registry: Registry) -> None:
    every = {
        str(check)
        for entry in registry.entries
        if issubclass(entry.plugin, Attack | Defense)
        for check in checks(entry.plugin.name, registry)
    }
    assert every == {check for _, check, _, _ in BROKEN} | {"cheap-to-list"}


def test_every_check_states_its_rule_in_one_line(registry: Registry) -> None:
    for name in ("badnets", "pcb", "weight-decay"):
        for check in checks(name, registry):
            assert check.rule.endswith(".")
            assert "\n" not in check.rule


def test_a_set_whose_files_are_elsewhere_is_skipped(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POISONGAMES_DATA", raising=False)
    (plays,) = (check for check in checks("gtsrb", registry) if str(check) == "plays")
    with pytest.raises(SkipTest, match="its files are not on this machine"):
        plays()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("badnet", "no plugin is named 'badnet'; did you mean 'badnets'?"),
        ("qqqq", "no plugin is named 'qqqq'; see poisongames plugins"),
        ("badnets:sides=1", "unknown parameter 'sides'; did you mean 'side'?"),
    ],
)
def test_unknown_names_and_settings(spec: str, message: str, registry: Registry) -> None:
    with pytest.raises(RegistryError) as caught:
        checks(spec, registry)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import nothing_of_that_name")
    with pytest.raises(
        RegistryError, match=r"mine\.py could not be loaded: .*nothing_of_that_name"
    ):
        checks("mine", Registry([path]))


def test_a_file_of_a_taken_name_is_not_passed_over(tmp_path: Path) -> None:
    made("attack", "", tmp_path)
    path = tmp_path / "sound.py"
    path.write_text(path.read_text().replace('"sound"', '"badnets"'))
    with pytest.raises(RegistryError, match=r"the name 'badnets' is taken by a plugin of .*choose"):
        checks("badnets", Registry([path]))


def test_what_a_plugin_raises_is_said_with_its_line(tmp_path: Path) -> None:
    # What it calls may lie in a folder beside it, as an environment does in a checkout.
    called = f"exec(compile('1 / 0', {str(tmp_path / 'lib' / 'deep.py')!r}, 'exec'))"
    body = f"def trigger(self, images, rng):\n    {called}"
    found = failures(quick(made("attack", body, tmp_path)))["plays"]
    path = tmp_path / "sound.py"
    line = path.read_text().splitlines().index(f"        {called}") + 1
    assert f"ZeroDivisionError: division by zero ({path.name}, line {line}); mend that" in found
    assert "grey images of 16x16 pixels" in found


def test_a_method_that_nobody_wrote_is_not_named(tmp_path: Path) -> None:
    body = "def trigger(self, images, rng):\n    return images[:, :, 1:]"
    found = failures(quick(made("attack", body, tmp_path)))["plays"]
    assert found.startswith("sound.trigger must return images of shape")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hangs", "took longer than 10 s"),
        ("crashes", "the process died (signal 11) while it played"),
    ],
)
def test_what_a_plugin_does_to_its_process_ends_with_it(name: str, sentence: str) -> None:
    file = Path(misbehaving.__file__)
    outcome = {one.rule: one for one in examine(name, [file], seconds=10)}
    assert list(outcome) == [str(check) for check in checks(name, Registry([file]))]
    assert outcome["plays"].sentence == sentence
    assert outcome["version"].outcome == outcome["round-trip"].outcome == "kept"
    assert left_behind() == []


def test_an_import_that_hangs_is_ended_at_the_time_limit(tmp_path: Path) -> None:
    path = tmp_path / "hangs.py"
    path.write_text("import time\ntime.sleep(3600)\n")
    with pytest.raises(UserError, match="hangs took longer than 3 s to be imported and built"):
        list(examine("hangs", [path], seconds=3))
