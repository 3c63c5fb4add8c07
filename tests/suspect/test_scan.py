"""`poisongames scan`: what it says, leaves behind and exits with, and every misuse of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from click.testing import Result
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from benchmark import scan
from benchmark.api import Detection, Detector
from benchmark.cli import app
from benchmark.cli.scan import _advice
from benchmark.registry import Registry
from benchmark.suspect import estimate
from benchmark.suspect.adapter import ModelError
from benchmark.suspect.estimate import passes
from benchmark.suspect.findings import MOST, Finding
from benchmark.suspect.images import album_of, read_folder
from benchmark.suspect.population import compare
from benchmark.suspect.scan import _examined
from benchmark.suspect.settings import create, defaults
from benchmark.suspect.suspect import narrowed, prepare
from benchmark.triggers import Additive, Patch

CHEAP = "neural-cleanse:steps=4,batch_size=4,check=2,patience=1"

DETECTORS = '''
from dataclasses import dataclass
import torch
from benchmark import Detection, Detector, hookimpl

@dataclass
class Says(Detector):
    """Say yes for class 2, no, or raise an error."""
    name = "says"
    what: str = "yes"

    def detect(self, model, trusted, rng):
        scores = torch.arange(10.0).roll(3)
        if self.what == "nothing":
            return Detection(1.0, scores)
        if self.what == "raise":
            raise RuntimeError("out of luck")
        return Detection(1.0, scores, flagged=self.what == "yes")

@hookimpl
def register_defenses(register):
    register(Says)
'''


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "says.py").write_text(DETECTORS)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.parametrize(
    ("said", "code", "answer"),
    [
        (["yes", "nothing"], 1, "there may be a backdoor for class digit2"),
        (["no", "nothing"], 0, "Nothing found"),
        (["nothing"], 2, "Undecided"),
        (["no", "raise"], 2, "Undecided"),
        (["raise", "yes"], 1, "there may be a backdoor"),
    ],
)
def test_the_exit_code_says_what_was_found(
    said: list[str], code: int, answer: str, weights: Path, architecture: str, folder: Path
) -> None:
    detectors = [word for what in said for word in ("--detector", f"says:what={what}")]
    options = ["--arch", architecture, "--data", folder, "--mean", "0", "--plugin", "says.py"]
    found = invoke("scan", weights, *options, *detectors)
    assert found.exit_code == code, found.output
    assert answer in found.output
    assert ("out of luck" in found.output) == ("raise" in said)
    assert "time" in found.output


def test_a_damaged_record_costs_the_comparison_alone(
    weights: Path, architecture: str, folder: Path
) -> None:
    records = Path("board", "records")
    records.mkdir(parents=True)
    (records / "detectability-none-m0-says-r0.2-s0-0.json").write_text("{")
    options = ["--arch", architecture, "--data", folder, "--mean", "0", "--plugin", "says.py"]
    found = invoke("scan", weights, *options, "--detector", "says", "--population", "board")
    assert found.exit_code == 1, found.output
    assert "note: compared with no clean models: " in found.output
    notes = json.loads(Path("scans/weights/scan.json").read_text())["notes"]
    assert any(note.startswith("compared with no clean models: ") for note in notes)


def test_a_comparison_or_a_report_that_fails_costs_no_finding(
    weights: Path, architecture: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise PermissionError("not for you")

    monkeypatch.setattr("benchmark.suspect.scan.compare", fail)
    Path("scans/weights/scan.json").mkdir(parents=True)
    options = ["--arch", architecture, "--data", folder, "--mean", "0", "--plugin", "says.py"]
    found = invoke("scan", weights, *options, "--detector", "says")
    assert found.exit_code == 2
    assert "note: compared with no clean models: PermissionError: not for you" in found.output
    *_, answer, error = found.output.splitlines()
    assert answer == "Suspicious: there may be a backdoor for class digit2."
    assert error.startswith("error: scans/weights/scan.json is a folder, where a file belongs")


@pytest.mark.parametrize("error", [KeyError("a bug"), KeyboardInterrupt()])
def test_an_error_of_ours_is_no_finding(
    error: BaseException,
    weights: Path,
    architecture: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("benchmark.suspect.scan.forecast", fail)
    found = invoke("scan", weights, "--arch", architecture, "--data", folder, "--mean", "0")
    assert found.exit_code == 2


def test_it_leaves_a_page_and_numbers(weights: Path, architecture: str, folder: Path) -> None:
    found = invoke("scan", weights, "--arch", architecture, "--data", folder, "--detector", CHEAP)
    assert "200 images of 10 classes, 8x8; the model is right on 1" in found.output
    assert "no --mean and --std were given; with pixels from 0 to 1" in found.output
    assert "`--population` names a board" in found.output
    written = json.loads(Path("scans/weights/scan.json").read_text())
    (finding,) = written["findings"]
    # So few steps reverse no small trigger, which is no verdict.
    assert finding["size"] > MOST
    assert (written["found"], finding["suspicious"], found.exit_code) == (None, None, 2)
    assert "gives no verdict, since its trigger covers most of an image" in found.output
    assert finding["detector"] == CHEAP
    scores = finding["class_scores"]
    assert max(scores, key=lambda name: scores[name]) == finding["suspect_class"]
    # The score of this detector is minus the norm of the smallest mask, over 64 pixels.
    assert finding["size"] == pytest.approx(-finding["score"] / 64, rel=1e-5)
    page = Path("scans/weights/index.html").read_text()
    assert finding["suspect_class"] in page
    assert page.count("data:image/bmp") == 1
    assert "<script" not in page
    assert "://" not in page


def test_from_python_it_finds_the_same(
    poisoned: Any, weights: Path, architecture: str, folder: Path
) -> None:
    album = read_folder(folder)
    options = ["--arch", architecture, "--data", folder, "--detector", CHEAP, "--mean", "0"]
    invoke("scan", weights, *options)
    written = json.loads(Path("scans/weights/scan.json").read_text())
    state = torch.get_rng_state()
    found = scan(
        poisoned.net, album.images.pixels, album.images.labels, detectors=[CHEAP], mean=[0.0]
    )
    assert torch.equal(torch.get_rng_state(), state)  # which is the caller's own
    assert found.findings[0].score == written["findings"][0]["score"]
    assert str(found).startswith(found.answer)
    pictures = found.findings[0].pictures
    assert pictures is not None
    assert pictures.shape == (2, 4, 1, 8, 8)


@dataclass
class Rates(Detector):
    """Score by success: no trigger for the first classes, and none is of a usual size."""

    name = "rates"
    flags: bool = True

    def detect(self, model: Any, trusted: Any, rng: Any) -> Detection:
        masks = torch.zeros(model.classes, 1, 8, 8)
        masks[-1, :, :2, :2] = 1
        scores = masks.flatten(1).sum(1) / 5
        trigger = Patch(masks, torch.ones(model.classes, 1, 8, 8))
        return Detection(scores.max().item(), scores, self.flags, trigger)


@pytest.mark.parametrize("flags", [True, False])
def test_a_score_that_is_no_norm_is_not_judged_by_the_triggers_size(
    poisoned: Any, flags: bool
) -> None:
    suspect = prepare(poisoned.net, album_of(poisoned.pixels, poisoned.labels, None), mean=[0.0])
    found = _examined(suspect, Rates(flags), lambda name, done: None)
    assert (found.suspicious, found.relative) == (flags, None)
    assert found.size == pytest.approx(4 / 64, rel=0.01)
    assert "changes 6.3% of an image and puts" in found.sentence
    assert "median" not in found.sentence


def test_triggers_that_do_nothing_have_no_usual_size(poisoned: Any) -> None:
    """As those of a detector that found none for any class, all scores being 0."""

    class Nothing(Rates):
        def detect(self, model: Any, trusted: Any, rng: Any) -> Detection:
            trigger = Additive(torch.zeros(model.classes, 1, 8, 8))
            return Detection(0.0, torch.zeros(model.classes), False, trigger)

    suspect = prepare(poisoned.net, album_of(poisoned.pixels, poisoned.labels, None), mean=[0.0])
    found = _examined(suspect, Nothing(), lambda name, done: None)
    assert (found.error, found.suspicious, found.relative, found.size) == ("", False, None, None)


def test_a_trigger_that_raises_costs_its_detector_alone(poisoned: Any) -> None:
    class Moody(Additive):
        """It has its norms once, when it is checked."""

        @property
        def norms(self) -> Any:
            if vars(self).setdefault("asked", []):
                raise RuntimeError("no norms now")
            self.asked.append(True)  # type: ignore[attr-defined]
            return super().norms

    class Own(Rates):
        def detect(self, model: Any, trusted: Any, rng: Any) -> Detection:
            return Detection(
                0.0, torch.zeros(model.classes), True, Moody(torch.zeros(model.classes, 1, 8, 8))
            )

    suspect = prepare(poisoned.net, album_of(poisoned.pixels, poisoned.labels, None), mean=[0.0])
    found = _examined(suspect, Own(), lambda name, done: None)
    assert found.error == "RuntimeError: no norms now"


@pytest.mark.parametrize(
    ("flagged", "relative", "wanted"),
    [
        (True, 0.39, True),
        (False, 0.39, True),
        (True, 0.6, True),
        (False, 0.6, False),
        (True, 0.7, False),  # an outlier by chance, of the usual size
        (True, None, True),  # no triggers: the detector's own word
        (False, None, False),
        (None, 0.1, None),
    ],
)
def test_the_verdict_asks_how_small_the_trigger_is(
    flagged: bool | None, relative: float | None, wanted: bool | None
) -> None:
    assert Finding("any", 0.0, 1.0, flagged=flagged, relative=relative).suspicious is wanted


def test_the_defaults_of_large_images_send_few_of_them_through(registry: Registry) -> None:
    labels = torch.arange(200) % 10
    counts = {}
    for side in (64, 65, 224):
        detectors = [create(registry, Detector, spec) for spec in defaults((3, side, side))]
        counts[side] = sum(passes(one, labels, 10) or 0 for one in detectors)
    assert counts[224] == counts[65] < counts[64] / 10
    # 4,800 in its steps; a ResNet-18 takes some 0.14 s of one core for each at 224x224.
    assert 4800 <= counts[224] <= 5000


def test_some_classes_alone(poisoned: Any, weights: Path, architecture: str, folder: Path) -> None:
    options = ["--arch", architecture, "--data", folder, "--mean", "0", "--detector", CHEAP]
    done = invoke("scan", weights, *options, "--only", "digit7,digit2,digit3")
    assert "examined as a classifier of 3 of its 10 classes" in done.output
    written = json.loads(Path("scans/weights/scan.json").read_text())
    assert list(written["findings"][0]["class_scores"]) == ["digit7", "digit2", "digit3"]

    album = album_of(poisoned.pixels, poisoned.labels, None)
    whole = prepare(poisoned.net, album, mean=[0.0])
    part = narrowed(whole, ["7", "2", "3"])
    rows = torch.isin(poisoned.labels, torch.tensor([7, 2, 3]))
    assert torch.equal(part.trusted.pixels, poisoned.pixels[rows])
    assert torch.tensor([7, 2, 3])[part.trusted.labels].equal(poisoned.labels[rows])
    wanted = whole.model(part.trusted.images)[:, [7, 2, 3]]
    torch.testing.assert_close(part.model(part.trusted.images), wanted)
    for names, said in (("digit1,digit2", "name three or more"), ("a,b,c", "names a, which is no")):
        assert said in invoke("scan", weights, *options, "--only", names).output
    few = poisoned.labels < 3
    album = album_of(poisoned.pixels[few], poisoned.labels[few], None)
    with pytest.raises(ModelError, match="images of 1 of the 3 classes that --only names; give"):
        narrowed(prepare(poisoned.net, album, mean=[0.0]), ["2", "5", "7"])


def test_a_scan_of_hours_says_how_to_take_less() -> None:
    names = tuple(map(str, range(1000)))
    many = SimpleNamespace(class_names=names)
    assert _advice(many, 100_000.0) == (  # type: ignore[arg-type]
        "all 1000 classes are examined; --only NAME,NAME,... takes some of them: 10 take about "
        "17 min"
    )
    assert not _advice(many, 3000.0)  # type: ignore[arg-type]


@dataclass
class Counted(Detector):
    """Send a known number of images through the model."""

    name = "counted"
    steps: int = 7
    batch_size: int = 5

    def detect(self, model: Any, trusted: Any, rng: Any) -> Detection:
        model(trusted.images)
        for _ in range(self.steps):
            model(trusted.images[: self.batch_size])
        return Detection(0.0, torch.zeros(model.classes))


def test_the_forecast_counts_the_images_of_all_steps() -> None:
    assert passes(Counted(), torch.arange(20) % 4, 4) == 20 + 7 * 5


def test_scores_are_compared_with_clean_models_of_the_same_kind(
    registry: Registry,
) -> None:
    board = Path(__file__).parents[2] / "leaderboards" / "digits-v3"
    spec = "neural-cleanse:steps=500,batch_size=16"
    detector = create(registry, Detector, spec)
    scores = []
    for path in (board / "records").glob("detectability-none-*-neural-cleanse-r*.json"):
        scores.append(json.loads(path.read_text())["scans"][0]["score"])
    middle = float(np.median(scores))
    found = compare(detector, middle, "resnet-small:width=16", 10, [board])
    assert found is not None
    assert (found.below, found.clean) == (5, 10)
    assert "5 of 10 clean models of digits-v3 (50%)" in found.sentence
    assert compare(detector, middle, "resnet18", 10, [board]) is None
    assert compare(detector, middle, "resnet-small:width=16", 9, [board]) is None
    other = replace(detector, steps=100)
    assert compare(other, middle, "resnet-small:width=16", 10, [board]) is None


def _swapped(tmp: Path, folder: Path) -> list[object]:
    """Class folders whose names are in another order than the model's outputs."""
    for place in folder.iterdir():
        number = int(place.name[-1])
        shutil.copytree(place, tmp / "swapped" / f"{'zyxwvutsrq'[number]}")
    return ["W", "--data", tmp / "swapped", "--mean", "0"]


