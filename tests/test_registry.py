"""Discovery that survives broken plugins, look-up that helps, specs that round-trip."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from annotated_types import Gt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter

from benchmark import hooks, registration
from benchmark.api import (
    Architecture,
    Attack,
    CodePoisoningAttack,
    Dataset,
    Defense,
    Plugin,
    PoisoningAttack,
    Share,
    hookimpl,
)
from benchmark.games.settings import LARGEST_SINGLE
from benchmark.registry import Entry, Failure, Registry
from benchmark.specs import (
    RegistryError,
    describe_type,
    identity,
    joined,
    label,
    parameters,
    parse,
    read,
    split_at,
    threat_or_stage,
    written,
)

REGISTRY = Registry()

HEADER = """
from dataclasses import dataclass
from benchmark import Count, PoisoningAttack, Repair, Share, hookimpl
"""

GOOD = (
    HEADER
    + '''
@dataclass
class Good(PoisoningAttack):
    """A good attack.

    More about it.
    """
    name, version = "{name}", 3
    share: Share = 0.5

    def trigger(self, images, rng):
        return images

@hookimpl
def register_attacks(register):
    register(Good)
'''
)

CLASS = (
    HEADER
    + '''
@dataclass
class Bad(PoisoningAttack):
    """A summary."""
    name = "bad"
    {line}

    def trigger(self, images, rng):
        return images

@hookimpl
def register_attacks(register):
    register(Bad)
'''
)

#: Broken plugin files, and what their failure must say.
BROKEN = {
    "import error": ("import no_such_module_anywhere", "no_such_module_anywhere"),
    "syntax error": ("def (:", "SyntaxError"),
    "raises": ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
    "exits": ("raise SystemExit('leaving')", "SystemExit: leaving"),
    "no hooks": ("x = 1", "no hook implementation"),
    "unknown hook": (
        HEADER + "@hookimpl\ndef register_atacks(register):\n    pass\n",
        "unknown hook register_atacks; there are register_attacks",
    ),
    "not a class": (
        HEADER + "@hookimpl\ndef register_attacks(register):\n    register('badnets')\n",
        "'badnets' is not a subclass of PoisoningAttack or CodePoisoningAttack",
    ),
    "wrong class": (
        HEADER + "@hookimpl\ndef register_defenses(register):\n    register(PoisoningAttack)\n",
        "PoisoningAttack'> is not a subclass of Sanitizer or Repair or Deployment",
    ),
    "abstract": (
        HEADER
        + '@dataclass\nclass Bad(Repair):\n    """A summary."""\n    name = "bad"\n'
        + "@hookimpl\ndef register_defenses(register):\n    register(Bad)\n",
        "class Bad: has no repair",
    ),
    "no docstring": (
        CLASS.replace('    """A summary."""\n', "").format(line="version = 1"),
        "class Bad: needs a docstring",
    ),
    "no dataclass": (
        CLASS.replace("@dataclass\n", "").format(line="version = 1"),
        "class Bad: must be decorated with @dataclass",
    ),
    "no name": (
        CLASS.replace('    name = "bad"\n', "").format(line="version = 1"),
        "class Bad: name must be",
    ),
    "odd name": (CLASS.format(line="name = 'Bad Name'"), "class Bad: name must be"),
    "odd version": (
        CLASS.format(line="version = '1.0'"),
        "class Bad: version must be a whole number from 1 to 10000, got '1.0'",
    ),
    "a date as version": (CLASS.format(line="version = 20240601"), "to 10000, got 20240601"),
    "no version": (CLASS.format(line="version = 0"), "to 10000, got 0"),
    "no paper": (CLASS.format(line="paper = None"), "class Bad: paper must be a text, got None"),
    "unknown threat": (
        CLASS.format(line="threat = 'stealth'"),
        "class Bad: threat must be poison-label or clean-label or code, got 'stealth'",
    ),
    "unknown stage": (
        HEADER
        + '@dataclass\nclass Bad(Repair):\n    """A summary."""\n'
        + "    name, stage = 'bad', 'observe'\n    def repair(self, *_):\n        yield\n"
        + "@hookimpl\ndef register_defenses(register):\n    register(Bad)\n",
        "class Bad: stage must be repair, which its base class says, got 'observe'",
    ),
    **{
        f"a parameter {field}": (
            CLASS.format(line=f"{field}: int = 3"),
            f"class Bad: no parameter may be called {field}, which means something else to every",
        )
        for field in ("m", "boost", "threat", "view", "state", "poison")
    },
    "a parameter name": (
        CLASS.format(line="name: str = 'bad'"),
        "class Bad: no parameter may be called name, which means something else to every Plugin",
    ),
    "hidden parameter": (
        CLASS.format(line="_steps: int = 3"),
        "class Bad: parameter '_steps' must begin with a letter and have only letters from A to Z",
    ),
    "odd letters": (CLASS.format(line="größe: int = 3"), "parameter 'größe' must begin with"),
    "odd type": (
        CLASS.format(line="sizes: dict = None"),
        "class Bad: parameter sizes is a dict, allowed are bool, int, float, str, a Literal",
    ),
    "nested lists": (CLASS.format(line="sizes: tuple[tuple[int, ...], ...] = ()"), "allowed are"),
    "taken name": (
        CLASS.format(line="name = 'badnets'"),
        "the name 'badnets' is taken by a plugin of poisongames 0.1.0; choose another name",
    ),
    "no default": (CLASS.format(line="side: int"), "parameter side needs a default"),
    "no number of classes": (
        CLASS.format(line="source: str = 'web'"),
        "class Bad: parameter source is a str, but it must be an int, as in source: Count = 1",
    ),
    "perhaps a plugin": (
        CLASS.format(line="base: PoisoningAttack | None = None"),
        "class Bad: parameter base is a PoisoningAttack or none, allowed are",
    ),
    "no plugin by default": (
        CLASS.format(line="base: PoisoningAttack = None"),
        "class Bad: parameter base is another plugin, and its default must be one, a PoisoningAtt",
    ),
    "cannot be built": (
        CLASS.format(line="def __post_init__(self): assert False, 'never'"),
        "class Bad: cannot be built with its defaults: AssertionError: never",
    ),
    "leaves as it is built": (
        CLASS.format(line="def __post_init__(self): raise SystemExit(0)"),
        "class Bad: cannot be built with its defaults: SystemExit: 0",
    ),
    "leaves instead of a default": (
        CLASS.format(line="sizes: list[int] = field(default_factory=exit)").replace(
            "import dataclass\n", "import dataclass, field\n"
        ),
        "bad: sizes has no default: SystemExit: None",
    ),
    "says nothing of itself": (
        "class Own(Exception):\n    def __str__(self): raise SystemExit\nraise Own",
        "Own: its text cannot be had",
    ),
    "raises for itself": (
        "class Own(BaseException): pass\nraise Own('on purpose')",
        "Own: on purpose",
    ),
    "hook changes a setting": (
        HEADER
        + "import torch\n@hookimpl\ndef register_attacks(register):\n"
        + "    torch.set_default_dtype(torch.float64)\n",
        "ChangedSetting: its import changes torch's default dtype; leave that as it is",
    ),
    "hook raises": (
        HEADER + "@hookimpl\ndef register_attacks(register):\n    1 / 0\n",
        "ZeroDivisionError",
    ),
}


def write(folder: Path, file: str, content: str) -> Path:
    path = folder / f"{file}.py"
    path.write_text(content)
    return path


def names(found: Registry) -> set[tuple[str, str]]:
    return {(entry.kind.__name__, entry.plugin.name) for entry in found.entries}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_listed_and_stops_nobody(case: str, tmp_path: Path) -> None:
    content, message = BROKEN[case]
    broken = write(tmp_path, "broken", content)
    good = write(tmp_path, "good", GOOD.format(name="good-one"))
    found = Registry([broken, good])
    (failure,) = found.failures
    assert (failure.name, failure.origin) == ("broken", str(broken))
    assert message in failure.error
    assert names(found) == names(REGISTRY) | {("Attack", "good-one")}


def test_a_missing_file_is_a_failure_too(tmp_path: Path) -> None:
    (failure,) = Registry([tmp_path / "gone.py"]).failures
    assert "no such file" in failure.error


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (failure,) = Registry([tmp_path]).failures
    assert f"{tmp_path} is a folder; name a file in it" in failure.error


def test_a_file_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    path = write(tmp_path, "good", GOOD.format(name="good"))
    (tmp_path / "link.py").symlink_to(path)
    found = Registry([path, tmp_path / "." / "good.py", tmp_path / "link.py"])
    assert found.failures == []
    assert found.paths == (path,)


def test_a_module_of_two_names_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_module(Fake)
    found = with_points(
        monkeypatch,
        FakePoint("a", "one", lambda: module, dist("one", "1.0")),
        FakePoint("b", "one", lambda: module, dist("one", "1.0")),
    )
    (failure,) = found.failures
    assert failure.error == "RegistryError: fake is registered already by another name"
    assert found.find(Attack, "fake") is Fake


#: What a file may set at its import, and how that is called; nothing where it is forgiven.
CHANGES = {
    "torch.set_default_dtype(torch.float64)": "torch's default dtype",
    "torch.set_default_device('meta')": "torch's default device",
    "torch.set_default_device('cuda')": "torch's default device",
    "torch.backends.fp32_precision = 'tf32'": "torch",
    "torch.backends.cudnn.rnn.fp32_precision = 'ieee'": "torch",
    "torch.set_grad_enabled(False)": "whether torch keeps gradients",
    "torch.set_num_threads(3)": "torch's number of threads",
    "torch.manual_seed(3)": "",
    "torch.use_deterministic_algorithms(True)": "whether torch is deterministic",
    "torch.set_flush_denormal(True)": "whether torch flushes denormal numbers",
    "torch.set_float32_matmul_precision('medium')": "torch's precision of products",
    "torch.autograd.set_detect_anomaly(True)": "whether torch looks for anomalies",
    "torch.backends.mkldnn.enabled = False": "torch.backends.mkldnn.enabled",
    "torch.backends.cudnn.benchmark = True": "torch.backends.cudnn.benchmark",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'": "torch's precision of products",
    "numpy.random.seed(3)": "",
    "numpy.seterr(all='raise')": "numpy's errors",
    "random.seed(3)": "",
    "sys.setrecursionlimit(80)": "",
    "os.environ['OMP_NUM_THREADS'] = '64'": "",
    "os.environ.clear()": "",
    "os.umask(0)": "the umask",
    "resource.setrlimit(resource.RLIMIT_CPU, (9999, -1))": "limits of resources",
    "gc.disable()": "when Python collects garbage",
    "socket.setdefaulttimeout(3)": "the default timeout of sockets",
    "signal.setitimer(signal.ITIMER_PROF, 900)": "timers",
    "signal.alarm(900)": "timers",
    "os.fsync = print": "parts of os",
    "builtins.sum = max": "parts of builtins",
    "numpy.mean = max": "parts of numpy",
    "torch.nn.functional.cross_entropy = lambda *_: 0": "parts of torch.nn.functional",
    "torch.Tensor.argmax = max": "parts of torch.Tensor",
    "torch.Tensor.of_mine = torch.of_mine = max": "",
    "del torch.nn.Module.eval": "parts of torch.nn.Module",
    "threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()": "which threads run",
    "subprocess.Popen(['sleep', '3600'])": "which child processes run",
    "os.chdir('/')": "the working directory",
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN)": "",
    "warnings.simplefilter('error')": "whether warnings are errors",
    "sys.stdout = None": "sys.stdout",
    "sys.stderr.close()": "sys.stderr",
}


#: Imports one file after the other, and says what came of each.
IMPORTING = """
import json, sys
from pathlib import Path
from benchmark.registry import Registry
from benchmark.unchanged import everything

