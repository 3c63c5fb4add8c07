"""Protocols: a hash of all that is fixed, errors that name the field, seeds from names alone."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import benchmark.protocol
from benchmark.protocol import Protocol, ProtocolError, digest, load, released, withdrawn

FONE_GAME = Path(benchmark.protocol.__file__).parent / "protocols"

TOML = """
name = "tiny-v1"
summary = "A \\"protocol\\" – of this test"
architecture = "resnet-small:width=16"
recipe = "short"

[splits]
dataset = "digits"
train = 100
trusted = 20
auxiliary = 10
validation = 10
test = 10

[augmentation]
pad = 1
flip = true

[recipes.short]
epochs = 1
batch_size = 32
learning_rate = 0.1

[recipes.long]
epochs = 9
batch_size = 32
learning_rate = 0.1
warmup = 0.5

[robustness]
budget = 0.02
shares = [0.05, 0.1]
interval = 10
seeds = 2
defenses = ["weight-decay", "strip:overlays=20"]

[robustness.default_m]
poison-label = 5
clean-label = 6
code = 7

[[robustness.attacks]]
attack = "badnets"
m = 4
boost = 2

[detectability]
models = 3
repeats = 2
share = 0.05
detectors = ["abs"]

[[detectability.attacks]]
attack = "tsb"
m = [1, 5]

[inversion]
models = 2
start_images = 3
curve_starts = 2
radii = [0.5, 1.5, 4, 9]
runs = 4
selection = 5
evaluation = 6
sigmas = [0.0, 0.25]
inverters = ["plainadv:steps=7"]

[[inversion.attacks]]
attack = "blind-s"
m = 0

[inversion.configurations.plainadv]
epsilon = [1, 2]

[tuning]
suspect = 9
draws = 1
steps = 9
batch_size = 8
learning_rate = 0.5