def _one_class(tmp: Path, folder: Path) -> list[object]:
    shutil.copytree(folder / "digit0", tmp / "one" / "digit0")
    names = ",".join(f"digit{n}" for n in range(10))
    return ["W", "--data", tmp / "one", "--classes", names]


def _nine(tmp: Path, folder: Path) -> list[object]:
    shutil.copytree(folder, tmp / "nine")
    shutil.rmtree(tmp / "nine" / "digit9")
    return ["W", "--data", tmp / "nine"]


def _saved(name: str, save: Callable[[Path], object]) -> Callable[[Path, Path], list[object]]:
    def case(tmp: Path, folder: Path) -> list[object]:
        save(tmp / name)
        return [tmp / name, "--data", folder]

    return case


def _colour(tmp: Path, folder: Path) -> list[object]:
    for path in folder.glob("*/*.png"):
        to = tmp / "colour" / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").save(to)
    return ["W", "--data", tmp / "colour"]


def _sizes(tmp: Path, folder: Path) -> list[object]:
    shutil.copytree(folder, tmp / "sizes")
    Image.new("L", (9, 12)).save(tmp / "sizes" / "digit0" / "large.png")
    return ["W", "--data", tmp / "sizes"]


NAN = {"conv1.weight": torch.full((16, 1, 3, 3), torch.nan)}