Registry()
said, kept = [], sys.stdout
for file in sys.argv[2:]:
    before = [(one, one.get()) for one in everything()]
    found = Registry([Path(file), Path(sys.argv[1])])
    changed = [one.name for one, value in before if one.get() != value]
    names = [one.plugin.name for one in found.entries]
    said.append([[one.error for one in found.failures], "bad" in names, "good" in names, changed])
print(json.dumps(said), file=kept)
"""


def test_what_an_import_sets_is_put_back_and_the_plugin_is_refused(tmp_path: Path) -> None:
    """In another process, since tests have streams of their own."""
    head = (
        "import builtins, gc, numpy, os, random, resource, signal, socket, subprocess, sys, "
        "threading, time, torch, warnings\n" + GOOD.format(name="bad")
    )
    files = [write(tmp_path, f"bad{n}", f"{head}\n{line}\n") for n, line in enumerate(CHANGES)]
    good = write(tmp_path, "good", GOOD.format(name="good"))
    command = [sys.executable, "-c", IMPORTING, str(good), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (line, name), said in zip(CHANGES.items(), json.loads(done.stdout), strict=True):
        errors, is_bad_there, is_good_there, changed = said
        if name:
            (error,) = errors
            assert error.startswith(f"ChangedSetting: its import changes {name}"), line
            assert error.endswith("; leave that as it is")
        else:
            assert not errors, line
        assert (is_bad_there, is_good_there) == (not name, True)
        # What was closed is not what it was; it can be written to again. No thread can be ended.
        assert changed == ([name] if "close" in line or "Thread" in line else []), line


def test_a_distribution_that_sets_something_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> types.ModuleType:
        torch.set_default_dtype(torch.float64)
        return fake_module(Fake)

    found = with_points(monkeypatch, FakePoint("a", "one:a", load, dist("one", "1.0")))
    assert torch.get_default_dtype() == torch.float32
    assert found.entries == []
    (failure,) = found.failures
    assert "changes torch's default dtype" in failure.error


def test_what_a_module_registered_before_it_broke_stays(tmp_path: Path) -> None:
    content = GOOD.format(name="first") + "    register(int)\n"
    found = Registry([write(tmp_path, "half", content)])
    assert [failure.name for failure in found.failures] == ["half"]
    assert found.find(Attack, "first").version == 3


def test_asking_for_a_broken_plugin_says_why_it_is_missing(tmp_path: Path) -> None:
    found = Registry([write(tmp_path, "broken", "import no_such_module_anywhere")])
    with pytest.raises(RegistryError, match=r"broken\.py could not be loaded: ModuleNotFound"):
        found.find(Attack, "broken")


def test_an_entry_tells_summary_and_origin(tmp_path: Path) -> None:
    path = write(tmp_path, "good", GOOD.format(name="good"))
    (entry,) = [entry for entry in Registry([path]).entries if entry.plugin.name == "good"]
    assert (entry.summary, entry.origin, entry.kind) == ("A good attack.", str(path), Attack)


def test_of_two_files_of_one_name_the_second_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "first", GOOD.format(name="twin"))
    second = write(tmp_path, "second", GOOD.format(name="twin"))
    found = Registry([first, second])
    (failure,) = found.failures
    assert failure.origin == str(second)
    assert f"the name 'twin' is taken by a plugin of {first}; choose another" in failure.error
    assert found.create(Attack, "twin").name == "twin"


@dataclass
class Fake(PoisoningAttack):
    """An attack of nobody's."""

    name, version = "fake", 1

    def trigger(self, images: Any, rng: Any) -> Any:
        return images


