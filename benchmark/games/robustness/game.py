"""The robustness game (Pick your Poison, Alg. 1), as the harness knows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmark import metrics
from benchmark.games.base import Arrays, Claim, Extra, Game, Number, Played, Wrong
from benchmark.games.robustness.check import EXAMPLES, PARTS, check
from benchmark.games.robustness.record import RobustnessRecord
from benchmark.games.robustness.score import score
from benchmark.games.shapes import digest
from benchmark.protocol import Protocol
from benchmark.records.cell import CLEAN, Cell
from benchmark.records.record import DefenseRef

if TYPE_CHECKING:
    import torch

    from benchmark.games.experiment import Progress
    from benchmark.games.frames import Chapter
    from benchmark.games.robustness.play import Outcome
    from benchmark.runs.context import RunContext
    from benchmark.runs.planner import Planner

#: Two repairs that changed fewer answers may have done the same by chance.
CHANGED = 12


class RobustnessGame(Game[RobustnessRecord]):
    """How much of a backdoor a repair, a guard or a sanitizer leaves within a budget.

    Undefended victims, which all games rest on, are cells of it too.
    """

    name = "robustness"
    stages = ("sanitize", "repair", "deploy")
    players = "defenses"
    record = RobustnessRecord
    # Confidences are kept in half precision, which records once were not made of.
    close: ClassVar = {"target_confidence": 1e-3}

    def defenses(self, protocol: Protocol) -> tuple[str, ...]:
        return protocol.robustness.defenses

    def repetitions(self, protocol: Protocol) -> int:
        return protocol.robustness.seeds

    def shares(self, defense: DefenseRef, protocol: Protocol) -> tuple[float | None, ...]:
        trusting = {stage.stage for stage in defense.stages} - {"sanitize"}
        return protocol.robustness.shares if trusting else (None,)

    def rules(self, cell: Cell) -> Iterator[Wrong]:
        if cell.victim.attack.threat == "code" and cell.stage("sanitize"):
            yield "defense.stages", "who owns the training also decides what is trained on"

    def cells(
        self, planner: Planner, attacks: Sequence[str], defenses: Sequence[str]
    ) -> list[Cell]:
        """Clean models are defended too, which tells what a defense costs without an attack."""
        game = planner.protocol.robustness
        refs = planner.attacks(attacks, game.attacks)
        pipelines = [
            (planner.defense(spec, share), share)
            for spec in defenses
            for share in self.shares(planner.defense(spec), planner.protocol)
        ]
        cells: list[Cell] = []
        for seed in planner.seeds(game.seeds):
            cells += planner.undefended(refs, seed)
            cells += [
                Cell(self.name, planner.victim(attack, seed), defense, share)
                for attack in (CLEAN, *refs)
                for defense, share in pipelines
            ]
        return [cell for cell in cells if not any(self.rules(cell))]

    def turn(self, cell: Cell, protocol: Protocol) -> int:
        """First come repairs that trust the share of images that detectors get too."""
        return 0 if cell.stage("repair") and cell.trusted_share == protocol.shares[0] else 2

    def play(self, context: RunContext, cell: Cell, progress: Progress) -> Played:
        from benchmark.classifier import tensors_sha256
        from benchmark.games.robustness.play import defend

        outcome = defend(context, cell, progress)
        weights = outcome.model.state_dict()
        reason = context.distrust(cell.victim, outcome.labels.test, outcome.answers[0])
        if reason is None and not all(bool(part.isfinite().all()) for part in weights.values()):
            reason = "weights-not-finite"
        return Played(
            evidence=_evidence(outcome, context, cell),
            extra={"points": [(point.stage, point.step) for point in outcome.curve]},
            seconds=outcome.seconds if cell.trusted_share is not None else None,
            fields={"model_sha256": tensors_sha256(weights)},
            reason=reason,
        )

    def score(self, evidence: Arrays, extra: Extra, protocol: Protocol) -> dict[str, Any]:
        return score(evidence, extra["points"], protocol.budget)

    def extra(self, record: RobustnessRecord) -> Extra:
        return {"points": [(point.stage, point.step) for point in record.curve]}

    def check(
        self, record: RobustnessRecord, evidence: Arrays, protocol: Protocol
    ) -> Iterator[Wrong]:
        if record.metrics is None or not record.curve:
            yield "metrics", "are missing, or the curve"
        else:
            yield from check(record, evidence, protocol)

    def claims(self, record: RobustnessRecord, evidence: Arrays) -> Iterator[Claim]:
        """The same model gives the same answers. A sanitizer's cell begins with another one."""
        model = f"model {str(record.victim_sha256)[:12]}"
        about = f"the digest of the confidence of {model}"
        yield Claim("confidence", about, digest(evidence["confidence"]))
        if "examples" in evidence:
            yield Claim("images", "the shape of the images", str(evidence["examples"].shape[2:]))
        if not record.defense.sanitizes:
            first = digest(evidence["test"][:1], evidence["triggered"][:1])
            yield Claim("curve.0", f"the digest of the answers of {model}", first)
            drawn = f"held-out images, seed {record.seed}, r = {record.trusted_share}"
            about = f"the digest of the answers of {model} to {drawn}"
            yield Claim("curve.0.held_out", about, digest(evidence["held_out"][:1]))

    def answered(self, record: RobustnessRecord, evidence: Arrays) -> Mapping[str, np.ndarray]:
        # The clean model may be trained again elsewhere, and answer a little otherwise.
        clean = {"clean model's triggered": evidence["clean_model"]}
        victim = {name: evidence[name][0] for name in PARTS}
        return clean if record.defense.sanitizes else clean | victim

    def fingerprint(self, record: RobustnessRecord, evidence: Arrays) -> np.ndarray:
        """Wrong answers at all points, but for the victim's own and those of models that collapsed.

        They are those to test images alone, since targets differ. A repair that hardly changed an
        answer has none of its own.
        """
        labels, answers = evidence["labels_test"], evidence["test"].astype(np.int64)
        repaired = any(point.stage == "repair" for point in record.curve)
        changed = (answers != answers[0]).sum(1)
        points = [
            number
            for number in range(min(1, len(answers) - 1), len(answers))
            if not (repaired and changed[number] < CHANGED)
            and not metrics.near_chance(metrics.accuracy(answers[number], labels), labels)
        ]
        point, image = np.nonzero(answers[points] != labels)
        return np.asarray((point << 48) + (image << 16) + answers[points][point, image])

    def defended(self, record: RobustnessRecord) -> float:
        assert record.metrics is not None
        chosen = record.metrics.paper
        return chosen.cda.value if record.attack.clean else -chosen.asr.value

    def rates(self, record: RobustnessRecord) -> dict[str, metrics.Rate]:
        assert record.metrics is not None
        chosen = record.metrics.paper
        return {"CDA": chosen.cda, "ASR": chosen.asr}

    def chapter(self) -> Chapter:
        from benchmark.games.robustness.frames import CHAPTER

        return CHAPTER

    def headline(self, record: RobustnessRecord) -> dict[str, Number]:
        found = record.metrics
        assert found is not None
        rates: dict[str, metrics.Rate] = {
            "CDA before": found.before.cda,
            "ASR before": found.before.asr,
            "CDA": found.paper.cda,
            "ASR": found.paper.asr,
            "ASR, deployable": found.deployable.asr,
        }
        return {
            name: Number(rate.value, *rate.interval()) for name, rate in rates.items() if rate.total
        }


