"""The inversion game (Sun and Kolter, Tab. 2), as the harness knows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmark import metrics
from benchmark.api import Defense
from benchmark.games.base import Arrays, Claim, Extra, Game, Number, Played, Wrong
from benchmark.games.inversion.check import check
from benchmark.games.inversion.contests import selected
from benchmark.games.inversion.record import InversionRecord
from benchmark.games.inversion.score import score
from benchmark.games.inversion.settings import Inversion
from benchmark.games.robustness.check import PARTS
from benchmark.games.shapes import digest
from benchmark.protocol import Protocol
from benchmark.records.cell import Cell
from benchmark.records.record import DefenseRef
from benchmark.specs import RegistryError, parse, with_settings

if TYPE_CHECKING:
    from benchmark.api import Inverter
    from benchmark.games.experiment import Experiment, Progress
    from benchmark.games.frames import Chapter
    from benchmark.runs.context import RunContext
    from benchmark.runs.planner import Planner

#: What every inverter of a victim begins from and is compared with.
_GIVEN = ("masks", "starts", "labels_starts", "triggered")


class InversionGame(Game[InversionRecord]):
    """How well an inverter finds a trigger from one clean image."""

    name = "inversion"
    stages = ("invert",)
    players = "inverters"
    record = InversionRecord
    # Once computed in single precision.
    close: ClassVar = {"distance": 1e-4, "norm": 1e-4}

    def defenses(self, protocol: Protocol) -> tuple[str, ...]:
        return protocol.inversion.inverters if protocol.inversion else ()

    def repetitions(self, protocol: Protocol) -> int:
        return protocol.inversion.models if protocol.inversion else 0

    def shares(self, defense: DefenseRef, protocol: Protocol) -> tuple[float | None, ...]:
        return (None,)

    def rules(self, cell: Cell) -> Iterator[Wrong]:
        if cell.victim.attack.clean:
            yield "attack.threat", "is none, there is no trigger to reverse"

    def cells(
        self, planner: Planner, attacks: Sequence[str], defenses: Sequence[str]
    ) -> list[Cell]:
        game = planner.protocol.inversion
        assert game is not None
        known = (*game.attacks, *planner.protocol.robustness.attacks)
        refs = planner.attacks(attacks, known, game.attacks)
        inverters = [_inverter(planner, spec, game) for spec in defenses]
        cells: list[Cell] = []
        for seed in planner.seeds(game.models):
            cells += planner.undefended(refs, seed)
            cells += [
                Cell(self.name, planner.victim(attack, seed), inverter, None)
                for attack in refs
                for inverter in inverters
            ]
        return cells

    def check_enough(self, experiment: Experiment, cell: Cell) -> None:
        from benchmark.games.inversion.data import check_enough

        game, target = experiment.protocol.inversion, experiment.target(cell.victim.seed)
        assert game is not None
        source = cell.victim.attack.source_class(target, len(experiment.class_names))
        check_enough(experiment, game, target, source)

    def play(self, context: RunContext, cell: Cell, progress: Progress) -> Played:
        from benchmark.api import Inverter
        from benchmark.games.evaluation import predictor
        from benchmark.games.inversion import evidence
        from benchmark.games.inversion.data import draw
        from benchmark.games.inversion.play import play

        experiment, seed = context.experiment, cell.victim.seed
        game, ref, attack = (
            context.setup.protocol.inversion,
            cell.stage("invert"),
            cell.victim.attack,
        )
        assert ref is not None
        assert game is not None

        def configure(params: Mapping[str, float]) -> Inverter:
            inverter = context.registry.create(Defense, with_settings(ref.label, params))
            assert isinstance(inverter, Inverter)
            return inverter

        suspect, asked = context.load(cell.victim), context.evaluation_set(cell.victim)
        answers = asked.predict(predictor(suspect, experiment.recipe.precision))
        outcome = play(
            experiment,
            draw(experiment, asked, context.attack_of(cell.victim), game, seed),
            suspect,
            context.load(cell.victim.clean),
            configure,
            game,
            seed_parts=(attack.label, attack.m, ref.name, seed),
            progress=progress,
        )
        return Played(
            evidence=evidence.arrays(outcome),
            extra={
                "runs": [(attempt.params, attempt.restart) for attempt in outcome.attempts],
                "radii": list(outcome.classes),
            },
            seconds=outcome.seconds,
            fields={"uses": configure({}).uses()},
            reason=context.distrust(cell.victim, asked.labels.test, answers),
            picture=evidence.picture(outcome),
        )

    def score(self, evidence: Arrays, extra: Extra, protocol: Protocol) -> dict[str, Any]:
        return score(evidence, extra["runs"], extra["radii"])

    def extra(self, record: InversionRecord) -> Extra:
        return {
            "runs": [(run.params, run.restart) for run in record.tried],
            "radii": [level.radius for level in record.swept],
        }

    def check(
        self, record: InversionRecord, evidence: Arrays, protocol: Protocol
    ) -> Iterator[Wrong]:
        assert protocol.inversion is not None
        if record.picture is None:
            yield "picture", "is missing"
        yield from check(record, evidence, protocol.inversion)

    def claims(self, record: InversionRecord, evidence: Arrays) -> Iterator[Claim]:
        victim = f"{record.attack}, seed {record.seed}, {record.protocol.recipe}"
        # Other hardware sums in another order, which shows in the last digits.
        scale = np.array(float(f"{float(evidence['scale']):.4g}"))
        said = digest(scale, *(evidence[name] for name in _GIVEN))
        yield Claim("scale", f"the digest of the trigger of {victim}", said)
        yield Claim("classes", "the number of classes", str(len(record.swept[0].classes[0])))
        yield Claim("images", "the shape of the images", str(evidence["starts"].shape[1:]))
        has = "there" if "smoothed" in evidence else "none"
        inverter = record.defense.stages[0].label
        yield Claim("smoothed", f"the smoothed classifier of {inverter}", has)

    def answered(self, record: InversionRecord, evidence: Arrays) -> Mapping[str, np.ndarray]:
        """Without noise a smoothed classifier is the victim, but for what a denoiser changes."""
        sigmas = evidence.get("sigmas", np.empty(0)).tolist()
        if record.uses or 0 not in sigmas:
            return {}
        return dict(zip(PARTS, evidence["smoothed"][sigmas.index(0)], strict=True))

    def fingerprint(self, record: InversionRecord, evidence: Arrays) -> np.ndarray:
        """What inverters changed on their start images."""
        return (evidence["inverted"].astype(np.float64) - evidence["starts"]).ravel()

    def defended(self, record: InversionRecord) -> float:
        return fmean(rate.hits for rate in selected(record, restarts=False))

    def chapter(self) -> Chapter:
        from benchmark.games.inversion.frames import CHAPTER

        return CHAPTER

    def headline(self, record: InversionRecord) -> dict[str, Number]:
        return {"ASR selected": Number(*metrics.mean_interval(selected(record, restarts=False)))}


def _inverter(planner: Planner, spec: str, game: Inversion) -> DefenseRef:
    """An inverter alone, whose configurations the protocol sets and nobody else."""
    name, asked = parse(spec)
    grid = game.configurations.get(name, {})
    swept = sorted(asked.keys() & grid.keys())
    # What the protocol itself sets there is for the run over all classes.
    if swept and spec not in game.inverters:
        raise RegistryError(
            f"{spec!r}: {swept[0]} is what {planner.protocol.name} takes the best of, it cannot "
            "be set"
        )
    found = planner.defense(spec)
    # A mistake in the protocol's configurations shows before anything is played.
    for key, values in grid.items():
        for value in values:
            planner.registry.create(Defense, with_settings(found.stages[0].label, {key: value}))
    return found