@dataclass
class FakePoint:
    """What an entry point looks like from outside; `dist` has a name and a version."""

    name: str
    value: str
    load: Callable[[], types.ModuleType]
    dist: Any = None


def fake_module(*plugins: type[Plugin]) -> types.ModuleType:
    module = types.ModuleType("fake")

    @hookimpl
    def register_attacks(register: Callable[[type], None]) -> None:
        for plugin in plugins:
            register(plugin)

    module.register_attacks = register_attacks  # type: ignore[attr-defined]
    return module


def dist(name: str, version: str) -> Any:
    return types.SimpleNamespace(name=name, version=version)


def with_points(monkeypatch: pytest.MonkeyPatch, *points: FakePoint) -> Registry:
    monkeypatch.setattr(hooks, "entry_points", lambda group: list(points))
    return Registry()


def test_two_distributions_of_one_name_are_named_both(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_points(
        monkeypatch,
        FakePoint("a", "one:a", lambda: fake_module(Fake), dist("one", "1.0")),
        FakePoint("a", "two:a", lambda: fake_module(Fake), dist("two", "2.5")),
    )
    with pytest.raises(RegistryError, match=r"'fake', from one 1\.0 and two 2\.5"):
        found.find(Attack, "fake")


def test_a_distribution_found_twice_on_the_path_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = FakePoint("a", "one:a", lambda: fake_module(Fake), dist("one", "1.0"))
    assert with_points(monkeypatch, point, point).find(Attack, "fake") is Fake


def test_a_broken_distribution_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot_load() -> types.ModuleType:
        raise ImportError("built for another machine")

    found = with_points(
        monkeypatch,
        FakePoint("a-broken", "one:a", cannot_load, dist("one", "1.0")),
        FakePoint("b", "two:b", lambda: fake_module(Fake)),
    )
    assert found.find(Attack, "fake") is Fake
    (failure,) = found.failures
    assert failure == Failure("a-broken", "one 1.0", "ImportError: built for another machine")
    assert [entry.origin for entry in found.entries] == ["unknown"]


def test_ctrl_c_in_a_plugin_still_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> types.ModuleType:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_points(monkeypatch, FakePoint("a", "one:a", interrupted))


def test_this_checkout_loads_whole() -> None:
    assert REGISTRY.failures == []


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        (Attack, "badnet", "unknown attack 'badnet'; did you mean 'badnets'?"),
        (Attack, "zzz", r"unknown attack 'zzz' \(there are: a-blend, "),
        (Defense, "badnets", "unknown defense 'badnets'"),
        (Attack, "badnets:sid=0.1", r"badnets unknown parameter 'sid'; did you mean 'side'\?"),
        (Attack, "badnets:side=big", "badnets: side=big is not allowed: input should be a"),
        (Attack, "badnets:side=2", "side=2 is not allowed: .* less than or equal to 1"),
        (Attack, "badnets:side=nan", "side=nan is not allowed"),
        (Defense, "pivotal-tuning:lambda_p=inf", "lambda_p=inf is not allowed: it must be finite"),
        (
            Defense,
            "pivotal-tuning:lambda_p=1e300",
            r"lambda_p=1e300 is not allowed: it must lie between -3\.4e\+38 and 3\.4e\+38",
        ),
        (Attack, "badnets:side", "expected key=value, got 'side'"),
        (Attack, "badnets,m=5", "settings follow the name and a colon, as in badnets:m=5"),
        (Attack, "m=5", "'m=5': settings follow the name and a colon"),
        (Attack, "badnets:side=0.1,side=0.2", "side is given twice"),
        (Attack, "badnets:side.x=1", "badnets: side is no plugin"),
        (Attack, "tsb:triggers=0", "triggers=0 is not allowed"),
        (Attack, "tsb:triggers=2.5", "triggers=2.5 is not allowed"),
        (Attack, "lsp:rate=1", "rate=1 is not allowed: input should be greater than 1"),
        (Attack, "lsp:base=nope", "unknown attack 'nope'"),
        (Attack, "lsp:base=pcb", "lsp: base must be a PoisoningAttack, pcb is none"),
        (Attack, "lsp:base.sid=1", r"lsp\.base unknown parameter 'sid'; did you mean 'side'"),
        (Attack, "lsp:base.side=7", r"lsp\.base: side=7 is not allowed"),
        (Defense, "pivotal-tuning:cosine=odd", "cosine=odd is not allowed: .*'signed'"),
        (Defense, "weight-decay:steps=ten", "steps=ten is not allowed"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(kind: type[Plugin], spec: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        REGISTRY.create(kind, spec)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("ValueError('not today')", "picky: not today"),
        ("KeyError('side')", "picky: KeyError: 'side'"),
        ("AssertionError('no')", "picky: AssertionError: no"),
        ("SystemExit(0)", "picky: SystemExit: 0"),
    ],
)
def test_an_error_of_the_plugins_own_names_it(raised: str, said: str, tmp_path: Path) -> None:
    content = GOOD.format(name="picky").replace(
        "    def trigger",
        f"    def __post_init__(self):\n        if self.share == 1:\n            raise {raised}\n\n"
        "    def trigger",
    )
    with pytest.raises(RegistryError, match=f"^{re.escape(said)}$"):
        Registry([write(tmp_path, "picky", content)]).create(Attack, "picky:share=1")


def test_a_threat_model_that_follows_parameters_is_one_of_three(tmp_path: Path) -> None:
    content = GOOD.format(name="odd").replace(
        "    def trigger",
        "    threat = property(lambda self: 'code' if self.share < 1 else 'all')\n\n"
        "    def trigger",
    )
    found = Registry([write(tmp_path, "odd", content)])
    assert found.create(Attack, "odd").threat == "code"
    with pytest.raises(RegistryError, match=r"^odd: threat must be poison-label or .* got 'all'$"):
        found.create(Attack, "odd:share=1")


def test_without_docstrings_none_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with PYTHONOPTIMIZE=2, where Python drops them all."""
    monkeypatch.setattr(Fake, "__doc__", None)
    with pytest.raises(RegistryError, match="class Fake: needs a docstring"):
        registration.check(Fake, (PoisoningAttack,))
    flags = types.SimpleNamespace(optimize=2)
    monkeypatch.setattr(registration, "sys", types.SimpleNamespace(flags=flags))
    registration.check(Fake, (PoisoningAttack,))


def test_parse_splits_names_from_settings() -> None:
    assert parse("plain") == ("plain", {})
    assert parse("a-b:x=1,y.z=2=3,w=") == ("a-b", {"x": "1", "y.z": "2=3", "w": ""})


def test_brackets_and_quotes_keep_commas_together() -> None:
    spec = "a:x=[1,2],y=(red, green),z='1,2',w=\"a(\",v=((b,c),d)"
    expected = {"x": "[1,2]", "y": "(red, green)", "z": "'1,2'", "w": '"a("', "v": "((b,c),d)"}
    assert parse(spec) == ("a", expected)
    assert joined("a", expected) == spec
    assert split_at("+", "a:x=(1+2)+b:y=[3+4]") == ["a:x=(1+2)", "b:y=[3+4]"]
    for text, missing in [("a:x=[1,2", "]"), ("a:x='1", "'"), ("a:x=1)", "an opening bracket")]:
        with pytest.raises(RegistryError, match=re.escape(f"{missing} is missing")):
            parse(text)


@dataclass
class Rich(PoisoningAttack):
    """Parameters of all types that are allowed."""

    name, version = "rich", 1
    layers: tuple[int, ...] = (1, 2)
    rates: list[Share] = field(default_factory=list)
    pair: tuple[str, float] = ("a", 0.5)
    limit: Annotated[int, Field(ge=2)] | None = None
    words: tuple[str, ...] | None = None
    caption: str = "one, two"

    def trigger(self, images: Any, rng: Any) -> Any:
        return images


@pytest.fixture
def rich(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = with_points(monkeypatch, FakePoint("a", "a", lambda: fake_module(Rich), dist("a", "1")))
    assert not found.failures
    return found


@pytest.mark.parametrize(
    ("text", "value", "label_of"),
    [
        ("layers=[3, 4,5]", (3, 4, 5), "layers=[3,4,5]"),
        ("layers=[]", (), "layers=[]"),
        ("rates=[0.5,1]", [0.5, 1.0], "rates=[0.5,1.0]"),
        ("pair=[(x,y), 2]", ("x,y", 2.0), "pair=[(x,y),2.0]"),
        ("limit=7", 7, "limit=7"),
        ("limit=none", None, ""),
        ("words=[]", (), "words=[]"),
        ("words=['a, b',c+d]", ("a, b", "c+d"), "words=[(a, b),(c+d)]"),
        ('caption="a, b"', "a, b", "caption=(a, b)"),
        ("caption=(a) or (b)", "(a) or (b)", "caption=((a) or (b))"),
        ("caption=", "", "caption="),
    ],
)
def test_lists_nothing_and_texts_with_commas(
    text: str, value: object, label_of: str, rich: Registry
) -> None:
    plugin = rich.create(Attack, f"rich:{text}")
    assert getattr(plugin, text.split("=")[0]) == value
    assert label(plugin) == (f"rich:{label_of}" if label_of else "rich")
    again = rich.create(Attack, label(plugin))
    assert identity(again) == identity(plugin)
    assert json.loads(json.dumps(identity(plugin))) == identity(plugin), "as records hold it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers=[1,x]", r"layers=\[1,x\] is not allowed: input should be a valid integer"),
        ("rates=[2]", "less than or equal to 1"),
        ("rates=[nan]", "is not allowed"),
        ("pair=[a,-1e39]", "it must lie between"),
        ("limit=1", "greater than or equal to 2"),
        ("caption=<b>", "'<' in a text"),
    ],
)
def test_wrong_items_are_refused(text: str, message: str, rich: Registry) -> None:
    with pytest.raises(RegistryError, match=message):
        rich.create(Attack, f"rich:{text}")


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=12))
@example(")(")
@example("a) and (b")
@example("''")
def test_any_text_that_is_allowed_is_read_again(text: str) -> None:
    try:
        value = read(str, written(text))
    except RegistryError:  # markup, or a bracket without the other one
        assert set(text) & set("<>\"'`&\\()[]")
        return
    assert value == text
    assert parse(f"a:x={written(text)}") == ("a", {"x": written(text)})
    assert read(tuple[str, ...], written([text, "b"])) == (text, "b")


def test_settings_reach_nested_plugins() -> None:
    spec = "pcb:base=lsp,base.base=tsb,base.base.triggers=3,share=0.5"
    deep = REGISTRY.create(Attack, spec)
    assert label(deep) == spec
    assert identity(deep)["params"]["share"] == 0.5
    base = deep.base.base  # type: ignore[attr-defined]
    assert (base.name, base.triggers) == ("tsb", 3)
    short = REGISTRY.create(Attack, "lsp:base.side=0.25")
    assert (short.base.name, short.base.side) == ("badnets", 0.25)  # type: ignore[attr-defined]
    assert REGISTRY.create(Attack, "lsp").base.side == 3 / 32  # type: ignore[attr-defined]


def plugins(kind: type[Plugin] = Plugin) -> list[Entry]:
    return [entry for entry in REGISTRY.entries if issubclass(entry.plugin, kind)]


def ids(entry: Entry) -> str:
    return entry.plugin.name


def round_trip(entry: Entry, plugin: Plugin) -> None:
    text = label(plugin)
    again = REGISTRY.create(entry.kind, text)
    assert type(again) is type(plugin)
    assert identity(again) == identity(plugin)
    assert label(again) == text


#: What some plugins cannot do without.
REQUIRED = {"folder": ":path=somewhere/images"}


@pytest.mark.parametrize("entry", plugins(), ids=ids)
def test_defaults_round_trip(entry: Entry) -> None:
    spec = entry.plugin.name + REQUIRED.get(entry.plugin.name, "")
    plugin = REGISTRY.create(entry.kind, spec)
    assert label(plugin) == spec
    found = identity(plugin)
    assert (found["name"], found["version"]) == (entry.plugin.name, entry.plugin.version)
    assert list(found["params"]) == list(parameters(entry.plugin))
    round_trip(entry, plugin)


def test_what_has_no_default_must_be_given() -> None:
    with pytest.raises(RegistryError, match=r"folder: .*'path'"):
        REGISTRY.create(Dataset, "folder")


def takes_a_plugin(entry: Entry) -> bool:
    hints = [hint for hint, _ in parameters(entry.plugin).values()]
    return any(isinstance(hint, type) and issubclass(hint, Plugin) for hint in hints)


def values(hint: Any, depth: int) -> st.SearchStrategy[Any]:
    """All values that a parameter's type allows, read from its JSON schema."""
    if isinstance(hint, type) and issubclass(hint, Plugin):
        kind = Attack if issubclass(hint, Attack) else Defense
        fitting = [e for e in plugins(kind) if issubclass(e.plugin, hint)]
        if depth == 0:
            fitting = [e for e in fitting if not takes_a_plugin(e)]
        # Soft labels do not nest.
        fitting = [e for e in fitting if hint is Attack or e.plugin.name != "lsp"]
        return st.sampled_from(fitting).flatmap(lambda e: instances(e, depth - 1))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of([values(part, depth) for part in typing.get_args(hint)])
    schema = TypeAdapter(hint).json_schema()
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if schema["type"] == "boolean":
        return st.booleans()
    if schema["type"] == "integer":
        return st.integers(low, high)
    if schema["type"] == "string":
        return st.from_regex(schema["pattern"], fullmatch=True)
    assert schema["type"] == "number", hint
    return st.floats(
        -LARGEST_SINGLE if low is None else low,
        LARGEST_SINGLE if high is None else high,
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
        allow_nan=False,
    )


def instances(entry: Entry, depth: int = 2) -> st.SearchStrategy[Plugin]:
    fields = {name: values(hint, depth) for name, (hint, _) in parameters(entry.plugin).items()}
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: entry.plugin(**chosen))


