"""Published numbers are the papers', and stand beside the measurements that they belong to."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_records import COST
from made_records import search as made_search

from benchmark import protocol as protocols
from benchmark.api import Attack, Defense
from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.games.robustness.searches import Search
from benchmark.leaderboard.build import build, stale
from benchmark.leaderboard.deviations import TEXT_LIMIT
from benchmark.metrics import Rate as Counts
from benchmark.metrics import mean_interval
from benchmark.papers import PublishedNumber, inverted, published
from benchmark.records.files import StoreError
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.texts import MARKUP

#: Attack, m, CDA, ASR, AUC.
TABLE_II = """
none     0   0.953 -    -
badnets  50  0.952 1.00 0.76
a-blend  50  0.952 0.94 0.65
a-patch  50  0.951 1.00 0.73
advclean 500 0.947 0.98 0.68
refool   500 0.954 0.38 0.70
wanet    500 0.954 0.29 0.65
"""
DEFENSES = ("pivotal-tuning", "weight-decay", "fine-pruning", "nad", "neural-cleanse-repair")
SHARES = ("0.01", "0.025", "0.05")
TABLE_III = """
badnets  .03/.02/.03 .13/.08/.09 .69/.64/.60    .98/.95/.98   .13/.12/.10
a-blend  .00/.00/.01 .45/.13/.09 1.00/1.00/1.00 1.00/.24/.12  .72/.84/.79
a-patch  .00/.00/.00 .12/.04/.08 1.00/1.00/1.00 .76/.65/.54   .53/.21/.11
refool   .03/.00/.02 .06/.04/.06 .29/.35/.38    .26/.23/.18   .26/.34/.33
advclean .01/.03/.01 .64/.12/.13 .95/.95/.95    .95/.95/.95   .95/.95/.95
wanet    .04/.02/.03 .14/.06/.08 .14/.08/.16    .28/.26/.25   .28/.28/.28
"""


#: Attack, m, BA, ASR, accuracy and average precision of Neural Cleanse, ABS and ExRay.
TABLE_L1 = """
none             0   .902 -    -         -         -
badnets          10% .902 .983 .695/.807 .910/.969 .640/.716
lsp:base=badnets 10% .902 .979 .510/.527 .660/.631 .565/.611
lc               5%  .903 .995 .505/.522 .570/.577 .560/.554
lsp:base=lc      5%  .903 .991 .490/.501 .590/.511 .510/.486
"""
#: The same of the tables' other data sets, both by ResNet-18.
TABLE_L1_CIFAR10 = """
none                                     0   .924 - - - -
randsq                                   10% .926 1.000 .735/.740 .650/.714 .805/.881
lsp:base=randsq                          10% .927 .999 .510/.491 .605/.639 .655/.669
wanet:clean_label=False                  10% .922 .919 - .500/.438 .510/.456
lsp:base=wanet,base.clean_label=False    10% .935 .925 - .500/.465 .500/.375
"""
TABLE_L1_GTSRB = """
none             0  .955 - - - -
colorbd          5% .953 1.000 - .620/.679 .970/.990
lsp:base=colorbd 5% .953 .994 - .560/.551 .565/.598
"""
#: Plugin, ASR in percent of the trigger of Blind-P and of Blind-S.
TABLE_S2 = """
plainadv             84.08 84.89
neural-cleanse-image 0.00  0.00
topoprior            0.00  4.39
pixelinv             30.75 43.17
smoothinv-diffusion  92.05 93.90
smoothinv            99.50 99.53
"""


def of(dataset: str, paper: str) -> list[PublishedNumber]:
    return [line for line in published() if (line.dataset, line.paper) == (dataset, paper)]


@pytest.mark.parametrize(
    ("dataset", "table", "family"),
    [
        ("fashion_mnist", TABLE_L1, "vgg16"),
        ("cifar10", TABLE_L1_CIFAR10, "resnet18"),
        ("gtsrb", TABLE_L1_GTSRB, "resnet18"),
    ],
)
def test_the_numbers_of_lsp_are_those_of_its_tables(dataset: str, table: str, family: str) -> None:
    wanted = set()
    for line in table.strip().splitlines():
        attack, m, accuracy, success, *cells = line.split()
        found = [("cda", "", accuracy), ("asr", "", success)]
        for name, cell in zip(("neural-cleanse", "abs", "exray"), cells, strict=True):
            native, _, precision = cell.partition("/")
            found += [("accuracy", name, native), ("ap", name, precision or "-")]
        wanted |= {
            (what, attack, m, by, f"{float(value):.3f}")
            for what, by, value in found
            if value != "-"
        }
    lines = of(dataset, "LSP Framework")
    there = [(one.quantity, one.attack, one.m, one.defense, one.value) for one in lines]
    assert len(there) == len(set(there))
    assert set(there) == wanted
    assert {(one.architecture, one.boost, one.share) for one in lines} == {(family, 1, "")}
    half = [one.amount(10_000) for one in lines if one.attack in ("lc", "colorbd")]
    assert set(half) <= {500}


def test_the_numbers_of_smoothinv_are_those_of_its_table() -> None:
    wanted = {}
    for line in TABLE_S2.strip().splitlines():
        inverter, *values = line.split()
        for attack, value in zip(("blind-p", "blind-s"), values, strict=True):
            wanted[attack, inverter] = float(value) / 100
    assert {names: inverted(*names) for names in wanted} == pytest.approx(wanted)
    assert len(of("imagenet", "SmoothInv")) == len(wanted)
    assert math.isnan(inverted("badnets", "smoothinv"))


def test_the_numbers_are_those_of_the_paper() -> None:
    wanted = set()
    amounts = {}
    for line in TABLE_II.strip().splitlines():
        attack, m, *values = line.split()
        amounts[attack] = int(m)
        for quantity, value in zip(("cda", "asr", "auc"), values, strict=True):
            defense = "calibrated-trigger-inversion" if quantity == "auc" else ""
            if value != "-":
                wanted.add(("II", quantity, attack, int(m), defense, "", value))
    for line in TABLE_III.strip().splitlines():
        attack, *cells = line.split()
        for defense, cell in zip(DEFENSES, cells, strict=True):
            for share, value in zip(SHARES, cell.split("/"), strict=True):
                value = f"{float(value):.2f}"
                wanted.add(("III", "asr_left", attack, amounts[attack], defense, share, value))
    lines = of("cifar10", "Pick your Poison")
    there = [
        (line.table, line.quantity, line.attack, int(line.m), line.defense, line.share, line.value)
        for line in lines
    ]
    assert len(there) == len(set(there)) == 7 + 6 + 6 + 6 * 5 * 3
    assert set(there) == wanted
    for line in lines:
        assert 0 <= float(line.value) <= 1
        assert (line.dataset, line.architecture, line.boost) == ("cifar10", "resnet18", 1)
        assert line.epochs == "120"
        # As explanations are looked up.
        assert line.share in ("", f"{float(line.share or 0):g}")


def test_every_name_is_a_plugin(registry: Registry) -> None:
    there = {
        entry.plugin.name
        for entry in registry.entries
        if issubclass(entry.plugin, Attack | Defense)
    }
    named = {n.split(":")[0] for line in published() for n in (line.attack, line.defense)}
    assert named - there == {"none", ""}


def test_a_note_says_the_same_wherever_it_stands() -> None:
    said: dict[str, str] = {}
    for line in published():
        for remark in filter(None, line.note.split("; ")):
            number, text = remark.split(": ", 1)
            assert re.fullmatch(r"C\d+", number)
            assert said.setdefault(number, text) == text
            assert text.isprintable()
            assert not MARKUP & set(text)
    assert {"C4", "C8", "C24", "C25"} <= said.keys()


@pytest.mark.parametrize(
    ("value", "low", "high", "inside"),
    [
        ("0.03", 0.0, 0.03, True),
        ("0.03", 0.0, 0.025, True),  # 0.025 is printed like this
        ("0.03", 0.0, 0.0249, False),
        ("0.03", 0.0351, 0.2, False),
        ("1.00", 0.98, 0.995, True),
        ("0.953", 0.9, 0.9525, True),
        ("0.953", 0.9, 0.9524, False),
    ],
)
def test_a_printed_number_stands_for_all_that_round_to_it(
    value: str, low: float, high: float, inside: bool
) -> None:
    assert published()[0].model_copy(update={"value": value}).within(low, high) is inside


# A board that was never played.


def cifar() -> protocols.Protocol:
    """A protocol for the paper's data."""
    content = protocols.load("digits-v3").model_dump(mode="json")
    content |= {"name": "made-up", "architecture": "resnet18", "inversion": None, "tuning": None}
    content["splits"] |= {"dataset": "cifar10", "train": 45000, "trusted": 9000}
    content["recipes"] = {
        name: content["recipes"]["standard"] | {"epochs": epochs} for name, epochs in EPOCHS.items()
    }
    content["recipe"] = "fast"
    content["robustness"] |= {
        "attacks": [{"attack": "badnets", "m": 50}],
        "defenses": ["pivotal-tuning", FINE_PRUNING],
    }
    content["detectability"]["detectors"] = TWO_DETECTORS
    content["detectability"]["attacks"] = [{"attack": "badnets", "m": [50]}]
    return protocols.Protocol.model_validate(content)


