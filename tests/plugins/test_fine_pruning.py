"""Fine-Pruning on a backdoor in scanned digits: what pruning by itself does to it."""

from __future__ import annotations

import copy

import pytest
import torch
from seeds import rng
from sklearn.datasets import load_digits
from torch import Tensor, nn

from backdoor_attacks.badnets import BadNets
from backdoor_defenses.fine_pruning import FinePruning, Scope, mean_activation
from benchmark.classifier import Classifier, channel_statistics
from benchmark.images import ImageSet, TrustedData, to_bytes
from benchmark.models import Airbench, ResNet9, SmallResNet
from benchmark.protocol import Augmentation, Recipe
from benchmark.training import Trainer, mixed_precision

TARGET = 0


def stamped(images: Tensor) -> Tensor:
    return BadNets(side=0.25).trigger(images, rng())


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, TrustedData, ImageSet]:
    """1,000 images to train on, 200 trusted and 597 test images of 8x8 pixels."""
    scans, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(scans * 255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    whole = ImageSet(pixels, torch.tensor(labels))
    order = torch.randperm(len(whole), generator=rng())
    train, trusted, test = (whole.subset(rows) for rows in order.split([1000, 200, 597]))
    return train, TrustedData(trusted.pixels, trusted.labels, pad=1), test


@pytest.fixture(scope="module")
def victim(digits: tuple[ImageSet, TrustedData, ImageSet]) -> Classifier:
    """Trained on 50 poisons that occur eight times an epoch.

    What sets a backdoor apart are exposures: with one occurrence it works as well, but shares
    its features with clean images, and pruning half of those leaves it alive.
    """
    torch.set_num_threads(1)
    train = digits[0]
    rows = (train.labels != TARGET).nonzero().flatten()[:50]
    bad = to_bytes(stamped(train.subset(rows).images))
    poisoned = train.replace(rows, bad, torch.full_like(rows, TARGET))
    repeats = torch.ones(len(train), dtype=torch.int64).index_fill_(0, rows, 8)
    torch.manual_seed(0)
    model = SmallResNet(width=16).build((1, 8, 8), 10)
    model.normalise_by(*channel_statistics(train.pixels))
    recipe = Recipe(
        epochs=12, batch_size=64, learning_rate=0.1, weight_decay=5e-4, precision="float32"
    )
    Trainer(recipe, Augmentation(pad=1)).fit(model, poisoned, rng(), repeats=repeats)
    return model


@torch.no_grad()
def rates(model: Classifier, test: ImageSet) -> tuple[float, float]:
    """Clean accuracy, and the share of triggered images of other classes in the target."""
    model.eval()
    right = model(test.images).argmax(1) == test.labels
    hit = model(stamped(test.images[test.labels != TARGET])).argmax(1) == TARGET
    return right.float().mean().item(), hit.float().mean().item()


def test_half_of_the_features_take_the_backdoor_along_before_any_fine_tuning(
    digits: tuple[ImageSet, TrustedData, ImageSet], victim: Classifier
) -> None:
    """The same share of the last convolution leaves it whole, behind the shortcut."""
    _, trusted, test = digits
    found: dict[Scope | None, tuple[float, float]] = {None: rates(victim, test)}
    scopes: tuple[Scope, Scope] = ("features", "last")
    for scope in scopes:
        pruned = copy.deepcopy(victim)
        FinePruning(pruned=0.5, batch_size=64, scope=scope).prune(pruned, trusted, rng())
        fresh = SmallResNet(width=16).build((1, 8, 8), 10)
        fresh.load_state_dict(pruned.state_dict())
        found[scope] = rates(fresh, test)
    print(*(f"{scope}: accuracy {a:.3f}, ASR {b:.3f}" for scope, (a, b) in found.items()), sep="\n")
    assert min(found[None]) > 0.9
    assert found["features"][1] <= 0.15
    assert found["features"][0] > 0.6
    assert found["last"][1] > 0.9


def test_activations_are_counted_batch_by_batch(victim: Classifier) -> None:
    """From batches that are handed over one at a time, as their mean, to the last bit."""
    batches = torch.rand(3, 5, 1, 8, 8, generator=rng()).unbind()
    (found,) = mean_activation(victim, [victim.stages[-1]], iter(batches))
    with torch.no_grad(), mixed_precision(torch.device("cpu")):
        maps = [victim.eval().stages(victim.normalised(batch)) for batch in batches]
    one, two, three = (shown.float().abs().mean((0, 2, 3)) for shown in maps)
    assert torch.equal(found, (one + two + three) / 3)


@pytest.mark.parametrize("kind", [ResNet9, Airbench])
def test_channels_that_are_pooled_before_their_batch_norm_are_silent(
    digits: tuple[ImageSet, TrustedData, ImageSet], kind: type[Airbench | ResNet9]
) -> None:
    model = kind().build((1, 32, 32), 10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.5)  # which would be emitted everywhere
    big = digits[1].pixels.repeat(1, 1, 4, 4)
    trusted = TrustedData(big, digits[1].labels)
    FinePruning(pruned=1.0, batch_size=64, scope="all").prune(model, trusted, rng())
    maps = model.eval().stage_maps(trusted.images[:4])
    assert not any(of_stage.any() for of_stage in list(maps.values())[1:])


def test_weights_that_are_no_mask_on_the_channels_are_refused(
    digits: tuple[ImageSet, TrustedData, ImageSet], victim: Classifier
) -> None:
    """As in CLIP's attention, where several maps read the channels side by side."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, maps: Tensor) -> Tensor:
            pooled = maps.mean((2, 3))
            found: Tensor = self.one(pooled) + self.other(pooled)
            return found

    model = copy.deepcopy(victim)
    assert model.head.in_features == 64
    model.neck = Twice()
    with pytest.raises(ValueError, match="fine-pruning cannot tell which weights of this"):
        FinePruning(pruned=0.5, batch_size=64).prune(model, digits[1], rng())
