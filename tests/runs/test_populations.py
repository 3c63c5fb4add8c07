"""The detectability game and the searches, planned and played from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_process import Here
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.games.detectability.settings import Population
from benchmark.protocol import Protocol
from benchmark.registry import Registry, RegistryError
from benchmark.runs import local
from benchmark.runs.plan import plan

PLAYED = """
[detectability]
models = 2
repeats = 2
share = 0.15
detectors = ["neural-cleanse:steps=6,batch_size=4,check=2,patience=1"]

[[detectability.attacks]]
attack = "badnets:side=0.25"
m = [2, 40]

[tuning]
suspect = 9
poisoned = 0.3
enough = 0.5
draws = 1
steps = 150
batch_size = 16
learning_rate = 0.05

[tuning.grids.weight-decay]
learning_rate = [0.1, 0.05, 0.01, 0.001]
decay = [0.5, 0.1, 0.05, 0.01, 0.001]
"""


def here(*words: str | Path) -> str:
    """What a command prints that plays in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "LocalExecutor", Here)
        done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def test_clean_models_are_shared_and_everyone_is_examined(
    with_population: Protocol, registry: Registry
) -> None:
    cells = plan(with_population, registry, defenses=["neural-cleanse"])
    examined = [cell for cell in cells if cell.game == "detectability"]
    found = {(c.victim.attack.name, c.victim.attack.m, c.victim.seed) for c in examined}
    attacks = (("none", 0), ("badnets", 2), ("badnets", 40))
    assert found == {(name, m, seed) for name, m in attacks for seed in range(2)}
    assert len(examined) == 6
    assert {cell.trusted_share for cell in examined} == {0.15}
    undefended = {cell.victim.key for cell in cells if cell.game == "robustness"}
    assert undefended == {cell.victim.key for cell in examined}


def test_the_whole_protocol_plays_both_games(with_population: Protocol, registry: Registry) -> None:
    cells = plan(with_population, registry)
    games = {cell.defense.name: cell.game for cell in cells}
    assert games["weight-decay"] == games["none"] == "robustness"
    assert games["neural-cleanse"] == "detectability"
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == len(cells)


def test_m_of_a_population_can_be_asked_for(with_population: Protocol, registry: Registry) -> None:
    def poisons(attack: str) -> set[tuple[str, int]]:
        cells = plan(with_population, registry, attacks=[attack], defenses=["neural-cleanse"])
        refs = {cell.victim.attack.label: cell.victim.attack for cell in cells}
        assert "none" in refs
        return {
            (cell.victim.attack.label, cell.victim.attack.m)
            for cell in cells
            if cell.victim.attack.m
        }

    assert poisons("badnets:m=7") == {("badnets:side=0.25", 7)}
    assert poisons("badnets") == {("badnets:side=0.25", 2), ("badnets:side=0.25", 40)}
    assert poisons("tsb") == {("tsb", 30)}


def test_a_population_keeps_the_boost_that_the_protocol_gives_it(
    with_population: Protocol, registry: Registry
) -> None:
    game = with_population.detectability
    assert game is not None
    few = {"attack": "badnets", "m": [2, 4], "boost": 12}
    known = [few, {"attack": "badnets", "m": [40]}, {"attack": "badnets:side=0.5", "m": [9]}]
    populations = [Population.model_validate(one) for one in known]
    protocol = with_population.model_copy(
        update={"detectability": game.model_copy(update={"attacks": tuple(populations)})}
    )

    def boosts(attack: str) -> dict[int, int]:
        cells = plan(protocol, registry, attacks=[attack], defenses=["neural-cleanse"])
        met = [cell.victim.attack for cell in cells if cell.victim.attack.m]
        return {attack.m: attack.boost for attack in met}

    assert boosts("badnets") == boosts("badnets:side=0.5") == {2: 12, 4: 12, 40: 1}
    assert boosts("badnets:m=4") == {4: 12}
    assert boosts("badnets:m=40") == {40: 1}
    assert boosts("badnets:m=40,boost=5") == {40: 5}
    # The grid plays BadNets without boost.
    assert boosts("badnets:m=7") == {7: 1}