MISUSES: dict[str, Callable[[Path, Path], list[object]]] = {
    "there is no file nowhere.pt; check the path": lambda tmp, f: ["nowhere.pt", "--data", f],
    "is no model: expected a file .safetensors": lambda tmp, f: ["resnet180", "--data", f],
    "there is no file code.py": lambda tmp, f: ["code.py:build", "--data", f],
    "holds a pickled model, which would run code": _saved(
        "model.pt", lambda path: torch.save(nn.Linear(2, 2), path)
    ),
    "cannot be read": _saved("noise.safetensors", lambda path: path.write_bytes(b"noise")),
    "holds no state dict; save torch.save(model.state_dict()": _saved(
        "number.pt", lambda path: torch.save({"epoch": 3}, path)
    ),
    "conv1.weight is missing; conv1.bias is missing; bn1.weight is missing and": _saved(
        "other.safetensors", lambda path: save_file({"fc.weight": torch.zeros(10, 3)}, path)
    ),
    "raised ZeroDivisionError: division by zero; mend it first": _saved(
        "bad.py:build", lambda path: path.with_name("bad.py").write_text("def build(): 1 / 0")
    ),
    "returned int, expected a torch.nn.Module": _saved(
        "int.py:build", lambda path: path.with_name("int.py").write_text("def build(): return 1")
    ),
    "has no function make; say": _saved(
        "empty.py:make", lambda path: path.with_name("empty.py").write_text("")
    ),
    "say --classes z,y,x,w,v,u,t,s,r,q if these are its outputs": _swapped,
    "all 22 images are of class digit0; give some of every class": _one_class,
    "the images have 9 classes (digit0, digit1, digit2, digit3, digit4, ...) and": _nine,
    "the model takes grey images, these have 3 channels": _colour,
    "have 2 sizes (8x8, 9x12...); say --size N": _sizes,
    "is no folder, expected one of images": lambda tmp, f: ["W", "--data", tmp / "none"],
    "--mean is 1,2; say one number": lambda tmp, f: ["W", "--data", f, "--mean", "1,2"],
    "which is none of the model's": lambda tmp, f: [
        *("W", "--data", f, "--classes", "a,b,c,d,e,f,g,h,i,j")
    ],
    "names a class twice": lambda tmp, f: ["W", "--data", f, "--classes", "a,b,c,d,e,f,g,h,i,i"],
    "--population: none has no records": lambda tmp, f: ["W", "--data", f, "--population", "none"],
    "is no folder that can be written to": lambda tmp, f: ["W", "--data", f, "--out", "/proc/x"],
    "has more than 255 bytes; choose a shorter name": lambda tmp, f: [
        *("W", "--data", f, "--out", "x" * 256)
    ],
    "names 20 classes (a-long-name-of-a-class-0": lambda tmp, f: [
        *("W", "--data", f, "--classes", ",".join(f"a-long-name-of-a-class-{n}" for n in range(20)))
    ],
    "latin.txt is no text in UTF-8": lambda tmp, f: ["W", "--data", f, "--classes", _latin(tmp)],
    "--std is nan; say one number": lambda tmp, f: ["W", "--data", f, "--std", "nan"],
    "strip is no detector; there are abs": lambda tmp, f: [
        *("W", "--data", f, "--detector", "strip")
    ],
    "did you mean 'abs'": lambda tmp, f: ["W", "--data", f, "--detector", "abss"],
}