[tuning.grids.weight-decay]
decay = [0.1, 0.2, 0.3, 0.4]
learning_rate = [1, 2, 3, 4, 5]
"""
#: The same with one game alone.
ONE_GAME = TOML[: TOML.index("[detectability]")]


@pytest.fixture
def parsed(tmp_path: Path) -> Callable[[str], Protocol]:
    def parse(text: str) -> Protocol:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return load(str(path))

    return parse


@pytest.fixture
def tiny(parsed: Callable[[str], Protocol]) -> Protocol:
    return parsed(TOML)


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces and nothing but ASCII, written out."""
    if isinstance(value, dict):
        items = (f"{canonical(key)}:{canonical(value[key])}" for key in sorted(value))
        return "{" + ",".join(items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if ord(c) < 128 else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def canonical_sha256(protocol: Protocol) -> str:
    return hashlib.sha256(canonical(protocol.model_dump(mode="json")).encode()).hexdigest()


def test_the_hash_is_that_of_the_canonical_form(
    tiny: Protocol, parsed: Callable[[str], Protocol]
) -> None:
    assert tiny.sha256 == canonical_sha256(tiny)
    without = TOML[: TOML.index("[inversion]")] + TOML[TOML.index("[tuning]") :]
    hashes = {tiny.sha256}
    for text, part in ((ONE_GAME, "detectability"), (without, "inversion")):
        older = parsed(text)
        assert getattr(older, part) is None
        assert older.sha256 == canonical_sha256(older)
        hashes.add(older.sha256)
    assert len(hashes) == 3


def test_an_inversion_game_may_use_all_images_of_its_splits(
    parsed: Callable[[str], Protocol],
) -> None:
    text = TOML.replace("selection = 5", "selection = 10")
    game = parsed(text.replace("evaluation = 6", "evaluation = 10")).inversion
    assert game is not None
    assert (game.selection, game.evaluation) == (10, 10)
    assert game.configurations == {"plainadv": {"epsilon": (1.0, 2.0)}}


def shuffled(value: Any, order: random.Random) -> Any:
    """The same mappings with their keys in another order; lists keep theirs."""
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    if isinstance(value, list):
        return [shuffled(item, order) for item in value]
    return value


def test_the_order_of_keys_does_not_matter(tiny: Protocol) -> None:
    raw = tiny.model_dump(mode="json")
    for seed in range(20):
        other = shuffled(raw, random.Random(seed))
        assert list(other) != list(raw) or seed
        assert Protocol.model_validate(other).sha256 == tiny.sha256


def test_comments_defaults_and_ways_to_write_a_number_do_not_matter(
    tiny: Protocol, parsed: Callable[[str], Protocol]
) -> None:
    same = TOML.replace("epochs = 9", "epochs = 9  # long\nmomentum = 0.9\nnesterov = true")
    same = same.replace("budget = 0.02", "budget = 2e-2")
    assert parsed(same).sha256 == tiny.sha256


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path, value


def another(path: tuple[Any, ...], value: Any) -> Any:
    """A valid value that differs."""
    special = {
        "recipe": "long",
        "schedule": "linear",
        "precision": "float32",
        # Larger shares would need more trusted images.
        "trusted": 21,
    }
    if path[-1] in special:
        return special[path[-1]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, int):
        return value + 1
    return value / 2 if value else 0.25


def changed(raw: Any, path: tuple[Any, ...], value: Any) -> Any:
    other = copy.deepcopy(raw)
    place = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return other


def test_every_single_field_matters(tiny: Protocol) -> None:
    raw = tiny.model_dump(mode="json")
    hashes = {tiny.sha256}
    paths = list(leaves(raw))
    for path, value in paths:
        hashes.add(Protocol.model_validate(changed(raw, path, another(path, value))).sha256)
    raw["robustness"]["attacks"].append({"attack": "badnets"})
    hashes.add(Protocol.model_validate(raw).sha256)
    raw["robustness"]["shares"].reverse()
    hashes.add(Protocol.model_validate(raw).sha256)
    assert len(hashes) == len(paths) + 3
    assert len(paths) > 40


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(json_values, st.integers())
def test_digest_is_insensitive_to_key_order(value: Any, seed: int) -> None:
    assert digest(shuffled(value, random.Random(seed))) == digest(value)
    assert digest([value]) != digest(value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny-v1"', "", "name: field required"),
        ('name = "tiny-v1"', 'name = "Tiny V1"', "name: string should match pattern"),
        ("train = 100", "train = 0", "splits.train: .* greater than or equal to 1"),
        ("train = 100", 'train = "many"', "splits.train: .* valid integer"),
        ("pad = 1", "pads = 1", "augmentation.pads: extra inputs"),
        ("interval = 10", "", "robustness.interval: field required"),
        ("budget = 0.02", "budget = 2", "robustness.budget: .* less than 1"),
        ("seeds = 2", "seeds = 0", "robustness.seeds"),
        ("learning_rate = 0.1", "learning_rate = inf", "learning_rate: .* finite number"),
        ("shares = [0.05, 0.1]", "shares = []", "robustness.shares"),
        ("shares = [0.05, 0.1]", "shares = [0.05, 0.0]", r"robustness.shares.1: .* greater than 0"),
        ("boost = 2", "boost = 0", "robustness.attacks.0.boost"),
        ("boost = 2", "bost = 2", "robustness.attacks.0.bost: extra inputs"),
        ("warmup = 0.5", "warmup = 1.0", "recipes.long.warmup: .* less than 1"),
        ("warmup = 0.5", 'schedule = "odd"', "recipes.long.schedule: .* 'cosine'"),
        ("code = 7", "codes = 7", "robustness.default_m.codes"),
        ("trusted = 20", "trusted = 9", "share of 0.1 is 10 images, splits.trusted allows 2 to 9"),
        ('recipe = "short"', 'recipe = "brief"', "'brief' is not among recipes: short, long"),
        ("train = 100", "train = ", "not valid TOML"),
        ("models = 3", "models = 0", "detectability.models"),
        ("m = [1, 5]", "m = []", "detectability.attacks.0.m"),
        ("share = 0.05", "share = 0.5", "share of 0.5 is 50 images, splits.trusted allows 2 to 20"),
        ("models = 2", "models = 0", "inversion.models: .* greater than or equal to 1"),
        ("start_images = 3", "start_images = 0", "inversion.start_images"),
        ("runs = 4", "runs = 0", "inversion.runs"),
        ("0.5, 1.5, 4, 9", "1, 2, 4", "inversion.radii: .* at least 4 items"),
        ("0.5, 1.5, 4, 9", "0, 1, 2, 4", "inversion.radii.0: .* greater than 0"),
        ("0.5, 1.5, 4, 9", "1, 1, 2, 4", "inversion: .*radii must rise, got 1.0, 1.0, 2.0, 4.0"),
        ("curve_starts = 2", "curve_starts = 4", "curve_starts is 4, there are 3 start_images"),
        ("selection = 5", "selection = 0", "inversion.selection"),
        ("selection = 5", "selection = 11", "selection is 11, splits.validation has 10"),
        ("evaluation = 6", "evaluation = 11", "inversion.evaluation is 11, splits.test has 10"),
        ("evaluation = 6", "", "inversion.evaluation: field required"),
        ("0.0, 0.25", "-0.1", "inversion.sigmas.0: .* greater than or equal to 0"),
        ("epsilon = [1, 2]", "epsilon = []", "inversion.configurations.plainadv.epsilon"),
        ('attack = "blind-s"', 'attacks = "blind-s"', "inversion.attacks.0.attack: field required"),
        ("runs = 4", "runs = 4\nrestarts = 1", "inversion.restarts: extra inputs"),
        (", 0.4]", "]", "the grid of weight-decay has 15 points, at least 20 are required"),
    ],
)
def test_errors_name_file_and_field(
    old: str, new: str, message: str, parsed: Callable[[str], Protocol]
) -> None:
    assert old in TOML
    with pytest.raises(ProtocolError, match=rf"mine\.toml: .*{message}"):
        parsed(TOML.replace(old, new))


