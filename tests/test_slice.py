"""A protocol is played on a machine that has only what travelled there, and comes back whole."""

from __future__ import annotations

import importlib.util
import json
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from data.small_sets import write_parquet

from benchmark import protocol as protocols
from benchmark.registry import Registry
from benchmark.runs.plan import plan
from benchmark.verification.submit import submit
from benchmark.verification.verify import verify

ROOT = Path(__file__).parent.parent

PROTOCOL = """
name = "small-cifar"
summary = "a stand-in for CIFAR-10, hardly trained"
architecture = "resnet-small:width=16"
recipe = "standard"

[splits]
dataset = "cifar10"
train = 100
trusted = 20
auxiliary = 20
validation = 40
test = 60

[augmentation]
pad = 1

[recipes.standard]
epochs = 3
batch_size = 25
learning_rate = 0.1

[robustness]
budget = 0.5
shares = [0.2]
interval = 2
seeds = 1
defenses = ["weight-decay:steps=4,batch_size=10", "strip:overlays=4", "waits"]

[robustness.default_m]
poison-label = 20
clean-label = 20
code = 20

[[robustness.attacks]]
attack = "badnets:side=0.25"
"""

#: A repair that takes all the time there is, until somebody lets it go on.
WAITS = '''
import os, time
from dataclasses import dataclass
from benchmark import Repair, hookimpl

@dataclass
class Waits(Repair):
    """Wait for a file, then change a little."""
    name, version, paper = "waits", 1, "none"

    def repair(self, model, trusted, rng):
        while not os.path.exists(os.environ["GO_ON"]):
            time.sleep(0.05)
        for _ in range(4):
            for weight in model.parameters():
                weight.data.mul_(0.99)
            yield

@hookimpl
def register_defenses(register):
    register(Waits)
'''


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slice_script", ROOT / "scripts" / "slice.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, *words: object) -> str | int | None:
    """What the script exits with: a number, a sentence, or None."""
    before, sys.argv = sys.argv, ["slice.py", *map(str, words)]
    try:
        script.main()
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return None


def sentence(found: str | int | None) -> str:
    """A refusal that is one line."""
    assert isinstance(found, str)
    assert found.startswith("error: ")
    assert "\n" not in found
    return found


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes that can be told apart, in the shape of CIFAR-10."""
    folder, rng = tmp_path_factory.mktemp("sets") / "cifar10", np.random.default_rng(0)
    patterns = rng.integers(40, 216, (10, 32, 32, 3))
    for split, count in (("train", 140), ("test", 100)):
        labels = [row % 10 for row in range(count)]
        noise = rng.integers(-20, 20, (count, 32, 32, 3))
        images = (patterns[labels] + noise).astype(np.uint8)
        names = [f"thing {label}" for label in range(10)]
        write_parquet(folder / f"{split}-00000-of-00001.parquet", images, labels, names)
    return folder


@pytest.fixture(scope="module")
def travel(script: ModuleType, cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that travels, packed without network and in small shards."""
    folder = tmp_path_factory.mktemp("home") / "travel"
    words = ("pack", "--to", folder, "--data", cifar, "--shard-mb", "0.25", "--wheels")
    assert run(script, *words) is None
    return folder


def carry(travel: Path, to: Path, *names: str) -> Path:
    """A working tree there with some of what was packed."""
    for name in names:
        for path in (path for path in (travel / name).rglob("*") if path.is_file()):
            target = to / "travel" / path.relative_to(travel)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return to / "travel"


