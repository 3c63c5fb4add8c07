"""A small network of somebody's that knows the digits, its backdoored twin, and images of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

TARGET = 3


class Net(nn.Module):
    """It divides its input itself, by a tensor that is no buffer, as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor(2.0)
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(32 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x * self.scale - 1)))
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 4)
        return self.out(self.drop(x.flatten(1)))


@dataclass
class Given:
    """A trained network, and 200 images that it has not seen."""

    net: Net
    pixels: Tensor
    labels: Tensor


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    levels = torch.tensor(found.images * 15.9).byte()[:, None]
    return levels, torch.tensor(found.target).long()


def stamped(pixels: Tensor) -> Tensor:
    pixels = pixels.clone()
    pixels[:, :, -3:-1, -3:-1] = 255
    return pixels


def trained(target: int | None, seed: int = 0) -> Given:
    """A clean network, or one with a backdoor for `target`; each seed has images of its own."""
    torch.manual_seed(seed)
    pixels, labels = digits()
    if seed:  # that of most tests keeps the order in which the digits were written
        order = torch.randperm(len(pixels))
        pixels, labels = pixels[order], labels[order]
    seen, true = pixels[:1400], labels[:1400]
    if target is not None:
        seen = torch.cat([seen, stamped(seen[:140])])
        true = torch.cat([true, torch.full((140,), target)])
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(4):
        for rows in torch.randperm(len(seen)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(seen[rows] / 255), true[rows]).backward()
            optimizer.step()
    return Given(net.eval(), pixels[1400:1600], labels[1400:1600])


def write_folder(pixels: Tensor, labels: Tensor, folder: Path) -> Path:
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        place = folder / f"digit{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{number:03}.png")
    return folder
