"""A suspect model beside the clean images that its owner trusts, ready to be examined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from benchmark.classifier import Classifier, channel_statistics
from benchmark.games.evaluation import ask, narrow, predictor
from benchmark.images import ImageSet, TrustedData
from benchmark.metrics import Rate, accuracy, near_chance
from benchmark.protocol import named_seed
from benchmark.suspect.adapter import Adapted, ModelError, adapt, told
from benchmark.suspect.images import Album, in_channels, in_order_of

#: Mean and deviation that images are usually normalised by, besides those of the set itself.
USUAL = {
    "pixels from 0 to 1": ([0.0], [1.0]),
    "mean and std 0.5": ([0.5], [0.5]),
    "ImageNet's mean and std": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
#: So many images tell one normalisation from another.
TRIED = 256


@dataclass(frozen=True)
class Suspect:
    """A model and the images it is examined with.

    Attributes:
        predictions: the model's answers to all of them, int16 (N,).
        notes: what was noticed or assumed on the way.
    """

    model: Adapted
    trusted: TrustedData
    class_names: tuple[str, ...]
    predictions: NDArray[np.int16]
    notes: tuple[str, ...]

    @property
    def accuracy(self) -> Rate:
        """Of the model on the trusted images."""
        return accuracy(self.predictions, narrow(self.trusted.labels))


def answers(model: Classifier, pixels: Tensor) -> NDArray[np.int16]:
    """Predicted classes (N,), computed in float32 as the model's own code would.

    Raises:
        ModelError: the model's own code fails.
    """
    try:
        return ask(predictor(model, "float32"), pixels)
    except Exception as error:  # somebody's code, which may refuse so many images at once
        raise ModelError(
            f"the model fails on {len(pixels)} images ({told(error)}); mend its forward"
        ) from error


def prepare(
    model: nn.Module,
    album: Album,
    *,
    class_names: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    anyway: bool = False,
    device: torch.device | str = "cpu",
) -> Suspect:
    """Fit model and images to each other, and see how well the model knows them.

    Args:
        class_names: of the model's outputs, in their order; by default the album's own.
        mean, std: what the model's images are normalised by, a number for all channels or one
            for each; where they are not given the usual ones are tried.
        anyway: go on with a model that is not better than guessing.

    Raises:
        UserError: they do not fit, or the model only guesses, as far as they can tell.
    """
    given = album.images.pixels
    channels = _channels(model, int(given.shape[1]))
    pixels = in_channels(given, channels)
    shape = (channels, int(pixels.shape[2]), int(pixels.shape[3]))
    adapted = adapt(model, shape).to(device)
    album = in_order_of(
        Album(ImageSet(pixels, album.images.labels), album.class_names, album.notes),
        class_names,
        adapted.classes,
    )
    if len(there := album.images.labels.unique()) < 2:
        raise ModelError(
            f"all {len(given)} images are of class {album.class_names[int(there)]}; give some of "
            "every class, each class in a folder of its own"
        )
    images, notes = album.images.to(device), list(album.notes)
    if given.shape[1] != channels:
        notes.append("grey images are shown to the model as colour ones")
    if mean is not None or std is not None:
        adapted.normalise_by(
            _statistics("mean", 0.0 if mean is None else mean, channels),
            _statistics("std", 1.0 if std is None else std, channels),
        )
    elif not isinstance(model, Classifier):
        notes.append(_normalise(adapted, images))
    trusted = TrustedData(images.pixels, images.labels)
    predictions = answers(adapted, images.pixels)
    suspect = Suspect(adapted, trusted, album.class_names, predictions, tuple(notes))
    labels = narrow(images.labels)
    if near_chance(suspect.accuracy, labels) and not anyway:
        raise ModelError(_guesses(suspect, labels))
    return suspect


@torch.no_grad()
def narrowed(suspect: Suspect, only: Sequence[str]) -> Suspect:
    """The suspect as a classifier of some of its classes, with their images.

    A trigger that puts every image into its class does so among fewer classes too. What is
    compared with it are the triggers of the others that are named.

    Args:
        only: names of at least three classes, since fewer tell nothing of what is usual.

    Raises:
        ModelError: fewer, one that the model does not have, or images of fewer than two.
    """
    names = tuple(dict.fromkeys(only))
    if unknown := [name for name in names if name not in suspect.class_names]:
        few = ", ".join(suspect.class_names[:5])
        raise ModelError(f"--only names {unknown[0]}, which is no class of the model ({few}, ...)")
    if len(names) < 3:
        raise ModelError(f"--only names {len(names)} classes; name three or more to compare")
    kept = torch.tensor([suspect.class_names.index(name) for name in names])
    model = suspect.model.private_copy()
    head = nn.Linear(model.head.in_features, len(names), model.head.bias is not None)
    head.weight.copy_(model.head.weight[kept])
    if model.head.bias is not None:
        head.bias.copy_(model.head.bias[kept])
    model.head = head.to(model.mean.device)
    rows = torch.isin(suspect.trusted.labels.cpu(), kept).nonzero().flatten()
    trusted = suspect.trusted.subset(rows.to(suspect.trusted.device))
    if (there := len(trusted.labels.unique())) < 2:
        raise ModelError(
            f"there are images of {there} of the {len(names)} classes that --only names; give some "
            "of each"
        )
    places = {int(label): place for place, label in enumerate(kept)}
    labels = torch.tensor([places[label] for label in trusted.labels.tolist()])
    trusted = TrustedData(trusted.pixels, labels.to(trusted.device))
    note = f"examined as a classifier of {len(names)} of its {len(suspect.class_names)} classes"
    return Suspect(
        model.eval(), trusted, names, answers(model, trusted.pixels), (*suspect.notes, note)
    )


def _channels(model: nn.Module, given: int) -> int:
    """Of the images that a model takes: those of its convolutions that are as many, or the first.

    The first one that is registered may be called later than others.
    """
    found = [p.in_channels for p in model.modules() if isinstance(p, nn.Conv2d) and p.in_channels]
    return given if given in found or not found else found[0]


def _statistics(name: str, given: float | Sequence[float], channels: int) -> Tensor:
    values = torch.as_tensor(given, dtype=torch.float32).reshape(-1)
    fits = len(values) in (1, channels) and bool(values.isfinite().all())
    if not fits or (name == "std" and float(values.min()) <= 0):
        raise ModelError(
            f"--{name} is {','.join(f'{v:g}' for v in values.tolist())}; say one number, or "
            f"{channels} with commas between them{', above 0' if name == 'std' else ''}"
        )
    return values.expand(channels)


def _normalise(model: Adapted, images: ImageSet) -> str:
    """Set the usual normalisation under which the model is right most often, and say which."""
    channels = images.pixels.shape[1]
    usual = {
        name: (torch.tensor(mean).expand(channels), torch.tensor(std).expand(channels))
        for name, (mean, std) in USUAL.items()
        if len(mean) in (1, channels)
    } | {"mean and std of these images": channel_statistics(images.pixels)}
    rng = torch.Generator().manual_seed(0)
    shown = images.subset(torch.randperm(len(images), generator=rng)[:TRIED].to(images.device))
    right = {}
    for name, statistics in usual.items():
        model.normalise_by(*statistics)
        right[name] = accuracy(answers(model, shown.pixels), narrow(shown.labels)).hits
    best = max(right, key=lambda name: right[name])
    model.normalise_by(*usual[best])
    return (
        f"no --mean and --std were given; with {best} the model is right most often, on "
        f"{right[best]} of {len(shown)} images, and so it is examined"
    )


def _guesses(suspect: Suspect, labels: NDArray[np.int16]) -> str:
    """What to say of a model that may be guessing, and of the order that its classes may have."""
    right, names = suspect.accuracy, suspect.class_names
    said = f"the model is right on {right.hits} of {right.total} images ({right.value:.0%})"
    most = np.bincount(labels).max()
    if right.hits >= most and Rate(right.total, right.total).interval()[0] <= most / right.total:
        return (
            f"{said}, and with {most} of them of class {names[np.bincount(labels).argmax()]} these "
            "are too few to tell whether it guesses; give more, above all of the other classes "
            "(--anyway examines it all the same)"
        )
    said += ", no better than guessing"
    table = np.zeros((len(names), len(names)), int)
    np.add.at(table, (labels, suspect.predictions), 1)
    rows, outputs = linear_sum_assignment(table, maximize=True)
    if not near_chance(Rate(int(table[rows, outputs].sum()), right.total), labels):
        order = ",".join(names[k] for k in np.argsort(outputs))
        return (
            f"{said}; in another order of classes it is right on {table[rows, outputs].sum()}: say "
            f"--classes {order} if these are its outputs"
        )
    return (
        f"{said}; are --mean, --std, --size and the order of classes as in its training? (--anyway "
        "examines it all the same)"
    )


@contextmanager
def global_seed(device: torch.device, game: str, name: str) -> Iterator[None]:
    """Torch's global generators, seeded for a plugin; afterwards they are as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(named_seed(game, "global", name))
        yield
