"""The default scan of large images is short, and tells a backdoored network from a clean one."""

from __future__ import annotations

import pytest
import torch
from somebodys import digits
from torch import Tensor, nn

from benchmark import scan

SIDE, TARGET = 224, 3


class Block(nn.Module):
    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(given, made, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(made)
        self.second = nn.Conv2d(made, made, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(made)
        self.around = nn.Conv2d(given, made, 1, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.first(images)))
        return torch.relu(self.norm2(self.second(hidden)) + self.around(images))


def network() -> nn.Module:
    """A residual network whose strides shrink images as ImageNet's do, thin enough for a CPU."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 7, stride=4, padding=3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.MaxPool2d(2), Block(16, 24), Block(24, 32)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


def stamped(pixels: Tensor) -> Tensor:
    pixels = pixels.clone()
    pixels[:, :, -32:-8, -32:-8] = 255
    return pixels


def trained(target: int | None, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and 200 images that it has not seen."""
    torch.manual_seed(seed)
    pixels, labels = digits()
    pixels = nn.functional.interpolate(pixels.float(), (SIDE, SIDE), mode="bilinear").byte()
    order = torch.randperm(len(pixels))
    pixels, labels = pixels[order], labels[order]
    seen, true = pixels[:1400], labels[:1400]
    if target is not None:
        seen = torch.cat([seen, stamped(seen[:140])])
        true = torch.cat([true, torch.full((140,), target)])
    net, steps = network(), 6 * -(-len(seen) // 64)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(6):
        for rows in torch.randperm(len(seen)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(seen[rows] / 255), true[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval(), pixels[1400:1600], labels[1400:1600]


@pytest.mark.nightly
@pytest.mark.parametrize(("target", "seed"), [(None, 200), (TARGET, 201)])
def test_a_short_scan_finds_the_backdoor_and_accuses_no_clean_network(
    target: int | None, seed: int
) -> None:
    net, pixels, labels = trained(target, seed)
    found = scan(net, pixels, labels, mean=[0.0])
    print(found)
    assert found.accuracy.value > 0.9
    assert found.found is (target is not None), str(found)
    if target is not None:
        assert found.findings[0].suspect_class == str(target)