def _latin(tmp: Path) -> Path:
    (tmp / "latin.txt").write_bytes("für".encode("latin-1"))
    return tmp / "latin.txt"


@pytest.mark.parametrize("sentence", MISUSES)
def test_a_misuse_gets_one_sentence(
    sentence: str, tmp_path: Path, weights: Path, architecture: str, folder: Path
) -> None:
    given = MISUSES[sentence](tmp_path, folder)
    words = [weights if word == "W" else word for word in given]
    found = invoke("scan", *words, "--arch", architecture)
    assert found.exit_code == 2, found.output
    lines = [line for line in found.output.splitlines() if line]
    assert len(lines) == 1, found.output
    assert lines[0].startswith("error: ")
    assert sentence in lines[0]


def test_weights_without_an_architecture(weights: Path, folder: Path) -> None:
    assert "say --arch NAME" in invoke("scan", weights, "--data", folder).output
    unknown = invoke("scan", weights, "--data", folder, "--arch", "resnet19").output
    assert "did you mean 'resnet9'" in unknown
    other = invoke("scan", weights, "--data", folder, "--arch", "resnet18").output
    assert "bn1.weight is (16,), expected (64,)" in other


@pytest.mark.parametrize("kind", ["complex64", "int8"])
def test_weights_of_another_kind(
    kind: str, poisoned: Any, architecture: str, folder: Path, tmp_path: Path
) -> None:
    state = dict(poisoned.net.state_dict())
    name, weight = next((name, w) for name, w in state.items() if w.ndim == 4)
    state[name] = weight.to(getattr(torch, kind))
    torch.save(state, tmp_path / "other.pt")
    found = invoke("scan", "other.pt", "--data", folder, "--arch", architecture)
    assert found.exit_code == 2
    assert f"{name} is {kind}, expected float32" in found.output