RECIPES = {"fast": 0.94, "table-iv": 0.952}
EPOCHS = {"fast": 120, "table-iv": 120, "short": 24}
FINE_PRUNING = "fine-pruning:steps=1000,learning_rate=0.001,pruned=0.96,sampled_batches=10"
TWO_DETECTORS = [f"calibrated-trigger-inversion:trigger={kind}" for kind in ("mask", "additive")]
CIFAR = cifar()
REF = {"name": CIFAR.name, "sha256": CIFAR.sha256, "recipe": "fast"}
SEEDS = 3


@pytest.fixture(autouse=True)
def _released(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the protocol had been released, and no other paper had numbers for its data."""
    own = tuple(one for one in published() if one.paper == "Pick your Poison")
    monkeypatch.setattr("benchmark.leaderboard.published.published", lambda: own)
    monkeypatch.setattr(
        "benchmark.leaderboard.board.played",
        lambda ref: CIFAR if ref.sha256 == CIFAR.sha256 else None,
    )


def rate(share: float, total: int) -> dict[str, Any]:
    hits = round(share * total)
    return {"hits": hits, "total": total, "value": hits / total if total else None}


def common(
    attack: str, defense: str | None, seed: int, stage: str, **changes: Any
) -> dict[str, Any]:
    """What records of both games say; a label may have settings."""
    name = attack.split(":")[0]
    plugin = {"version": 1, "params": {}}
    parts = [
        plugin
        | {"label": part, "name": part.split(":")[0], "stage": stage}
        | {"params": dict(pair.split("=") for pair in part.split(":")[1].split(","))}
        if ":" in part
        else plugin | {"label": part, "name": part, "stage": stage}
        for part in (defense or "").split("+")
        if part
    ]
    content = {
        "key": f"{random.Random(f'{attack}{defense}{seed}{changes}').getrandbits(256):064x}",
        "protocol": dict(REF),
        "attack": {"label": attack, "name": name, "m": 50, "boost": 1, **plugin}
        | {"threat": "none" if name == "none" else "poison-label"},
        "defense": {
            "name": "+".join(part["name"] for part in parts) or "none",  # type: ignore[misc]
            "stages": parts,
        },
        "trusted_share": 0.01 if defense else None,
        "seed": seed,
        "target": 0,
        "data_sha256": "d" * 64,
        "status": "ok",
        "cost": COST | {"device": "cpu"},
        "env": {},
    }
    for key, value in changes.items():
        if key in ("m", "boost"):
            content["attack"][key] = value  # type: ignore[index]
        elif key == "recipe":
            content["protocol"][key] = value  # type: ignore[index]
        else:
            content[key] = value
    return content


def played(
    attack: str,
    defense: str | None = None,
    *,
    cda: float = 0.95,
    asr: float = 1.0,
    left: float | None = None,
    deployable: float | None = None,
    **changes: Any,
) -> list[Record]:
    """A robustness cell of all seeds: `asr` before and `left` in the paper's reading."""

    def point(stage: str, step: int, share: float) -> dict[str, Any]:
        rates = {"held_out": rate(cda, 100), "lost": 0, "cda": rate(cda, 8000)}
        rates["asr"] = rate(share, 0 if attack == "none" else 7200)
        return {"stage": stage, "step": step, "asr_game": share, **rates}

    before = point("victim", 0, asr)
    paper = before if left is None else point("repair", 50, left)
    chosen = paper if deployable is None else point("repair", 100, deployable)
    return [
        RobustnessRecord.model_validate(
            common(attack, defense, seed, "repair", **changes)
            | {
                "metrics": {
                    "paper": paper,
                    "deployable": chosen,
                    "before": before,
                    "asr_clean_model": None,
                    "target_confidence": None,
                    "guard": None,
                },
                "curve": [before, paper, chosen],
            }
        )
        for seed in range(SEEDS)
    ]


def examined(
    attack: str, scores: Iterable[float], detector: str = "calibrated-trigger-inversion", **c: Any
) -> list[Record]:
    """One model of a population per score."""

    def scan(score: float) -> dict[str, Any]:
        nothing = {"flagged": None, "also": {"printed": -score}, "norms": None}
        nothing |= {"success": None, "reasr": None, "seconds": 1.0}
        return {"score": score, "class_scores": [score, 0.0], "guess": 0, **nothing}

    return [
        DetectabilityRecord.model_validate(
            common(attack, detector, seed, "detect", **c) | {"scans": [scan(score)]}
        )
        for seed, score in enumerate(scores)
    ]


def save(folder: Path, *cells: list[Record]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(record for cell in cells for record in cell):
        Store(folder).save_record(f"r{number}", one)
    return folder


def demonstration(folder: Path) -> Path:
    """Both games, with numbers inside and outside."""
    cells = [
        played("none", cda=0.947, m=0),
        played("badnets", cda=0.946, asr=0.998),
        played("badnets", "pivotal-tuning", left=0.031, deployable=0.05),
        played("badnets", "pivotal-tuning", left=0.021, trusted_share=0.025),
        played("badnets", "pivotal-tuning", left=0.4, trusted_share=0.05),
        played("badnets", "fine-pruning", left=0.92, deployable=0.95),
        played("a-blend", cda=0.95, asr=0.91),
        played("a-blend", "fine-pruning", left=0.9, asr=0.91),
        played("a-blend", "weight-decay", left=0.44, asr=0.91),
        examined("none", [0.1, 0.2, 0.3, 0.4, 0.5] * 2, m=0),
        examined("badnets", [0.15, 0.35, 0.45, 0.55, 0.65] * 2),
        examined("a-blend", [0.9] * 10),
    ]
    return save(folder, *cells)


def compared(folder: Path) -> pd.DataFrame:
    """What the file says that a board shows."""
    build(folder)
    words = ["attack", "defense", "note", "explanation", "attack_played", "defense_played"]
    frame = pd.read_csv(
        folder / "comparison.csv",
        dtype=dict.fromkeys(words, str),
        keep_default_na=False,
        na_values=[""],
    )
    frame[words] = frame[words].fillna("")
    return frame


def line(frame: pd.DataFrame, *key: str, share: float | None = None) -> pd.Series:
    quantity, attack, *defense = key
    found = frame[(frame.quantity == quantity) & (frame.attack == attack)]
    found = found[found.defense == (defense[0] if defense else "")]
    if share is not None:
        found = found[found.trusted_share == share]
    assert len(found) == 1
    return found.iloc[0]


def test_measurements_stand_beside_their_numbers(tmp_path: Path) -> None:
    frame = compared(demonstration(tmp_path))
    assert len(frame) == len(of("cifar10", "Pick your Poison"))
    measured = frame[frame.verdict != "not measured"]
    assert len(measured) == 1 + 2 + 4 + 2 + 2 + 2
    assert measured.recipe.eq("fast").all()

    own = line(frame, "asr_left", "badnets", "pivotal-tuning", share=0.01)
    _, low, high = mean_interval([Counts(223, 7200)] * SEEDS)
    assert own.measured == pytest.approx(223 / 7200, abs=1e-6)
    assert (own.measured_low, own.measured_high) == pytest.approx((low, high), abs=1e-6)
    assert own.difference == pytest.approx(223 / 7200 - 0.03, abs=1e-6)
    assert (own.published, own.verdict, own.models) == (0.03, "inside", SEEDS)
    assert (own.asr_before, own.asr_deployable) == (1.0, 0.05)
    assert own.defense_played == "pivotal-tuning"
    assert line(frame, "asr_left", "badnets", "pivotal-tuning", share=0.05).verdict == "outside"

    clean = line(frame, "cda", "none")
    assert (clean.measured, clean.verdict) == (0.947, "outside")
    assert line(frame, "asr", "badnets").verdict == "inside"
    assert line(frame, "asr", "a-blend").verdict == "outside"

    # Of 100 pairs of models 10 are won thrice, 20 four times over, and so on.
    area = line(frame, "auc", "badnets", "calibrated-trigger-inversion")
    wins = [sum(p > c for c in (0.1, 0.2, 0.3, 0.4, 0.5)) for p in (0.15, 0.35, 0.45, 0.55, 0.65)]
    assert area.measured == pytest.approx(sum(wins) / 25)
    assert area.models == 10
    assert (area.verdict, area.measured_low < 0.76 < area.measured_high) == ("inside", True)
    assert line(frame, "auc", "a-blend", "calibrated-trigger-inversion").verdict == "outside"

    missing = frame[frame.verdict == "not measured"]
    assert missing[["measured", "difference", "models", "asr_before"]].isna().all(axis=None)
    assert missing.published.notna().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"m": 20},
        {"boost": 2},
        {"attack": "badnets:side=0.25"},
        {"trusted_share": 0.1},
        {"defense": "pivotal-tuning+strip"},
        {"defense": "strip"},
        {"status": "failed", "error": {"kind": "E", "message": "no", "where": "x:1"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_game_is_no_measurement(tmp_path: Path, changes: dict[str, Any]) -> None:
    names = {"attack": "badnets", "defense": "pivotal-tuning"} | changes
    other = played(names.pop("attack"), names.pop("defense"), left=0.03, **names)
    frame = compared(save(tmp_path, played("none", m=0), other))
    assert list(frame.quantity[frame.verdict != "not measured"]) == ["cda"]


@pytest.mark.parametrize(("boost", "there"), [(5, True), (1, False), (6, False)])
def test_a_shorter_training_shows_poisoned_images_as_often(
    tmp_path: Path, boost: int, there: bool
) -> None:
    cells = [
        *played("none", m=0, recipe="short"),
        *played("badnets", "pivotal-tuning", left=0.03, boost=boost, recipe="short"),
    ]
    frame = compared(save(tmp_path, cells))
    assert frame.recipe.eq("short").all()
    measured = frame[frame.verdict != "not measured"]
    assert {*measured.attack} == ({"none", "badnets"} if there else {"none"})
    assert measured.boost.max() == (boost if there else 1)


def test_another_attack_of_a_protocol_has_the_settings_of_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"attack": "badnets:side=0.250,seed=1", "m": 50}]
    content = CIFAR.model_dump(mode="json")
    content["robustness"]["attacks"] = entries
    own = protocols.Protocol.model_validate(content)
    monkeypatch.setattr("benchmark.leaderboard.board.played", lambda ref: own)
    cells = [played(f"badnets:side={side}", asr=asr) for side, asr in ((0.25, 0.5), (0.1, 0.7))]
    assert line(compared(save(tmp_path, *cells)), "asr", "badnets").measured == 0.5


@pytest.mark.parametrize(
    ("name", "sha"),
    [
        ("digits-v3", protocols.released()["digits-v3"]),
        (CIFAR.name, "a" * 64),  # a changed one
    ],
)
def test_other_protocols_have_no_section(tmp_path: Path, name: str, sha: str) -> None:
    ref = {"name": name, "sha256": sha, "recipe": "fast"}
    folder = save(tmp_path, played("badnets", protocol=ref))
    (folder / "comparison.csv").write_text("left over")
    assert "published" not in build(folder)
    assert not (folder / "comparison.csv").exists()
    assert b"published" not in (folder / "index.html").read_bytes()


def test_a_board_without_anything_to_compare_has_no_section(tmp_path: Path) -> None:
    assert "published" not in build(save(tmp_path, played("badnets", m=20)))


def test_of_several_settings_those_nearest_to_the_protocol_count(tmp_path: Path) -> None:
    prescribed = FINE_PRUNING
    changed = prescribed.replace("0.001", "0.1")
    cells = [
        played("badnets", "fine-pruning", left=0.1),
        played("badnets", changed, left=0.6),  # nearer to the published number
        played("badnets", prescribed, left=0.3),
    ]
    frame = compared(save(tmp_path / "protocol", *cells))
    own = line(frame, "asr_left", "badnets", "fine-pruning", share=0.01)
    assert (own.measured, own.defense_played) == (0.3, prescribed)

    # A search goes before the protocol.
    search = Search.model_validate(
        made_search([5]).model_dump()
        | {"protocol": REF, "defense": "fine-pruning", "trusted_share": 0.01}
        | {"trials": [{"params": {"learning_rate": 0.1}, "left": made_search([5]).trials[0].left}]}
    )
    search.save(tmp_path / "protocol" / "tuning" / "fine-pruning-r0.01.json")
    own = line(compared(tmp_path / "protocol"), "asr_left", "badnets", "fine-pruning", share=0.01)
    assert (own.measured, own.defense_played) == (0.6, changed)


def test_of_several_detectors_of_a_name_the_first_of_the_protocol_counts(tmp_path: Path) -> None:
    assert CIFAR.detectability is not None
    same = [d for d in CIFAR.detectability.detectors if d.startswith("calibrated")]
    assert len(same) == 2
    cells = [played("badnets")]
    for detector, score in zip(same, (0.9, 0.1), strict=True):
        cells += [examined("none", [0.5] * 4, detector, m=0)]
        cells += [examined("badnets", [score] * 4, detector)]
    frame = compared(save(tmp_path, *cells))
    assert line(frame, "auc", "badnets", "calibrated-trigger-inversion").measured == 1


def test_every_recipe_is_compared_by_itself(tmp_path: Path) -> None:
    cells = [played("badnets", recipe=recipe, cda=cda) for recipe, cda in RECIPES.items()]
    frame = compared(save(tmp_path, *cells))
    found = frame[(frame.quantity == "cda") & (frame.attack == "badnets")]
    assert dict(zip(found.recipe, found.measured, strict=True)) == RECIPES
    text = (tmp_path / "README.md").read_text()
    assert "Recipe fast: 2 of 109" in text
    assert "Recipe table-iv: 2 of 109" in text


def test_the_text_for_readers_shows_what_does_not_hold_up(tmp_path: Path) -> None:
    text = build(demonstration(tmp_path)).split("## Published")[1]
    assert "13 of 109 published numbers measured, 6 inside, 7 outside, of which 7 open" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    outside = [line for line in lines if "| outside | open |" in line]
    # They come first, and what there is no room for is on the page.
    assert outside == lines[1:8]
    (own,) = [line for line in outside if "pivotal-tuning r=5%" in line]
    assert re.search(r"asr.*left \| pivotal-tuning r=5% \| 0\.030 \| 0\.400 \\\[", own)
    assert re.search(r"And \d+ more in index\.html\.", text)


def test_where_all_holds_up_nothing_is_open(tmp_path: Path) -> None:
    text = build(save(tmp_path, played("none", cda=0.953, m=0)))
    assert "1 of 109 published numbers measured, 1 inside, 0 outside, of which 0 open" in text
    assert "| outside |" not in text


# What people write beside a board.

HEAD = "paper,recipe,quantity,attack,defense,share,text\n"


def explain(folder: Path, *lines: str) -> Path:
    written = (f"Pick your Poison,{line}\n" if line else "\n" for line in lines)
    (folder / "explanations.csv").write_text(HEAD + "".join(written))
    return folder


def test_explanations_stand_beside_their_disagreements_and_survive(tmp_path: Path) -> None:
    folder = explain(
        demonstration(tmp_path),
        "fast,cda,none,,,24 epochs; the paper trains for 120",
        "",
        'fast,asr_left,badnets,pivotal-tuning,0.05,"a | pipe, *stars* and a [link](x)"',
        "fast,auc,a-blend,calibrated-trigger-inversion,,found by all seeds",
    )
    before = (folder / "explanations.csv").read_bytes()
    frame = compared(folder)
    texts = frame[frame.verdict == "outside"].explanation
    assert sorted(texts)[-4:] == ["open"] * 4
    assert line(frame, "cda", "none").explanation == "24 epochs; the paper trains for 120"
    assert frame[frame.verdict != "outside"].explanation.eq("").all()
    text = (folder / "README.md").read_text()
    assert "of which 4 open" in text
    assert r"a \| pipe, \*stars\* and a \[link\](x)" in text
    assert (folder / "explanations.csv").read_bytes() == before
    assert stale(folder) == []
    build(folder)
    assert (folder / "explanations.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        # Inside, not measured, not published, and of another recipe.
        (
            ["fast,asr,badnets,,,it works"],
            "no disagreement of this board is 'Pick your Poison,fast,asr,badnets,,'; remove",
        ),
        (
            ["fast,asr,wanet,,,weak"],
            "no disagreement of this board is 'Pick your Poison,fast,asr,wanet,,'",
        ),
        (
            ["fast,asr,mine,,,weak"],
            "no disagreement of this board is 'Pick your Poison,fast,asr,mine,,'",
        ),
        (
            ["table-iv,cda,none,,,short"],
            "no disagreement of this board is 'Pick your Poison,table-iv,cda,none,,'",
        ),
        (
            ["fast,cda,none,,,a", "fast,cda,none,,,b"],
            "'Pick your Poison,fast,cda,none,,' is given twice",
        ),
        (["fast,cda,none,,"], "every line has the columns paper,recipe,quantity,attack"),
        (["fast,cda,none,,,  "], "has 2 characters, 1 to 400"),
        ([f"fast,cda,none,,,{'x' * (TEXT_LIMIT + 1)}"], "has 401 characters"),
        (["fast,cda,none,,,<script>alert(1)</script>"], "has '<'"),
        (["fast,cda,none,,,`code`"], "has '`'"),
        (["fast,cda,none,,,a & b"], "has '&'"),
        (['fast,cda,none,,,"two\nlines"'], r"has '\\n'"),
        (["fast,cda,none,,,\u202eright to left"], r"has '\\u202e'"),
        (["fast,cda,none,,,\x1b[31mred"], r"has '\\x1b'"),
        (["fast,\x1b[31m,none,,,red"], r"is 'Pick your Poison,fast,\\x1b\[31m,none,,'"),
        (['fast,cda,none,,,"open'], "cannot be read as CSV"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_sentence(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        build(explain(demonstration(tmp_path), *lines))
    assert str(caught.value).isprintable()
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("content", [b"", b"quantity;attack\n", b"\xff\xfe", HEAD.encode() * 2])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = demonstration(tmp_path)
    (folder / "explanations.csv").write_bytes(content)
    with pytest.raises(StoreError, match=r"explanations\.csv"):
        build(folder)


def test_an_explanation_on_a_board_without_comparison_explains_nothing(tmp_path: Path) -> None:
    ref = {"name": "made-up", "sha256": "a" * 64, "recipe": "fast"}
    folder = explain(save(tmp_path, played("none", m=0, protocol=ref)), "fast,cda,none,,,why")
    with pytest.raises(StoreError, match="no disagreement of this board"):
        build(folder)


def test_the_page_has_the_tables(tmp_path: Path) -> None:
    folder = explain(demonstration(tmp_path), "fast,cda,none,,,{{ 7*7 }} ${x} %s [a](b)")
    build(folder)
    page = (folder / "index.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    frame = compared(folder)
    table = data["tables"]["comparison"]
    assert len(table["rows"]) == len(frame) == 109
    heads = [column["title"] for column in table["columns"]]
    rows = [dict(zip(heads, row, strict=True)) for row in table["rows"]]
    shown = next(row for row in rows if row["explanation"] not in (None, "open"))
    own = line(frame, "cda", "none")
    assert shown["published"] == [0.953, "0.953"]
    value, text, low, high = shown["measured"]
    assert (value, low, high) == (own.measured, own.measured_low, own.measured_high)
    assert text.startswith("0.947 [")
    assert shown["explanation"] == "{{ 7*7 }} ${x} %s [a](b)"
    notes = [row["notes"] for row in rows if row["number"] == "auc"]
    assert any(note and note.startswith("C2: ") and "C20: " in note for note in notes)
    # What disagrees comes first.
    verdicts = [row["verdict"] for row in rows]
    assert verdicts == [*["outside"] * 7, *["inside"] * 6, *["not measured"] * 96]
    # What was not played is no fact of the board.
    assert "<dt>attacks</dt><dd>2</dd>" in page
    assert "<dt>defenses</dt><dd>3</dd>" in page


def test_another_paper_is_compared_at_shares_of_the_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LSP's bases are told apart by a setting, and detectors by their native accuracy."""
    content = CIFAR.model_dump(mode="json")
    content["splits"] |= {"dataset": "fashion_mnist", "train": 10_000}
    content["architecture"] = "resnet-small:width=16"
    attacks = ["badnets", "lsp", "lsp:base=lc"]
    content["robustness"]["attacks"] = [{"attack": attack, "m": 500} for attack in attacks]
    content["robustness"]["shares"] = [0.1]
    own = protocols.Protocol.model_validate(content)
    monkeypatch.setattr("benchmark.leaderboard.board.played", lambda ref: own)
    monkeypatch.setattr("benchmark.leaderboard.published.published", published)

    def with_base(base: str, m: int, asr: float) -> list[Record]:
        label = "lsp" if base == "badnets" else f"lsp:base={base}"
        params = {"base": {"name": base, "version": 1, "params": {}}, "rate": 3.5}
        cells = played(label, m=m, asr=asr)
        return [
            one.model_copy(
                update={
                    "attack": one.attack.model_copy(update={"name": "lsp", "params": params}),
                    "key": f"{number + m:064x}",
                }
            )
            for number, one in enumerate(cells)
        ]

    flags = [True, True, True, False]
    cells = [
        played("badnets", m=1000, asr=0.98),
        played("badnets", m=500, asr=0.5),  # not the paper's tenth
        with_base("badnets", 1000, 0.7),
        with_base("lc", 500, 0.9),
        examined("none", [0.1] * 4, "abs", m=0),
        examined("badnets", [0.9] * 4, "abs", m=1000),
    ]
    for number in (4, 5):
        cells[number] = [
            one.model_copy(
                update={
                    "scans": tuple(
                        scan.model_copy(update={"flagged": flag if number == 5 else False})
                        for scan in one.scans  # type: ignore[union-attr]
                    )
                }
            )
            for one, flag in zip(cells[number], flags, strict=True)
        ]
    frame = compared(save(tmp_path, *cells))
    assert len(frame) == 33
    measured = {attack: line(frame, "asr", attack).measured for attack in frame.attack.unique()[1:]}
    assert measured["badnets"] == 0.98
    assert measured["lsp:base=badnets"] == 0.7
    assert measured["lsp:base=lc"] == 0.9
    assert pd.isna(measured["lc"])
    found = line(frame, "accuracy", "badnets", "abs")
    assert (found.m, found.published, found.measured, found.models) == (1000, 0.91, 7 / 8, 4)
    assert found.verdict == "inside"
    assert "badnets (m=1000, fast)" in (tmp_path / "index.html").read_text()
