"""TopoPrior (TopoTrigger): a trigger is a small mask in one piece, wherever it is put."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from benchmark import Classifier, Count, Inverter, Positive, Starts, hookimpl
from benchmark.inversion import FrozenClassifier, adam_steps, cross_entropy_to, logits_of
from benchmark.triggers import Patch, Trigger

#: Side of the tiles whose topology is looked at.
TILE = 20

#: How steep the sigmoids are that masks and colours pass.
SLOPE = 30.0


def moved(trigger: Tensor, copies: int, rng: Generator) -> Tensor:
    """Copies (J, B, C, H, W) of (J, C, H, W), each scaled, turned and shifted by chance.

    Scales are 0.8 to 1.2, angles up to 30 degrees, shifts up to 0.3 of half the image; what
    comes in from outside is 0.
    """
    draw = torch.rand(4, len(trigger) * copies, generator=rng, device=rng.device) * 2 - 1
    scale, angle = 1 + 0.2 * draw[0], torch.pi / 6 * draw[1]
    along, across = scale * angle.cos(), scale * angle.sin()
    rows = [along, -across, 0.3 * draw[2], across, along, 0.3 * draw[3]]
    repeated = trigger.repeat_interleave(copies, 0)
    grid = affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(repeated.shape), False)
    copied: Tensor = grid_sample(repeated, grid, align_corners=False)
    return copied.view(-1, copies, *trigger.shape[1:])


def size_and_spread(raw: Tensor) -> Tensor:
    """Roots of the mask's mean and of its soft area, and its deviation along x and y, (J,).

    `raw` (J, 1, H, W) are the variables of the mask, before the sigmoid.
    """
    mask = torch.sigmoid(SLOPE * raw)[:, 0]
    area = torch.sigmoid(2 * SLOPE * raw + 6)[:, 0]
    terms = (mask.mean((1, 2)) + 1e-12).sqrt() + (area.mean((1, 2)) + 1e-12).sqrt()
    for dim in (1, 2):
        share = mask.sum(3 - dim) / (mask.sum((1, 2)) + 1e-8)[:, None]
        side = mask.shape[dim]
        place = torch.arange(side, device=raw.device) / side - 0.5
        mean = (share * place).sum(1)
        variance = (share * place**2).sum(1) - mean**2
        terms = terms + (variance.clamp(min=0) + 1e-12).sqrt()
    return terms


def one_piece(mask: Tensor) -> Tensor:
    """The mask (H, W), on the CPU, with its critical pixels at what leaves one component.

    Components are those of {mask >= t} as t falls from 1, with eight neighbours per pixel.
    The one born first, at the highest pixel, shall live all the time: from 1 to 0, where the
    lowest pixel ends it. Every other one shall die as it is born: its highest pixel is put
    to the value of the pixel that joins it to an older one.
    """
    import gudhi  # here, since listing does without

    wanted, flat = mask.clone().flatten(), mask.flatten()
    # gudhi grows sublevel sets and counts the first dimension fastest.
    cells = gudhi.CubicalComplex(
        dimensions=list(mask.shape[::-1]), top_dimensional_cells=-flat.double().numpy()
    )
    cells.compute_persistence()
    pairs, _ = cells.cofaces_of_persistence_pairs()
    if pairs:
        births, deaths = torch.as_tensor(pairs[0]).long().unbind(1)
        wanted[births] = flat[deaths]
    wanted[flat.argmin()], wanted[flat.argmax()] = 0, 1
    return wanted.view_as(mask)


def topology_loss(masks: Tensor) -> Tensor:
    """Squared error (J,) of the critical pixels of masks (J, H, W), tile by tile.

    A tile is empty, and skipped, where no pixel is more opaque than not: a sigmoid is never 0.
    """
    wanted = masks.detach().cpu().clone()
    for one in wanted:
        for rows in one.split(TILE):
            for tile in rows.split(TILE, 1):
                if tile.max() >= 0.5:
                    tile.copy_(one_piece(tile))
    return (masks - wanted.to(masks.device)).square().sum((1, 2))


@dataclass
class TopoPrior(Inverter):
    """Reverse a mask and colours with a prior on size and topology, from one image.

    Minimises, by Adam, the CE of the image under random affine copies of the trigger, plus
    terms that grow with progress for the size and the spread of the mask, plus, late, its
    distance from a single connected component (`one_piece`). From the authors' code, with
    these differences: the target is known, so that CE to it replaces the probability of the
    source class, and there is no meta-classifier; one image is met by as many copies of the
    trigger as were images in a batch; the signs of the topology loss, which in that code
    removes the component it should keep, are derived anew. The authors' second trigger per
    class, which has to differ from the first, is left out: other restarts find others.
    """

    name, version, paper = "topoprior", 1, "Hu et al., ICLR 2022"
    steps: Count = 81
    warmup: Count = 10
    copies: Count = 5
    learning_rate: Positive = 0.03
    size_weight: Positive = 10.0
    topology_weight: Positive = 100.0
    topology_after: Count = 50

    def invert(self, model: Classifier, starts: Starts, rng: Generator) -> Iterator[Trigger]:
        frozen = FrozenClassifier(model)
        images, targets = starts.images[:, None], starts.targets
        j, c, h, w = starts.images.shape
        draw = 0.02 * torch.rand(j, 1 + c, h, w, generator=rng, device=rng.device) - 0.01
        raw, colours = draw[:, :1] - 0.1, draw[:, 1:].clone()
        numbers = count(-self.warmup)

        def losses() -> Tensor:
            number = next(numbers)
            trigger = torch.sigmoid(SLOPE * torch.cat([raw, colours], 1))
            copies = moved(trigger, self.copies, rng)
            mask, pattern = copies[:, :, :1], copies[:, :, 1:]
            logits = logits_of(frozen, images + mask * (pattern - images))
            progress = max(0.0, number / self.steps)
            loss = cross_entropy_to(logits, targets)
            loss = loss + self.size_weight * progress * size_and_spread(raw)
            if number > self.topology_after:
                loss = loss + self.topology_weight * topology_loss(trigger[:, 0])
            return loss

        for _ in adam_steps(
            [raw, colours],
            losses,
            steps=self.warmup + self.steps,
            learning_rate=self.learning_rate,
            betas=(0.5, 0.7),
        ):
            yield Patch(torch.sigmoid(SLOPE * raw), torch.sigmoid(SLOPE * colours))


@hookimpl
def register_defenses(register: Callable[[type], None]) -> None:
    register(TopoPrior)