def test_weights_that_are_not_finite(
    poisoned: Any, architecture: str, folder: Path, tmp_path: Path
) -> None:
    torch.save(poisoned.net.state_dict() | NAN, tmp_path / "nan.pt")
    found = invoke("scan", "nan.pt", "--data", folder, "--arch", architecture)
    assert "the weights conv1.weight are not all finite" in found.output


def test_missing_classes_loose_images_and_wrappers_are_noticed(
    poisoned: Any, architecture: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "data")
    shutil.copy(next(folder.glob("digit1/*")), tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "digit9")
    # Editors on Windows mark such files.
    (tmp_path / "names.txt").write_text("".join(f"digit{n}\n" for n in range(10)), "utf-8-sig")
    state = {f"module.{name}": tensor for name, tensor in poisoned.net.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "checkpoint.pt")
    options = ["--arch", architecture, "--classes", "names.txt", "--plugin", "says.py"]
    found = invoke("scan", "checkpoint.pt", "--data", "data", *options, "--detector", "says")
    assert found.exit_code == 1, found.output
    assert "1 classes have no image: digit9" in found.output
    assert "left out: 1 file (1 .png) in no folder of a class that is read: " in found.output


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two images of ImageNet, whose models nobody fetches."""
    for name in ("tench", "goldfish"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / name / "1.jpg")
    build = torchvision.models.get_model

    def fetch(name: str, weights: Any) -> nn.Module:
        model: nn.Module = build(name, weights=None)
        return model

    monkeypatch.setattr(torchvision.models, "get_model", fetch)
    return tmp_path / "photos"


def test_published_weights_say_themselves_what_they_take(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(available=2**30)
    monkeypatch.setattr(estimate.psutil, "virtual_memory", lambda: free)
    words = ["scan", "shufflenet_v2_x0_5", "--data", published, "--anyway", "--detector"]
    done = invoke(*words, CHEAP)
    assert "2 images of 2 classes, 224x224" in done.output
    assert "998 classes have no image" in done.output
    assert "no --mean" not in done.output
    assert re.search(
        "needs [1-9][0-9]* GB for one image .* 1000 classes, and 1 GB are", done.output
    )
    assert done.exit_code == 2


def test_published_weights_that_cannot_be_fetched(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(name: str, weights: Any) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", fetch)
    done = invoke("scan", "resnet18", "--data", published)
    assert "the weights of resnet18 could not be fetched (OSError: no route" in done.output
    assert "give that with --arch resnet18" in done.output


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (torch.rand(4, 1, 8, 8) * 255, [0, 1, 2, 3], "expected uint8, or floats in"),
        (torch.rand(1, 8, 8), [0], r"expected \(N, C, H, W\)"),
        (torch.rand(4, 1, 8, 8), [0, 1, 2, 10], "labels go from 0 to 10, expected 0 to 9"),
    ],
)
def test_misuse_from_python(poisoned: Any, images: Any, labels: Any, sentence: str) -> None:
    with pytest.raises((ModelError, ValueError), match=sentence):
        scan(poisoned.net, images, labels, detectors=[CHEAP])


def test_a_folder_of_grey_and_turned_pictures_is_read(tmp_path: Path) -> None:
    for name, mode in (("a", "L"), ("b", "RGB")):
        (tmp_path / "mixed" / name).mkdir(parents=True)
        Image.new(mode, (6, 4)).save(tmp_path / "mixed" / name / "0.png")
    turned = Image.Exif()
    turned[274] = 6  # stored on its side
    Image.new("L", (4, 6)).save(tmp_path / "mixed" / "a" / "1.png", exif=turned)
    album = read_folder(tmp_path / "mixed")
    assert album.images.pixels.shape == (3, 3, 4, 6)
    assert album.notes == ("grey and colour images are mixed; all are taken as RGB",)