def test_what_cannot_be_found_or_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(TOML.replace("–", "é").encode("latin-1"))
    with pytest.raises(ProtocolError, match=r"latin\.toml: byte \d+ is none of UTF-8; save the"):
        load(str(tmp_path / "latin.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ProtocolError, match=r"folder\.toml is a folder; name a \.toml file in it"):
        load(str(tmp_path / "folder.toml"))
    with pytest.raises(ProtocolError, match=r"gone\.toml: no such protocol file"):
        load("gone.toml")
    with pytest.raises(ProtocolError, match=r"unknown protocol 'gone'.*path of a \.toml file"):
        load("gone")


@pytest.mark.parametrize("name", sorted(withdrawn()))
def test_a_withdrawn_protocol_stays_refused(name: str, parsed: Callable[[str], Protocol]) -> None:
    said = rf"{name}' was withdrawn, see CHANGELOG\.md; there are .*digits-v3"
    with pytest.raises(ProtocolError, match=said):
        load(name)
    with pytest.raises(ProtocolError, match=said):
        parsed(TOML.replace("tiny-v1", name))
    assert name not in released()


def test_defenders_search_on_a_model_that_no_board_reports(
    parsed: Callable[[str], Protocol],
) -> None:
    with pytest.raises(ProtocolError, match=r"tuning.suspect is repetition 2, which is reported"):
        parsed(TOML.replace("suspect = 9", "suspect = 2"))


def test_a_grid_may_hold_names(parsed: Callable[[str], Protocol]) -> None:
    text = TOML.replace(
        "learning_rate = [1, 2, 3, 4, 5]",
        """learning_rate = [1, 2, 3]
optimizer = ["sgd", "adam"]""",
    )
    tuning = parsed(text).tuning
    assert tuning is not None
    assert tuning.grids["weight-decay"]["optimizer"] == ("sgd", "adam")
    assert tuning.grids["weight-decay"]["learning_rate"] == (1.0, 2.0, 3.0)


def test_a_released_protocol_cannot_be_changed(
    tiny: Protocol, parsed: Callable[[str], Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark.protocol, "released", lambda: {"tiny-v1": tiny.sha256})
    assert parsed(TOML) == tiny
    with pytest.raises(ProtocolError, match=r"'tiny-v1' was released .* needs a new name"):
        parsed(TOML.replace("seeds = 2", "seeds = 3"))
    renamed = parsed(TOML.replace("seeds = 2", "seeds = 3").replace("tiny-v1", "tiny-v2"))
    assert renamed.robustness.seeds == 3


def test_seeds_are_the_first_bytes_of_a_hash_of_names(tiny: Protocol) -> None:
    text = '["tiny-v1", "train", "badnets", "50", "0"]'
    expected = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) // 2
    assert tiny.seed("train", "badnets", 50, 0) == expected


def test_seeds_depend_on_names_only(tiny: Protocol) -> None:
    raw = tiny.model_dump(mode="json")
    for path, value in leaves(raw):
        other = Protocol.model_validate(changed(raw, path, another(path, value)))
        assert (other.seed("train", 1) == tiny.seed("train", 1)) == (path != ("name",))


parts = st.lists(st.text(max_size=4), max_size=4)


@settings(deadline=None)
@given(parts, parts)
def test_different_parts_get_different_seeds(one: list[str], other: list[str]) -> None:
    protocol = Protocol.model_construct(name="tiny-v1")
    assert (protocol.seed(*one) == protocol.seed(*other)) == (one == other)
    assert 0 <= protocol.seed(*one) < 2**63


def test_parts_do_not_run_together(tiny: Protocol) -> None:
    assert len({tiny.seed("ab", "c"), tiny.seed("a", "bc"), tiny.seed("abc")}) == 3


# What was released.

LOCK = [line.split() for line in (FONE_GAME / "released.lock").read_text().splitlines()]


def test_every_protocol_file_is_locked_and_every_locked_one_has_its_file() -> None:
    files = {path.stem for path in FONE_GAME.glob("*.toml")}
    assert files
    assert {name for _, name in LOCK} == files
    assert len(LOCK) == len(files)


def test_every_line_of_the_lock_is_the_hash_of_its_file() -> None:
    for sha256, name in LOCK:
        protocol = load(str(FONE_GAME / f"{name}.toml"))
        assert protocol.name == name
        found = canonical_sha256(protocol)
        assert found == sha256, f"{name} was changed after its release; make it a new protocol"
        assert load(name) == protocol
    assert released() == {name: sha256 for sha256, name in LOCK}


@pytest.mark.parametrize("path", sorted(FONE_GAME.glob("*.toml")), ids=lambda path: path.stem)
def test_every_protocol_file_is_valid_and_named_by_its_file(path: Path) -> None:
    raw = load(str(path)).model_dump(mode="json")
    assert raw["name"] == path.stem
    assert json.loads(json.dumps(raw)) == raw


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 9", "epochs = 9\nmomentum = 0", "nesterov needs a momentum above 0"),
        ("code = 7", "", "default_m lacks code"),
    ],
)
def test_settings_that_would_fail_later_are_refused_at_once(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(TOML.replace(old, new))
    with pytest.raises(ProtocolError, match=message):
        load(str(path))