@pytest.mark.parametrize("entry", [*plugins(Attack), *plugins(Defense)], ids=ids)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_parameters_round_trip(entry: Entry, data: st.DataObject) -> None:
    round_trip(entry, data.draw(instances(entry)))


def test_identity_tells_any_two_settings_apart() -> None:
    specs = ["lsp", "lsp:rate=2", "lsp:base=tsb", "lsp:base.side=0.5", "badnets", "c-badnets"]
    found = [identity(REGISTRY.create(Attack, spec)) for spec in specs]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("spec", ["lsp:rate=inf", "lsp:rate=nan", "lsp:rate=1"])
def test_values_that_json_cannot_hold_are_refused(spec: str) -> None:
    with pytest.raises(RegistryError, match="is not allowed"):
        REGISTRY.create(Attack, spec)


def test_soft_labels_do_not_nest() -> None:
    with pytest.raises(RegistryError, match="base must have hard labels, lsp has soft ones"):
        REGISTRY.create(Attack, "lsp:base=lsp")


#: From METHODS 2 and 3: who needs what, and at which stage a defense works.
NATURES = {
    "badnets": "poison-label",
    "c-badnets": "clean-label",
    "lc": "clean-label",
    "randsq": "poison-label",
    "a-blend": "poison-label",
    "tsb": "poison-label",
    "advclean": "clean-label",
    "wanet": "clean-label",
    "wanet-original": "code",
    "lsp": "code",
    "pcb": "code",
    "spectral-signatures": "sanitize",
    "weight-decay": "repair",
    "pivotal-tuning": "repair",
    "fine-pruning": "repair",
    "strip": "deploy",
}