def _evidence(outcome: Outcome, context: RunContext, cell: Cell) -> dict[str, np.ndarray]:
    """Predictions at every point of the curve, with the labels to judge them by."""
    victim = cell.defended
    confidence = context.store.victims.tensors(victim.key, "confidence")["confidence"]
    arrays: dict[str, np.ndarray] = {
        "labels_held_out": outcome.labels.held_out,
        "labels_test": outcome.labels.test,
        "target": np.array(outcome.labels.target, np.int16),
        # Half precision: a mean of thousands keeps four digits, and the files stay small.
        "confidence": confidence.numpy().astype(np.float16),
        "clean_model": context.clean_answers(victim),
    }
    if outcome.labels.source is not None:
        arrays["source"] = np.array(outcome.labels.source, np.int16)
    for part in ("held_out", "test", "triggered"):
        arrays[part] = np.stack([getattr(answers, part) for answers in outcome.answers])
    if (examples := _examples(context, cell)) is not None:
        arrays["examples"] = examples.cpu().numpy()
    if context.experiment.recipe.followed and not cell.defense.stages:
        answers = context.store.victims.tensors(victim.key, "epochs")
        arrays |= {f"epochs_{name}": found.numpy() for name, found in answers.items()}
    if outcome.suspicion is not None:
        arrays["suspicion_test"], arrays["suspicion_triggered"] = outcome.suspicion
    return arrays


def _examples(context: RunContext, cell: Cell) -> torch.Tensor | None:
    """A few images that the ASR counts, without and with the trigger, uint8 (2, E, C, H, W).

    They are kept once per attack, with its first undefended model.
    """
    import torch

    victim, test = cell.victim, context.experiment.splits.test
    if cell.defense.stages or victim.seed or victim.attack.clean:
        return None
    shown = metrics.attacked(test.labels, *context.aim(victim)).nonzero().flatten()[:EXAMPLES]
    if not len(shown):
        return None
    triggered = context.triggered(victim)
    return torch.stack([test.pixels[shown], triggered[shown]])
