"""Records made by hand, and a board of both games that was never played."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark import protocol as protocols
from benchmark.games.detectability.record import DetectabilityRecord
from benchmark.games.frames import Sources
from benchmark.games.inversion.record import InversionRecord
from benchmark.games.means import short_names
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.games.robustness.searches import Search, file_name
from benchmark.leaderboard.board import build
from benchmark.leaderboard.chapters import worst_cases
from benchmark.records.record import Record
from benchmark.records.store import Store

MADE_UP = {"name": "made-up", "sha256": "a" * 64, "recipe": "standard"}
#: A released protocol, so that its budget is known.
DIGITS = MADE_UP | {"name": "digits-v3", "sha256": protocols.released()["digits-v3"]}
#: Test images with a trigger, and those without.
TRIGGERED, CLEAN = 90, 100
COST = {"seconds": 4.0, "defense_seconds": 3.0, "victim_seconds": 2.0, "peak_memory_mb": 1.0}


def rate(hits: int, total: int) -> dict[str, Any]:
    return {"hits": hits, "total": total, "value": hits / total if total else None}


def point(stage: str, step: int, cda: int, asr: int, total: int = TRIGGERED) -> dict[str, Any]:
    return {
        "stage": stage,
        "step": step,
        "held_out": rate(cda // 5, CLEAN // 5),
        "lost": 0,
        "cda": rate(cda, CLEAN),
        "asr": rate(asr, total),
        "asr_game": asr / CLEAN if total else None,
    }


def _common(attack: str, defense: str | None, seed: int, stage: str, m: int) -> dict[str, Any]:
    plugin = {"version": 1, "params": {}}
    stages = [
        plugin | {"label": label, "name": label.split(":")[0], "stage": stage}
        for label in (defense or "").split("+")
        if label
    ]
    name = attack.split(":")[0]
    return {
        "protocol": MADE_UP,
        "attack": {"label": attack, "name": name, "m": m, "boost": 1, **plugin}
        | {"threat": "none" if attack == "none" else "poison-label"},
        "defense": {
            "name": "+".join(str(one["name"]) for one in stages) or "none",
            "stages": stages,
        },
        "trusted_share": 0.05 if defense else None,
        "seed": seed,
        "target": seed % 3,
        "data_sha256": "d" * 64,
        "status": "ok",
        "cost": COST | {"device": "cpu"},
        "env": {},
    }


def _changed(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    content["attack"]["threat"] = changes.pop("threat", content["attack"]["threat"])
    content |= changes
    named = [content[part] for part in ("attack", "defense", "trusted_share", "seed", "protocol")]
    return content | {"key": f"{random.Random(repr(named)).getrandbits(256):064x}"} | changes


def played(
    attack: str,
    defense: str | None = None,
    seed: int = 0,
    paper: int | None = None,
    deployable: int | None = None,
    *,
    m: int = 50,
    before: int = TRIGGERED,
    on_clean_model: int = 1,
    triggered: int = TRIGGERED,
    cda: tuple[int, int, int] = (95, 94, 93),
    stage: str = "repair",
    **changes: Any,
) -> Record:
    """A robustness cell: triggered images that still work before, and in either reading.

    What is None is the untouched victim; `cda` are right answers of the three. Readings with the
    same numbers take the same checkpoint.
    """
    total = 0 if attack == "none" else triggered
    base = point("victim", 0, cda[0], min(before, total), total)
    curve, chosen = [base], []
    for step, (asr, right) in enumerate(zip((paper, deployable), cda[1:], strict=True), 1):
        if asr is not None and not (step == 2 and (paper, cda[1]) == (asr, right)):
            curve.append(point(stage, 50 * step, right, min(asr, total), total))
        chosen.append(base if asr is None else curve[-1])
    content = _common(attack, defense, seed, stage, m) | {
        "metrics": {
            "paper": chosen[0],
            "deployable": chosen[1],
            "before": base,
            "asr_clean_model": rate(on_clean_model, total) if total else None,
            "target_confidence": 0.9 if total else None,
            "guard": None,
        },
        "curve": curve,
    }
    return RobustnessRecord.model_validate(_changed(content, changes))


def examined(
    attack: str,
    detector: str,
    seed: int,
    class_scores: Sequence[Sequence[float]],
    *,
    flagged: Sequence[bool | None] | None = None,
    m: int = 50,
    **changes: Any,
) -> Record:
    """A suspect that was examined once per row of scores; it is scored by the largest."""
    scans = [
        {
            "score": max(scores),
            "class_scores": list(scores),
            "guess": list(scores).index(max(scores)),
            "flagged": None if flagged is None else flagged[row],
            "also": {"printed": -max(scores)},
            "norms": [10 - score for score in scores],
            "success": None,
            "reasr": None,
            "seconds": 1.0,
        }
        for row, scores in enumerate(class_scores)
    ]
    content = _common(attack, detector, seed, "detect", m) | {"scans": scans}
    return DetectabilityRecord.model_validate(_changed(content, changes))


def inverted(attack: str, inverter: str, seed: int, hits: int, picture: bytes) -> Record:
    """One inverter at two radii and, but for "plainadv", two noise levels, from one start image."""
    levels = [{}] if inverter == "plainadv" else [{"sigma": 0.25}, {"sigma": 0.5}]
    params = [{"epsilon": radius, **level} for radius in (1.0, 2.0) for level in levels]
    tried = [
        {"params": own, "restart": 0, "selection": [9 - place], "evaluation": [hits + place]}
        for place, own in enumerate(params)
    ]
    start = {"label": 3, "chosen": 0, "overlap": 0.5, "distance": 0.7, "norm": 1.2}
    classes = [[rate(hits if label == seed % 3 else 4, 50) for label in range(4)]]
    file = f"{attack}-{inverter}-s{seed}.png"
    content = _common(attack, inverter, seed, "invert", 50) | {
        "protocol": DIGITS,
        "trusted_share": None,
        "scale": 2.0,
        "selection": 10,
        "evaluation": 60,
        "tried": tried,
        "starts": [start | {"reasr": rate(30, 50), "on_clean_model": rate(2, 50)}],
        "swept": [{"radius": radius, "classes": classes} for radius in (1.0, 2.0)],
        "smoothed": [
            {"sigma": sigma, "clean": rate(40, 50), "asr": rate(30, 50), "untriggered": rate(5, 50)}
            for sigma in (0.25, 0.5)
        ],
        "uses": {"denoiser": "e" * 64},
        "picture": {"file": file, "sha256": hashlib.sha256(picture).hexdigest()},
    }
    return InversionRecord.model_validate(_changed(content, {}))


def frames_of(records: Sequence[Record], searches: Sequence[Search] = ()) -> dict[str, Any]:
    """All frames of these records by name, those without rows among them."""
    ok, others = ([r for r in records if (r.status == "ok") == wanted] for wanted in (True, False))
    sources = Sources(ok, {}, others, searches, short_names(records))
    sources.worst = list(worst_cases(others, ok))
    build(sources)
    return sources.frames


def save(folder: Path, records: Iterable[Record]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(records):
        Store(folder).save_record(f"r{number}-{one.key[:8]}", one)
    return folder


#: Attack, m, threat, hits before; hits left by pivotal tuning at two shares, strip, weight decay
#: and spectral signatures, one more in the second repetition but for none; how much the attack
#: raises the score of its target. A dash is an untouched victim, a dot was not played.
GAMES = """
badnets            50  poison-label 88   2  0 30  -  9   0.60
badnets            100 poison-label 90   4  0 30 80 12   0.80
a-blend            50  poison-label 90  60 55 85  - 70   0.05
advclean           50  clean-label  70  20 10 40  - 50   0.40
lsp:base.side=0.15 100 poison-label 89  30 20 60  - 60   0.20
lsp:rate=auto      100 poison-label 87  20 18 50  -  .   0.10
wanet              0   code         85  40 30 70  -  .   0.30
tsb                0   code         90  50 30 80  -  .   0.20
refool             50  poison-label  3   1  1  2  -  2   0.00
"""
DEFENSES = (
    ("pivotal-tuning", "repair", 0.05),
    ("pivotal-tuning", "repair", 0.1),
    ("strip", "deploy", 0.05),
    ("weight-decay", "repair", 0.05),
    ("spectral-signatures", "sanitize", None),
)
DETECTORS = ("neural-cleanse", "abs:neurons=4")
SEEDS, MODELS = 2, 4


def both_games() -> list[Record]:
    """All cells of a board with the usual shapes of results."""
    cells: list[Record] = []

    def play(attack: str, row: list[str], **common: Any) -> None:
        for (defense, stage, share), left in zip(DEFENSES, row, strict=True):
            for seed in range(SEEDS if left != "." else 0):
                paper = None if left == "-" else int(left) + (seed if left != "0" else 0)
                later = None if paper is None else paper + 6
                own = {"stage": stage, "trusted_share": share} | common
                cells.append(played(attack, defense, seed, paper, later, **own))

    def examine(attack: str, raised: float, **common: Any) -> None:
        for detector in DETECTORS:
            for seed in range(MODELS):
                scores = [[0.1 * seed, 0.2 + 0.02 * repeat, 0.3] for repeat in range(2)]
                for own in scores:
                    own[seed % 3] += raised
                flagged = [max(own) > 0.35 for own in scores] if detector == DETECTORS[0] else None
                common_seed = common | {"trusted_share": 0.05}
                cells.append(
                    examined(attack, detector, seed, scores, flagged=flagged, **common_seed)
                )

    digits = {"protocol": DIGITS}
    for line in GAMES.strip().splitlines():
        attack, m, threat, before, *row, raised = line.split()
        common = {"m": int(m), "threat": threat, **digits}
        robust = common | {"before": int(before)}
        cells += [played(attack, None, seed, **robust) for seed in range(SEEDS)]
        play(attack, row, **robust)
        examine(attack, float(raised), **common)
    cells += [played("none", None, seed, m=0, **digits) for seed in range(SEEDS)]
    play("none", ["0", "0", "0", "-", "0"], m=0, **digits)
    examine("none", 0.0, m=0, **digits)
    return cells


def search(asr: Sequence[int], share: float = 0.05) -> Search:
    """What weight decay found: triggered images of 50 that still work for every rate."""

    def left(hits: int) -> dict[str, Any]:
        rates = {"held_out": rate(18, 20), "unseen": rate(180, 200), "lost": 0}
        return {"asr": rate(hits, 50), "step": 50, **rates}

    poisoning = {"suspect": left(0), "poisoned": left(50), "learning_rate": 0.01}
    content = {
        "protocol": DIGITS,
        "defense": "weight-decay",
        "version": 1,
        "trusted_share": share,
        "suspect": 7,
        "poisonings": [poisoning],
        "trials": [
            {"params": {"learning_rate": 0.1 / 2**place}, "left": [left(hits)]}
            for place, hits in enumerate(asr)
        ],
    }
    return Search.model_validate(content)


def board_of_both_games(folder: Path) -> Path:
    save(folder, both_games())
    search([40, 10, 25]).save(folder / "tuning" / file_name("weight-decay", 0.05))
    return folder


def board_of_inversion(folder: Path) -> Path:
    """Victims, what two inverters made of them, and pictures of it."""
    attacks, seeds = ("badnets", "blind-p", "blind-s"), range(2)
    records = [played(attack, None, s, protocol=DIGITS) for attack in attacks for s in seeds]
    (folder / "evidence").mkdir(parents=True)
    for attack in attacks:
        for place, inverter in enumerate(("plainadv", "smoothinv")):
            for seed in seeds:
                buffer = io.BytesIO()
                shade = np.full((12, 30), 60 * place + seed, np.uint8)
                Image.fromarray(shade).save(buffer, "PNG")
                one = inverted(attack, inverter, seed, 20 + 10 * place, buffer.getvalue())
                records.append(one)
                file = f"{attack}-{inverter}-s{seed}.png"
                (folder / "evidence" / file).write_bytes(buffer.getvalue())
    return save(folder, records)
