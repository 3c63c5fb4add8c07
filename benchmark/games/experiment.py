"""What the harness knows: the data of a protocol, split, and how to build and train on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Generator, Tensor, nn

from benchmark.api import Architecture, AttackerView, Source
from benchmark.classifier import Classifier, channel_statistics
from benchmark.games.checks import RuleViolation
from benchmark.games.initial import initial
from benchmark.images import ImageSet, TrustedData
from benchmark.memory import images_per_pass
from benchmark.metrics import target_class
from benchmark.protocol import Protocol, ProtocolError, Recipe
from benchmark.registry import Registry
from benchmark.training import Trainer

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Splits:
    """Disjoint parts of a data set; see `benchmark.protocol.Splits`."""

    train: ImageSet
    trusted: ImageSet
    auxiliary: ImageSet
    validation: ImageSet
    test: ImageSet


def pools(protocol: Protocol, source: Source) -> list[tuple[ImageSet, dict[str, int]]]:
    """Which images the splits are drawn from, and how many for each.

    Raises:
        ProtocolError: the data set has too few images.
    """
    sizes = protocol.splits
    learning = {"train": sizes.train, "trusted": sizes.trusted, "auxiliary": sizes.auxiliary}
    judging = {"validation": sizes.validation, "test": sizes.test}
    if source.test is None:
        found = [(source.train, learning | judging)]
    else:
        found = [(source.train, learning), (source.test, judging)]
    for pool, wanted in found:
        if sum(wanted.values()) > len(pool):
            raise ProtocolError(
                f"{protocol.name} needs {sum(wanted.values())} images for "
                f"{', '.join(wanted)}; {sizes.dataset} has {len(pool)}"
            )
    return found


def new_model(
    architecture: Architecture,
    shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    statistics: tuple[Tensor, Tensor],
    device: torch.device,
    rng: Generator,
    start: Mapping[str, Tensor] | None = None,
    trains: Sequence[str] = (),
) -> Classifier:
    """An untrained victim, drawn from `rng`, which lives on the device.

    Args:
        start: tensors that are not drawn, `mean` and `std` of normalisation among them; None for a
            classifier whose weights are all loaded later.
        trains: the parts that will be trained; all by default.
    """
    seed = int(torch.randint(2**62, (), generator=rng, device=device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.build(shape, len(class_names)).to(device)
    model.class_names = class_names
    model.normalise_by(*statistics)
    if start is not None:
        model.load_state_dict(start, strict=False)
        model.settle()
    if trains:
        model.train_only(trains)
    return model.to(memory_format=torch.channels_last).eval()


class Experiment:
    """Everything one protocol fixes, on one device.

    Args:
        protocol: what is fixed.
        source: the decoded data set, unsplit.
        registry: where the architecture is looked up.
        device: where models and images live.
        recipe: name of the training recipe; the protocol's own by default.
    """

    def __init__(
        self,
        protocol: Protocol,
        source: Source,
        registry: Registry,
        device: torch.device | str = "cpu",
        recipe: str | None = None,
    ) -> None:
        self.protocol = protocol
        self.device = torch.device(device)
        self.recipe: Recipe = protocol.recipes[recipe or protocol.recipe]
        self.class_names = source.class_names
        self.splits = self._split(source)
        c, h, w = self.splits.train.pixels.shape[1:]
        self.shape = (c, h, w)
        architecture = registry.create(Architecture, protocol.architecture)
        classes = len(source.class_names)
        self.initial = initial(self.recipe, architecture, self.shape, classes)
        statistics = channel_statistics(self.splits.train.pixels)
        names = tuple(source.class_names)
        self._blank = partial(new_model, architecture, self.shape, names, statistics, self.device)
        # Bound to what it needs and nothing else, since plugins are handed it.
        self.new_model: Callable[[Generator], Classifier] = partial(
            self._blank, start=self.initial.state, trains=self.recipe.trains
        )

    def _split(self, source: Source) -> Splits:
        parts: dict[str, ImageSet] = {}
        for number, (pool, wanted) in enumerate(pools(self.protocol, source)):
            # On the CPU, so that every device plays with the same split.
            rng = Generator().manual_seed(self.protocol.seed("split", number))
            order = torch.randperm(len(pool), generator=rng)
            start = 0
            for name, size in wanted.items():
                parts[name] = pool.subset(order[start : start + size]).to(self.device)
                start += size
        return Splits(**parts)

    @cached_property
    def images_per_pass(self) -> int:
        """How many images go through a model of this protocol at once, by its memory."""
        return images_per_pass(self._blank(self.rng("memory")), self.shape)

    def rng(self, *purpose: object) -> Generator:
        """A generator on the device, seeded from the protocol's name and the named purpose."""
        return Generator(self.device).manual_seed(self.protocol.seed(*purpose))

    def target(self, seed: int) -> int:
        """The class that repetition `seed` is attacked for."""
        return target_class(seed, len(self.class_names))

    def rebuilt(self, model: nn.Module, who: str) -> Classifier:
        """A freshly built classifier with the weights of `model`, and nothing else of it.

        Args:
            who: the plugin that changed it, for the message.

        Raises:
            RuleViolation: these are not the weights of the protocol's architecture.
        """
        try:
            return self.loaded(model.state_dict())
        except RuntimeError as error:
            what = " ".join(str(error).split())
            raise RuleViolation(f"{who} must keep the architecture: {what}") from None

    def loaded(self, state: Mapping[str, Tensor]) -> Classifier:
        """A freshly built classifier with these weights, all of them free to be trained.

        Raises:
            RuntimeError: these are not the weights of the protocol's architecture.
        """
        fresh = self._blank(self.rng("loading"))
        fresh.load_state_dict(state)
        return fresh

    def trainer(self, progress: Progress = lambda done, total: None) -> Trainer:
        return Trainer(self.recipe, self.protocol.augmentation, progress)

    def trusted(self, share: float, *repetition: int) -> TrustedData:
        """All images that help a defender: `share` of the training set's size, by repetition.

        Shares of one repetition are nested: a smaller one is part of a larger one.
        """
        size = self.protocol.splits.share_of_train(share)
        rng = Generator().manual_seed(self.protocol.seed("trusted", *repetition))
        rows = torch.randperm(len(self.splits.trusted), generator=rng)[:size].to(self.device)
        drawn = self.splits.trusted.subset(rows)
        augmentation = self.protocol.augmentation
        return TrustedData(drawn.pixels, drawn.labels, augmentation.pad, augmentation.flip)

    def attacker_view(self, seed: int) -> AttackerView:
        """What an attacker knows in repetition `seed`."""
        return AttackerView(
            target=self.target(seed),
            class_names=self.class_names,
            shape=self.shape,
            # A copy, so that no attack can change what the next one sees.
            auxiliary=self.splits.auxiliary.copy(),
            trainer=self.trainer(),
            new_model=self.new_model,
        )
