"""Small diffusion networks, trained on a data set's own images and kept for `denoiser.load`."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import torch
from torch import Generator, nn

from backdoor_defenses.smoothinv.denoiser import (
    DDPMScheduler,
    Denoiser,
    DenoiserError,
    UNet2DModel,
    diffusers,
    folder_of,
)
from benchmark.images import ImageSet
from benchmark.training import mixed_precision

#: Networks that are trained here know the first so many steps of the schedule, whose noise is
#: that of sigma 0 to 1.2. Trained on all 1000 for as long, they denoise a tenth worse.
_STEPS_KNOWN = 430
#: Images in a step, and the learning rate at its highest.
BATCH, LEARNING_RATE = 32, 5e-3


def hold_out(train: ImageSet, test: ImageSet | None, seed: int) -> tuple[ImageSet, ImageSet]:
    """Images to train a denoiser on, and at most 500 others to judge it by.

    Args:
        test: where the others come from; without it, a tenth of `train` is kept back.
    """
    rng = Generator().manual_seed(seed)
    if test is not None:
        return train, test.subset(torch.randperm(len(test), generator=rng)[:500])
    order = torch.randperm(len(train), generator=rng)
    kept = min(500, len(train) // 10)
    return train.subset(order[kept:]), train.subset(order[:kept])


@torch.no_grad()
def errors(denoiser: Denoiser, images: ImageSet, sigma: float, seed: int) -> tuple[float, float]:
    """Mean squared error of noisy and of denoised images, in [0, 1] units; on the CPU."""
    clean = images.images
    noise = torch.randn(clean.shape, generator=Generator().manual_seed(seed))
    parts = zip(clean.split(250), noise.split(250), strict=True)
    denoised = torch.cat([denoiser(*part, sigma) for part in parts])
    return float((sigma * noise).square().mean()), float((denoised - clean).square().mean())


def train(
    images: ImageSet,
    *,
    steps: int,
    seed: int = 0,
    width: int = 16,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[UNet2DModel, DDPMScheduler]:
    """Train a small network to predict noise (DDPM; Ho, Jain, Abbeel, NeurIPS 2020).

    It has up to three levels, as often as height and width can be halved. The schedule is the
    linear one, beta 1e-4 to 0.02 in 1000 steps, ended after the steps of low noise that
    smoothed classifiers use; a greater sigma is refused.

    Args:
        width: channels of the first level, a multiple of 8; the others have twice as many.
        progress: called with (steps done, steps in all).

    Returns:
        The network, on `device`, and its schedule.
    """
    package = diffusers()
    last = 1e-4 + (0.02 - 1e-4) * (_STEPS_KNOWN - 1) / 999
    scheduler = package.DDPMScheduler(_STEPS_KNOWN, beta_start=1e-4, beta_end=last)
    abar = scheduler.alphas_cumprod.to(device)
    channels, *sides = images.pixels.shape[1:]
    levels = next(n for n in (3, 2, 1) if not any(side % 2 ** (n - 1) for side in sides))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        unet = package.UNet2DModel(
            sample_size=tuple(sides),
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(width, 2 * width, 2 * width)[:levels],
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            layers_per_block=1,
            norm_num_groups=8,
            add_attention=False,
        ).to(device)
    optimizer = torch.optim.AdamW(unet.parameters(), LEARNING_RATE)
    # The rate rises for 50 steps and falls to 0, which spares averaging the weights.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    data, rng = images.to(device), Generator(device).manual_seed(seed)
    for step in range(1, steps + 1):
        rows = torch.randint(len(data), (BATCH,), generator=rng, device=device)
        clean = data.pixels[rows].float() / 127.5 - 1
        noise = torch.randn(clean.shape, generator=rng, device=device)
        times = torch.randint(_STEPS_KNOWN, (BATCH,), generator=rng, device=device)
        share = abar[times, None, None, None]
        noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
        with mixed_precision(noisy.device):
            predicted = unet(noisy, times).sample
        optimizer.zero_grad()
        nn.functional.mse_loss(predicted.float(), noise).backward()
        optimizer.step()
        schedule.step()
        progress(step, steps)
    return unet, scheduler


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something, unless it is a denoiser in the cache.

    Raises:
        DenoiserError: it is in use.
    """
    ours = folder.parent == folder_of(folder.name).parent
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not ours and not empty:
        raise DenoiserError(f"{folder} is there already; remove it or choose another --out")


def save(unet: UNet2DModel, scheduler: DDPMScheduler, folder: Path) -> None:
    """Write what `load` reads, whole or not at all; in the cache, in place of what is there.

    Raises:
        DenoiserError: the folder is in use or cannot be written.
    """
    check_folder(folder)
    work = folder.with_name(f".{folder.name}.{uuid4().hex}.part")
    try:
        work.mkdir(parents=True)
        diffusers().DDPMPipeline(unet, scheduler).save_pretrained(work, safe_serialization=True)
        shutil.rmtree(folder, ignore_errors=True)
        work.replace(folder)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise DenoiserError(
            f"the denoiser cannot be written to {folder} ({error.strerror}); make room or choose "
            "another --out"
        ) from error
