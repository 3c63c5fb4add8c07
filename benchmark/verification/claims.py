"""What records say of things that they share: they must say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from benchmark.games.all import GAMES
from benchmark.games.base import Claim
from benchmark.games.shapes import digest
from benchmark.records.evidence import Arrays
from benchmark.records.record import NONE, AttackRef, Record, StageRef
from benchmark.records.strict import Finding

if TYPE_CHECKING:
    from benchmark.registry import Registry

Ref = AttackRef | StageRef
#: One model gives so many other answers at most in another precision.
APART = 0.05


class Claims:
    """All claims of a folder, with the first file that makes each."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], dict[str, str]] = {}
        self._plugins: dict[Claim, tuple[Ref, str]] = {}
        self._answers: dict[str, dict[bytes, tuple[np.ndarray, str]]] = {}

    def add(self, claims: Mapping[Claim, Ref | None], file: str) -> None:
        for claim, ref in claims.items():
            self._said.setdefault((claim.field, claim.about), {}).setdefault(claim.said, file)
            if ref is not None:
                self._plugins.setdefault(claim, (ref, file))

    def answered(self, record: Record, arrays: Arrays, file: str) -> None:
        """Keep what the victim answered; see `benchmark.games.base.Game.answered`."""
        for name, answers in GAMES[record.game].answered(record, arrays).items():
            about = f"model {str(record.victim_sha256)[:12]} to its {name} images"
            self._answers.setdefault(about, {}).setdefault(answers.tobytes(), (answers, file))

    def other_answers(self, board: Claims | None = None) -> Iterator[Finding]:
        """Where a record has a model answer otherwise than the record that asks it most does."""
        for about, found in self._answers.items():
            known = found | (board._answers.get(about, {}) if board else {})
            most, where = max(known.values(), key=lambda one: len(one[0]))
            for answers, file in found.values():
                apart = int((answers != most[: len(answers)]).sum())
                if apart > APART * len(answers):
                    reason = (
                        f"{apart} of {len(answers)} answers of {about} are not those in {where}"
                    )
                    yield Finding(file, "evidence", reason)

    def contradictions(self, board: Claims | None = None) -> Iterator[Finding]:
        """Where records say something else than the first of them, or than those of a board."""
        yield from self.other_answers(board)
        for (field, about), said in self._said.items():
            known = said if board is None else board._said.get((field, about), said)
            first, where = next(iter(known.items()))
            where = f"in {where}" if board is None else "on the board"
            for other, file in said.items():
                if other != first and (board is None or other not in known):
                    advice = "; remove the older records in the same change" if board else ""
                    reason = f"{about} is {other}; {where} it is {first}{advice}"
                    yield Finding(file, field, reason)

    def unlike_installed(self, registry: Registry) -> Iterator[Finding]:
        """Plugins that are not what the installed ones of the same version are."""
        from benchmark.runs.replay import same_plugin
        from benchmark.specs import RegistryError

        for claim, (ref, file) in self._plugins.items():
            try:
                if registry.version_of(claim.field, ref.name) == ref.version:
                    same_plugin(ref, registry)
            except RegistryError as error:
                yield Finding(file, claim.field, str(error))


def claims_of(record: Record, arrays: Arrays | None) -> dict[Claim, Ref | None]:
    """What a record says of its plugins, of its victim and of the images."""
    found: dict[Claim, Ref | None] = {}
    refs: tuple[Ref, ...] = (record.attack, *record.defense.stages)
    for ref in refs:
        if ref.name != NONE:
            kind, role = _role(ref)
            params = json.dumps(ref.params, sort_keys=True)
            found[Claim(kind, ref.label, f"{role}, version {ref.version}, {params}")] = ref
            # Rows of a board are told apart by labels, and keys of cells by what they stand for.
            same = f"the label of {ref.name}, version {ref.version}, {params}"
            found[Claim(kind, same, ref.label)] = None
    found[Claim("data_sha256", "the digest of the images", record.data_sha256[:12])] = None
    if (init := record.protocol.init) is not None:
        about = f"the start of recipe {record.protocol.recipe}"
        found[Claim("protocol.init", about, init[:12])] = None
    victim = f"{record.attack}, seed {record.seed}, {record.protocol.recipe}"
    if record.victim_sha256 is not None:
        # A sanitizer that removes nothing leaves the same model.
        found[Claim("victim_sha256", f"model {record.victim_sha256[:12]}", victim)] = None
    if arrays is None:
        return found
    for name in arrays:
        if name == "labels_held_out":
            drawn = f"of seed {record.seed}, r = {record.trusted_share}"
            found[Claim(name, f"the digest of the labels {drawn}", digest(arrays[name]))] = None
        elif name.startswith("labels_") and name != "labels_starts":
            found[Claim(name, "the digest of the labels", digest(arrays[name]))] = None
    if "labels_test" in arrays:
        classes = str(int(arrays["labels_test"].max()) + 1)
        found[Claim("classes", "the number of classes", classes)] = None
    return found | dict.fromkeys(GAMES[record.game].claims(record, arrays))


def _role(ref: Ref) -> tuple[str, str]:
    return ("attack", ref.threat) if isinstance(ref, AttackRef) else ("defense", ref.stage)
