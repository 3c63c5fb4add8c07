"""What data sets and architectures have to hold."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark import data
from benchmark.api import Architecture, Dataset, Source
from benchmark.classifier import Classifier
from benchmark.conformance import tiny
from benchmark.conformance.subject import DoesNotApply, Watch
from benchmark.games.checks import RuleViolation
from benchmark.games.experiment import new_model
from benchmark.images import to_unit


def play_dataset(dataset: Dataset, watch: Watch) -> Mapping[str, Tensor]:
    """Decode the data set, if its files are on this machine."""
    files = dataset.files

    def only_here(folders: Any) -> Any:
        found = files(folders)
        if found is None:
            raise DoesNotApply("its files are not on this machine; see $POISONGAMES_DATA")
        return found

    vars(dataset)["files"] = only_here
    watch.over(dataset, "decode")
    with tempfile.TemporaryDirectory() as cache:
        source = data.load(dataset, cache=Path(cache))
        _check(dataset, source)
        outputs = {"pixels": source.train.pixels, "labels": source.train.labels}
        if source.test is not None:
            outputs |= {"test pixels": source.test.pixels, "test labels": source.test.labels}
        return outputs


def _check(dataset: Dataset, source: Source) -> None:
    who, classes = f"{dataset.name}.decode", len(source.class_names)
    for part, images in {"train": source.train, "test": source.test}.items():
        if images is None:
            continue
        if images.labels.dtype != torch.int64 or not len(images):
            raise RuleViolation(f"{who} must return images with int64 labels, {part} has none")
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= classes:
            raise RuleViolation(
                f"{who} must return labels in 0..{classes - 1}, one for each of its class names, "
                f"{part} has {low}..{high}"
            )
        if images.pixels.shape[1:] != source.train.pixels.shape[1:]:
            raise RuleViolation(f"{who} must return test images of the shape of the others")


def play_architecture(architecture: Architecture, watch: Watch) -> Mapping[str, Tensor]:
    """Build a classifier, ask it, and train it by one step."""
    experiment = tiny.experiment()
    shape, names = experiment.shape, tuple(experiment.class_names)
    statistics = torch.zeros(shape[0]), torch.ones(shape[0])
    rng, who = experiment.rng("build"), f"{architecture.name}.build"
    model = new_model(architecture, shape, names, statistics, experiment.device, rng)
    if not isinstance(model, Classifier):
        raise RuleViolation(f"{who} must return a Classifier, got {type(model).__name__}")
    outputs = {f"weight {name}": value.clone() for name, value in model.state_dict().items()}
    images = to_unit(experiment.splits.test.pixels[:4])
    with torch.no_grad():
        logits, maps = model(images), model.stage_maps(images)
    if logits.shape != (len(images), len(names)):
        raise RuleViolation(
            f"{who}: the model must return logits {(len(images), len(names))}, got "
            f"{tuple(logits.shape)}"
        )
    for name, found in maps.items():
        if found.ndim != 4:
            raise RuleViolation(
                f"{who}: stage {name!r} must return maps (B, C, H, W), got {tuple(found.shape)}"
            )
    model.train()
    labels = experiment.splits.test.labels[: len(images)]
    (model(images).sum() + model.loss(images, labels)).backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    if idle:
        raise RuleViolation(f"{who}: no gradient reaches {idle[0]}; use it or leave it out")
    return outputs | {"logits": logits}
