"""What an inversion game is played with: start images, images to judge by, the true trigger."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.api import Attack, Images
from benchmark.games import checks
from benchmark.games.evaluation import EvaluationSet
from benchmark.games.experiment import Experiment
from benchmark.games.inversion.settings import Inversion
from benchmark.games.transfer import changed_pixels
from benchmark.images import ImageSet, to_bytes, to_unit
from benchmark.metrics import attacked
from benchmark.protocol import ProtocolError


@dataclass(frozen=True)
class InversionData:
    """What one game is played with; the inverter sees the start images and the target only.

    Attributes:
        starts: S images that the ASR counts, from the trusted split.
        triggered_starts: float32 (S, C, H, W), the same with the true trigger.
        selection: images on which a configuration is chosen, from the validation split.
        evaluation: images on which it is reported, from the test split.
        triggered: uint8, the evaluation images with the true trigger.
        masks: bool (N, H, W), pixels that the true trigger changes on each of them.
        scale: mean L2 norm of what it changes there, which no inverter is told.
        source: the only class whose images the attack is for, None for all but the target.
    """

    starts: ImageSet
    triggered_starts: Images
    selection: ImageSet
    evaluation: ImageSet
    triggered: Tensor
    target: int
    masks: Tensor
    scale: float
    source: int | None = None


def check_enough(experiment: Experiment, game: Inversion, target: int, source: int | None) -> None:
    """Find out, before anything is trained, that too few images are of classes to attack.

    Raises:
        ProtocolError: fewer than the start images, or none to choose or judge by.
    """
    of = f"other classes than the target {target}"
    if source is not None:
        of = f"class {source}, which the attack is for"
    splits = experiment.splits
    there = int(attacked(splits.trusted.labels, target, source).sum())
    if game.start_images > there:
        raise ProtocolError(
            f"{game.start_images} start images asked for, the trusted split has {there} of {of}"
        )
    for name, labels in (
        ("evaluation", splits.test.labels[: game.evaluation]),
        ("selection", splits.validation.labels[: game.selection]),
    ):
        if not attacked(labels, target, source).any():
            raise ProtocolError(f"none of the {len(labels)} {name} images is of {of}")


def draw(
    experiment: Experiment,
    evaluation_set: EvaluationSet,
    attack: Attack,
    game: Inversion,
    seed: int,
) -> InversionData:
    """Draw the start, selection and evaluation images of one repetition."""
    splits, target, source = experiment.splits, evaluation_set.target, evaluation_set.source
    rng = torch.Generator().manual_seed(experiment.protocol.seed("inversion", "starts", seed))
    check_enough(experiment, game, target, source)
    asked = attacked(splits.trusted.labels, target, source).nonzero().flatten()
    order = torch.randperm(len(asked), generator=rng).to(asked.device)
    starts = splits.trusted.subset(asked[order[: game.start_images]])
    images = to_unit(starts.pixels)
    triggered = attack.trigger(images.clone(), experiment.rng("inversion", "trigger", seed))
    triggered = checks.images(triggered, images, f"{attack.name}.trigger")
    evaluation = splits.test.subset(torch.arange(game.evaluation, device=experiment.device))
    selection = splits.validation.subset(torch.arange(game.selection, device=experiment.device))
    stamped = evaluation_set.triggered[: game.evaluation]
    change = to_unit(stamped) - to_unit(evaluation.pixels)
    scale = change.flatten(1).norm(dim=1).mean().item()
    if not scale:
        raise ValueError(f"the trigger of {attack.name} changes no image, so none can be inverted")
    return InversionData(
        starts=starts,
        triggered_starts=to_unit(to_bytes(triggered)),
        selection=selection,
        evaluation=evaluation,
        triggered=stamped,
        target=target,
        masks=changed_pixels(stamped, evaluation.pixels),
        scale=scale,
        source=source,
    )