@pytest.mark.parametrize(("name", "expected"), NATURES.items())
def test_threat_models_and_stages(name: str, expected: str) -> None:
    (entry,) = [entry for entry in REGISTRY.entries if entry.plugin.name == name]
    assert threat_or_stage(entry.plugin) == expected


def test_threat_models_follow_parameters() -> None:
    def threat(spec: str) -> str:
        return REGISTRY.create(Attack, spec).threat

    assert threat("wanet:clean_label=False") == "poison-label"
    # Soft labels take the attacker's own training, whatever the base (METHODS 2.8).
    assert threat("lsp:base=c-badnets") == "code"
    assert REGISTRY.create(Attack, "lsp:base=c-badnets").clean_label  # type: ignore[attr-defined]
    assert not REGISTRY.create(Attack, "lsp").clean_label  # type: ignore[attr-defined]


def test_every_attack_declares_one_of_three_threats() -> None:
    for entry in plugins(Attack):
        threat = entry.plugin().threat  # type: ignore[attr-defined]
        assert threat in {"poison-label", "clean-label", "code"}
        assert issubclass(entry.plugin, CodePoisoningAttack) <= (threat == "code")


def test_other_kinds_have_neither_threat_nor_stage() -> None:
    for kind in (Architecture, Dataset):
        assert all(threat_or_stage(entry.plugin) == "" for entry in plugins(kind))


def test_types_are_described_in_words() -> None:
    hints = {name: hint for name, (hint, _) in parameters(REGISTRY.find(Attack, "tsb")).items()}
    assert describe_type(hints["side"]) == "float, from 0 to 1"
    assert describe_type(hints["triggers"]) == "int, at least 1"
    tuning = parameters(REGISTRY.find(Defense, "pivotal-tuning"))
    assert describe_type(tuning["cosine"][0]) == "signed or abs or square"
    # Limits of other libraries have no description.
    assert describe_type(Annotated[int, Gt(0)]) == "int"