def test_a_detector_plays_alone_and_only_where_there_is_a_population(
    tiny: Protocol, with_population: Protocol, registry: Registry
) -> None:
    with pytest.raises(RegistryError, match="plays a game of its own"):
        plan(with_population, registry, defenses=["neural-cleanse+weight-decay"])
    with pytest.raises(ValueError, match="tiny has no detectability game"):
        plan(tiny, registry, defenses=["neural-cleanse"])


@pytest.fixture(scope="module")
def played(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder in which a protocol was tuned, played and made into a board."""
    root = tmp_path_factory.mktemp("populations")
    protocol = root / "both.toml"
    protocol.write_text(tiny_file.read_text().replace('"tiny"', '"both"') + PLAYED)
    out = root / "run"
    told = here("tune", protocol, "--out", out)
    files = sorted((root / "both.tuned").iterdir())
    before = [(file.name, file.stat().st_mtime_ns) for file in files]
    again = here("tune", protocol, "--out", out)
    assert [(file.name, file.stat().st_mtime_ns) for file in files] == before
    here("run", protocol, "--out", out, "--defense", "weight-decay", "--defense", "neural-cleanse")
    here("board", "build", out)
    return out, told, again


def test_a_search_is_made_once_and_told(played: tuple[Path, str, str]) -> None:
    out, told, again = played
    assert "2 of 2 searches of both done" in told
    assert "2 of 2 searches of both done" in again
    search = json.loads((out / "tuning" / "weight-decay-r0.15.json").read_text())
    assert len(search["trials"]) == 20
    (own,) = search["poisonings"]
    assert search["suspect"] == 9
    assert own["poisoned"]["asr"]["value"] > 0.5 > own["suspect"]["asr"]["value"]
    assert own["poisoned"]["unseen"]["total"] == 120


def test_runs_use_what_the_searches_chose(played: tuple[Path, str, str]) -> None:
    out, *_ = played
    for share in (0.05, 0.15):
        search = json.loads((out / "tuning" / f"weight-decay-r{share:g}.json").read_text())

        def rank(trial: dict[str, Any]) -> tuple[float, float]:
            (only,) = trial["left"]
            return only["asr"]["value"], -only["held_out"]["value"]

        best = min(search["trials"], key=rank)["params"]
        records = [json.loads(p.read_text()) for p in (out / "records").glob("*weight-decay*")]
        (stage,) = [
            r["defense"]["stages"][0]
            for r in records
            if r["trusted_share"] == share and r["attack"]["name"] != "none"
        ]
        assert {key: stage["params"][key] for key in best} == best


def test_records_of_examinations_follow_from_their_evidence(
    played: tuple[Path, str, str],
) -> None:
    out, *_ = played
    paths = sorted((out / "records").glob("detectability-*.json"))
    assert len(paths) == 6
    for path in paths:
        record = json.loads(path.read_text())
        assert record["status"] == "ok"
        assert len(record["scans"]) == 2
        evidence = np.load(out / "evidence" / record["evidence"]["file"], allow_pickle=False)
        others = evidence["labels_test"] != record["target"]
        for number, scan in enumerate(record["scans"]):
            assert scan["score"] == evidence["scores"][number]
            assert scan["guess"] == int(np.argmax(evidence["class_scores"][number]))
            assert scan["norms"] == pytest.approx(evidence["norms"][number].tolist())
            if record["attack"]["name"] == "none":
                assert scan["reasr"] is None
                continue
            for name, answers in zip(
                ("success", "reasr"), evidence["reversed_answers"][number], strict=True
            ):
                hits = int((answers[others] == record["target"]).sum())
                assert (scan[name]["hits"], scan[name]["total"]) == (hits, int(others.sum()))


def test_the_board_shows_both_games_side_by_side(played: tuple[Path, str, str]) -> None:
    out, *_ = played
    text = (out / "README.md").read_text()
    for title in ("## Remaining ASR", "## Detectability", "## Settings that defenders chose"):
        assert title in text
    frame = pd.read_csv(out / "detectability.csv")
    assert set(frame.reading) == {"score", "anomaly index"}
    assert set(frame.m) == {2, 40}
    assert ((frame.auc_low <= frame.auc) & (frame.auc <= frame.auc_high)).all()
    curves = pd.read_csv(out / "curves.csv")
    assert curves.asr.notna().all()
    assert (out / "curves.svg").read_bytes().startswith(b"<?xml")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    here("board", "build", out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