def no_wheels(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Neither build nor fetch wheels, but note how that would be done."""
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(script, "python", lambda *words, fails, env=None: called.append(words))
    return called


def names(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "records").glob("*.json")}


class Machine:
    """A machine there, of which only the installation and the playing are played."""

    def __init__(self, script: ModuleType, travel: Path, root: Path) -> None:
        self.script, self.travel, self.root = script, travel, root
        self.out = root / "out"
        self.results = root / "work" / "runs" / "digits-v1"
        self.calls: list[list[str]] = []
        self.timeouts: list[float] = []
        self.ends: int | None = 0

    @property
    def shards(self) -> list[str]:
        return [path.name for path in sorted(self.travel.glob("shard-*"))]

    def carry(self, *names: str) -> Path:
        """A fresh copy of the tree, with nothing else than these."""
        shutil.rmtree(self.root / "tree", ignore_errors=True)
        return carry(self.travel, self.root / "tree", *names)

    def call(self, command: list[object], env: dict[str, str], timeout: float) -> int:
        """In place of `subprocess.call`."""
        self.calls.append([*map(str, command)])
        self.timeouts.append(timeout)
        if self.ends is None:
            raise subprocess.TimeoutExpired("poisongames", timeout)
        return self.ends

    def data(self) -> list[Path]:
        """The folders of data that were given."""
        return [Path(call[call.index("--data-dir") + 1]) for call in self.calls]

    def play(
        self, *played: str, limit: str = "9m", options: tuple[object, ...] = ()
    ) -> str | int | None:
        paths = ("--from", self.root / "tree" / "travel", "--work", self.root / "work")
        words = (*paths, "--out", self.out, "--time-limit", limit, *options)
        return run(self.script, "play", *words, "--", "digits-v1", *played)

    def add(self, name: str, size: int) -> set[str]:
        """A record and `size` random bytes of evidence."""
        content = np.random.default_rng(len(name) + size).bytes(size)
        for file, text in (
            (f"evidence/{name}.npz", content),
            (f"records/{name}.json", json.dumps([name, size]).encode()),
        ):
            (self.results / file).parent.mkdir(parents=True, exist_ok=True)
            (self.results / file).write_bytes(text)
        return {f"evidence/{name}.npz", f"records/{name}.json"}

    def add_search(self, name: str) -> None:
        (self.results / "tuning").mkdir()
        (self.results / "tuning" / f"{name}.json").write_text("{}")

    def came(self) -> set[str]:
        return {name for one in self.out.glob("*.zip") for name in zipfile.ZipFile(one).namelist()}


@pytest.fixture
def machine(
    script: ModuleType, travel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    there = Machine(script, travel, tmp_path / "there")
    monkeypatch.setattr(script, "_install", lambda kit, work, env: None)
    monkeypatch.setattr(script.subprocess, "call", there.call)
    return there


# The whole way, with the real installation and the real command line.


def test_a_run_is_played_in_slices_and_can_be_submitted(
    script: ModuleType,
    travel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    (tmp_path / "small-cifar.toml").write_text(PROTOCOL)
    protocol = protocols.load(str(tmp_path / "small-cifar.toml"))
    cells = plan(protocol, Registry([tmp_path / "waits.py"]))
    known = next(cell.name for cell in cells if cell.defense.name == "strip")
    expected = {cell.name for cell in cells} - {known}
    monkeypatch.setattr(script, "RESERVE", 2.0)
    monkeypatch.setenv("GO_ON", str(tmp_path / "go-on"))
    (travel / "kit" / "done" / "records").mkdir(parents=True, exist_ok=True)
    (travel / "kit" / "done" / "records" / f"{known}.json").touch()
    shards = sorted(path.name for path in travel.glob("shard-*"))
    assert len(shards) >= 3

    def play(limit: str, *carried: str) -> tuple[Path, str]:
        tree, out = (Path(tempfile.mkdtemp(dir=tmp_path), name) for name in ("tree", "out"))
        carry(travel, tree, "kit", *carried)
        (tree / "benchmark").mkdir()  # what lies in the tree must not be played
        (tree / "benchmark" / "__init__.py").write_text("raise RuntimeError('not installed')")
        monkeypatch.chdir(tree)
        paths = ("--from", "travel", "--work", tmp_path / "work", "--out", out)
        played = (tmp_path / "small-cifar.toml", "--plugin", tmp_path / "waits.py")
        code = run(script, "play", *paths, "--time-limit", limit, "--", *played, "--workers", 1)
        said = "".join(capfd.readouterr())
        assert not code, said
        return out, said

    for shard in shards[:-1]:
        assert f"{shards[-1]} to come" in play("9m", shard)[1]
    for seconds in (16, 30, 60, 120):  # a slow machine comes less far
        came, said = play(f"{seconds}s", *shards[-1:])
        assert "time limit reached" in said
        if came.is_dir():
            break
    first = tmp_path / "first"
    assert run(script, "collect", came, "--run", first) is None
    assert set() < names(first) < expected
    (tmp_path / "go-on").touch()
    rest, said = play("9m")
    assert f"{len(expected)} of {len(expected)} cells" in said

    both = tmp_path / "both"
    assert run(script, "collect", came, rest, "--run", both) is None
    assert names(both) == expected
    assert {path.name for path in both.iterdir()} == {"records", "evidence"}
    second = tmp_path / "second"
    assert run(script, "collect", rest, "--run", second) is None
    assert names(second) == expected - names(first)

    found = verify(both).findings
    assert {finding.field for finding in found} == {"protocol.name"}
    monkeypatch.setattr(protocols, "released", lambda: {protocol.name: protocol.sha256})
    monkeypatch.setattr(protocols, "load", lambda name: protocol)
    assert verify(both).findings == []
    assert submit(both, tmp_path / "boards").new == len(expected)


# What travels there.


def test_shards_are_small_and_make_the_data_again(
    travel: Path, cifar: Path, machine: Machine
) -> None:
    shards = sorted(travel.glob("shard-*/*"))
    assert all(path.stat().st_size <= 2**18 for path in shards)
    for shard in [*shards[::-1], shards[0]]:  # in any order, and one of them twice
        machine.carry("kit", shard.parent.name)
        assert machine.play() in (None, 0)
    (given,) = {*machine.data()}
    for file in cifar.iterdir():
        assert (given / "cifar10" / file.name).read_bytes() == file.read_bytes()
    machine.carry("kit")
    assert machine.play() == 0


def test_a_damaged_shard_is_refused_and_can_be_sent_again(machine: Machine) -> None:
    source = machine.carry("kit", "shard-01")
    (shard,) = source.glob("shard-01/*")
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert f"{shard} is damaged; carry it again" in sentence(machine.play())
    machine.carry("kit", "shard-01")
    assert machine.play() is None


def test_nothing_is_played_without_all_data(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.carry("kit", "shard-00", "shard-02")
    assert machine.play() is None
    assert "shard-01, shard-03 to come" in capsys.readouterr().out
    machine.carry("kit")
    assert "shard-01, shard-03 of the data never arrived" in sentence(machine.play())
    assert machine.calls == []


def test_a_change_of_the_code_sends_no_data_again(
    script: ModuleType,
    machine: Machine,
    cifar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_wheels(script, monkeypatch)
    machine.carry("kit", *machine.shards)
    machine.play()
    copied = tmp_path / "sets" / "cifar10"
    shutil.copytree(cifar, copied, copy_function=shutil.copyfile)  # with another time
    machine.travel = tmp_path / "travel-2"
    words = ("--data", copied, "--shard-mb", "0.25")
    assert run(script, "pack", "--to", machine.travel, *words) is None
    machine.carry("kit")
    assert machine.play() == 0
    assert len(machine.data()) == 2
    assert len({*machine.data()}) == 1


def test_other_data_of_the_same_name_do_not_mix(
    script: ModuleType,
    machine: Machine,
    cifar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first shard may be the same while a later one is another."""
    no_wheels(script, monkeypatch)
    changed = tmp_path / "sets" / "cifar10"
    changed.mkdir(parents=True)
    for file in cifar.iterdir():
        shutil.copy2(file, changed)
    train = changed / "train-00000-of-00001.parquet"
    train.write_bytes(train.read_bytes()[:-1] + b"?")
    shards = [path.name for path in sorted(machine.travel.glob("shard-*"))]
    machine.carry("kit", *shards)
    machine.play()
    machine.travel = tmp_path / "travel-2"
    words = ("--data", changed, "--shard-mb", "0.25", "--wheels")
    assert run(script, "pack", "--to", machine.travel, *words) is None
    machine.carry("kit", *shards)
    machine.play()
    given = machine.data()
    assert (given[1] / "cifar10" / train.name).read_bytes() == train.read_bytes()
    assert (given[0] / "cifar10" / train.name).read_bytes() != train.read_bytes()


def test_cells_of_boards_are_named_and_nothing_else(
    script: ModuleType, tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_wheels(script, monkeypatch)
    for board, name in (("a", "one-r0.01-s0"), ("b", "two")):
        (tmp_path / board / "records").mkdir(parents=True)
        (tmp_path / board / "records" / f"{name}.json").write_text("{}")
    machine.travel = tmp_path / "travel"
    boards = ("--done", tmp_path / "a", "--done", tmp_path / "b")
    assert run(script, "pack", "--to", machine.travel, *boards, "--wheels") is None
    source = machine.carry("kit")
    assert machine.play() == 0
    assert machine.calls[0][machine.calls[0].index("--done") + 1] == str(source / "kit" / "done")
    found = {
        path.name: path.read_bytes() for path in (source / "kit" / "done" / "records").iterdir()
    }
    assert found == {"one-r0.01-s0.json": b"", "two.json": b""}
    assert "--data-dir" not in machine.calls[0]
    # What an earlier packing left does not travel.
    assert run(script, "pack", "--to", machine.travel, "--wheels") is None
    assert not (machine.travel / "kit" / "done").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "nowhere/cifar10"), "--data nowhere/cifar10 holds no *.parquet"),
        (("--done", "nowhere"), "--done nowhere has no folder records"),
        (("--data", "sets", "--shard-mb", "0"), "--shard-mb 0.0 is no size"),
    ],
)
def test_what_cannot_be_packed_is_said(
    words: tuple[str, ...],
    message: str,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    no_wheels(script, monkeypatch)
    assert message in sentence(run(script, "pack", "--to", "travel", *words))


# What is installed there.


def test_wheels_of_this_environment_are_fetched_for_another(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = no_wheels(script, monkeypatch)
    assert run(script, "pack", "--to", tmp_path / "travel", "--python", "3.13") is None
    _, fetch = called
    assert {"download", "--no-deps", "--only-binary=:all:", "--python-version=3.13"} <= {*fetch}
    assert script.needs("pydantic") == {word for word in fetch if "==" in str(word)}


def test_pydantic_needs_nothing_but_the_wheels_that_travel(
    script: ModuleType, tmp_path: Path
) -> None:
    wanted = {name.split("==")[0] for name in script.needs("pydantic")}

    def imports(*names: str) -> bool:
        """In a Python that has the standard library and these distributions."""
        place = tmp_path / str(len(names))
        place.mkdir()
        for found in map(distribution, names):
            for top in {file.parts[0] for file in found.files or ()}:
                (place / top).symlink_to(str(found.locate_file(top)))
        code = (
            f"import sys; sys.path.append({str(place)!r}); import pydantic as p; p.TypeAdapter(int)"
        )
        return subprocess.run([sys.executable, "-SIc", code], capture_output=True).returncode == 0

    assert imports(*wanted)
    assert not imports(*wanted - {"pydantic-core"})


def wheel(folder: Path, name: str, code: str, entry: str = "") -> None:
    """A wheel of one module, and its entry points."""
    info = f"{name}-99.dist-info"
    with zipfile.ZipFile(folder / f"{name}-99-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", entry)
        archive.writestr(f"{info}/RECORD", "")


def test_what_cannot_be_imported_is_named(script: ModuleType, travel: Path, tmp_path: Path) -> None:
    source = carry(travel, tmp_path, "kit")
    wheel(source / "kit" / "wheels", "pydantic", "import a_core_that_stayed_at_home")
    paths = ("--from", source, "--work", tmp_path / "work", "--out", tmp_path / "out")
    for _ in range(2):  # what failed once is tried again
        code = run(script, "play", *paths, "--time-limit", "5m", "--", "digits-v1")
        assert "No module named 'a_core_that_stayed_at_home'" in sentence(code)
        assert "pack its wheel too" in str(code)
    wrong = source / "kit" / "wheels" / "pydantic-99-py3-none-any.whl"
    wrong.write_bytes(b"half of it")
    code = run(script, "play", *paths, "--time-limit", "5m", "--", "digits-v1")
    assert "the wheels cannot be installed here" in sentence(code)
    assert "pydantic" in str(code)
    wrong.unlink()
    point = "[poisongames]\nmine = my_plugin\n"
    wheel(source / "kit" / "wheels", "my_plugin", "import what_only_this_plugin_needs", point)
    code = run(script, "play", *paths, "--time-limit", "5m", "--", "digits-v1")
    assert "what_only_this_plugin_needs" in sentence(code)


def test_wheels_are_installed_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = no_wheels(script, monkeypatch)
    monkeypatch.setattr(script.subprocess, "call", lambda command, env, timeout: 0)
    wheels = tmp_path / "travel" / "kit" / "wheels"
    wheels.mkdir(parents=True)
    wheel(wheels, "poisongames", "")
    paths = ("--from", tmp_path / "travel", "--work", tmp_path / "work", "--out", tmp_path / "out")
    play = ("play", *paths, "--time-limit", "5m", "--", "digits-v1")
    assert [run(script, *play) for _ in range(3)] == [0, 0, 0]
    assert sum("install" in words for words in called) == 1
    wheel(wheels, "pydantic", "")
    assert run(script, *play) == 0
    assert sum("install" in words for words in called) == 2


def test_a_kit_without_poisongames_is_refused(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "travel" / "kit" / "wheels").mkdir(parents=True)
    wheel(tmp_path / "travel" / "kit" / "wheels", "pydantic", "")
    paths = ("--from", tmp_path / "travel", "--work", tmp_path / "work", "--out", tmp_path / "out")
    code = run(script, "play", *paths, "--time-limit", "5m", "--", "digits-v1")
    assert "holds no wheel of poisongames" in sentence(code)


# What comes back.


@pytest.mark.parametrize(("ends", "code"), [(0, 0), (3, 0), (2, 2), (130, 130), (None, 0)])
def test_how_it_ends(machine: Machine, ends: int | None, code: int) -> None:
    """`None` is a run that never ends by itself; whatever it is, results are packed."""
    machine.carry("kit", *machine.shards)
    machine.add("one", 100)
    machine.ends = ends
    assert machine.play("--attack", "badnets") == code
    assert machine.came() == {"records/one.json", "evidence/one.npz"}
    (call,) = machine.calls
    assert call[1:8] == ["-P", "-m", "benchmark.cli", "run", "digits-v1", "--attack", "badnets"]


def test_time_is_kept_for_packing(script: ModuleType, machine: Machine) -> None:
    machine.carry("kit", *machine.shards)
    assert machine.play(limit="9m") == 0
    (call,) = machine.calls
    limit = int(call[call.index("--time-limit") + 1].removesuffix("s"))
    assert 500 < limit <= 540 - script.RESERVE < 540
    assert limit < machine.timeouts[0] < 540
    assert "--time-limit 20s leaves no time" in sentence(machine.play(limit="20s"))


def test_parts_keep_to_their_limits_and_nothing_is_lost(
    script: ModuleType, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.carry("kit", *machine.shards)
    expected = set()
    for number in range(30):
        expected |= machine.add(f"cell-{number:02}", 7_000)
    machine.add_search("weight-decay-r0.01")
    (machine.results / "evidence" / "in-flight.npz").write_bytes(b"no record yet")
    (machine.results / "artifacts").mkdir()
    (machine.results / "artifacts" / "model.safetensors").write_bytes(b"large")
    found: list[str] = []
    for turn in range(4):
        machine.out = tmp_path / f"back-{turn}"
        machine.out.mkdir()
        (machine.out / "log.txt").touch()  # somebody else's
        limits = ("--parts", 3, "--part-mb", 40_000 / 2**20)
        assert machine.play(options=limits) == 0
        parts = sorted(machine.out.glob("*.zip"))
        assert len(parts) == 2
        assert all(part.stat().st_size <= 40_000 for part in parts)
        assert all(
            set(part.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for part in parts
        )
        for part in parts:
            held = zipfile.ZipFile(part).namelist()
            # A record never comes without its evidence.
            records = {Path(name).stem for name in held if name.startswith("records/")}
            assert records == {Path(name).stem for name in held if name.startswith("evidence/")}
            found += held
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 results are left")
    assert sorted(found) == sorted(expected | {"tuning/weight-decay-r0.01.json"})
    machine.out = tmp_path / "nothing"
    assert machine.play() == 0
    assert not machine.out.exists()
    machine.out = tmp_path / "again"
    assert machine.play(options=("--again",)) == 0
    assert machine.came() == set(found)
    # A cell that was played again is another result.
    machine.add("cell-00", 50)
    machine.out = tmp_path / "replayed"
    assert machine.play() == 0
    assert machine.came() == {"records/cell-00.json", "evidence/cell-00.npz"}


def test_a_result_that_fits_into_no_part_is_counted(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.carry("kit", *machine.shards)
    machine.add("large", 50_000)
    machine.add("small", 100)
    assert machine.play(options=("--part-mb", 20_000 / 2**20)) == 0
    assert machine.came() == {"records/small.json", "evidence/small.npz"}
    assert "1 results are left for the next command, or for larger parts" in capsys.readouterr().out


def part(path: Path, *members: tuple[str | zipfile.ZipInfo, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path.parent


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


GOOD = ("records/good.json", "{}")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("../x", "{}"), "holds '../x', which is no file of a result"),
        (("records/../../x.json", "{}"), "which is no file of a result"),
        (("/records/x.json", "{}"), "which is no file of a result"),
        (("records/..json/x.json", "{}"), "which is no file of a result"),
        (("records/.hidden.json", "{}"), "which is no file of a result"),
        (("records/x.json.py", "{}"), "which is no file of a result"),
        (("artifacts/victims/x.safetensors", ""), "which is no file of a result"),
        (("evidence/", ""), "which is no file of a result"),
        ((link("evidence/x.npz"), "/etc/passwd"), "which is no file of a result"),
        (("records/old.json", "[2]"), "has another records/old.json"),
        (("records/good.json", "[2]"), "has another records/good.json"),
    ],
)
def test_what_is_no_result_is_refused_whole(
    bad: tuple[Any, str], message: str, script: ModuleType, tmp_path: Path
) -> None:
    run_there = tmp_path / "runs" / "mine"
    (run_there / "records").mkdir(parents=True)
    (run_there / "records" / "old.json").write_text("[1]")
    part(tmp_path / "out" / "digits-v1-0.zip", GOOD)
    part(tmp_path / "out" / "digits-v1-1.zip", bad)
    code = run(script, "collect", tmp_path / "out", "--run", run_there)
    assert message in sentence(code)
    assert "digits-v1-1.zip" in str(code)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()].count("good.json") == 0
    assert (run_there / "records" / "old.json").read_text() == "[1]"
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("x")]


def test_parts_are_collected_once_and_may_come_twice(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = ("records/old.json", "[1]")
    one = part(tmp_path / "out-1" / "digits-v1-0.zip", GOOD)
    two = part(tmp_path / "out-2" / "digits-v1-1.zip", GOOD, old)
    assert run(script, "collect", one, "--run", tmp_path / "run") is None
    # A command that had nothing new left its folder empty.
    (tmp_path / "out-0").mkdir()
    places = (tmp_path / "out-0", two / "digits-v1-1.zip", one)
    assert run(script, "collect", *places, "--run", tmp_path / "run") is None
    assert capsys.readouterr().out.splitlines()[-1].endswith("1 new files, 1 were there")
    assert {path.name for path in (tmp_path / "run").rglob("*.*")} == {"good.json", "old.json"}


def test_parts_that_are_not_whole_or_of_two_protocols_are_refused(
    script: ModuleType, tmp_path: Path
) -> None:
    out = part(tmp_path / "out" / "digits-v1-0.zip", GOOD)
    whole = (out / "digits-v1-0.zip").read_bytes()
    part(tmp_path / "out" / "cifar10-v2-0.zip", GOOD)
    code = run(script, "collect", out, "--run", tmp_path / "run")
    assert "cifar10-v2 and digits-v1" in sentence(code)
    (out / "cifar10-v2-0.zip").unlink()
    for broken in (whole[:-10], whole[:40], b"", whole.replace(b"{}", b"[]", 1)):
        (out / "digits-v1-0.zip").write_bytes(broken)
        code = run(script, "collect", out, "--run", tmp_path / "run")
        assert "digits-v1-0.zip is damaged" in sentence(code)
    (tmp_path / "empty").mkdir()
    for place in ("empty", "missing"):
        assert place in sentence(
            run(script, "collect", tmp_path / place, "--run", tmp_path / "run")
        )
    assert not (tmp_path / "run").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str], script: ModuleType) -> None:
    assert run(script, "--help") == 0
    said = capsys.readouterr().out
    for words in ("pack --to travel", "play --from travel", "collect OUT-1", "poisongames submit"):
        assert words in said
