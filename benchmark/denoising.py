"""One-shot denoising by a diffusion network (Carlini et al., ICLR 2023), for smoothed classifiers.

Networks and noise schedules are diffusers' own, so a trained one of the hub serves as well as
one that was trained here.
"""

from __future__ import annotations

import copy
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import torch
from torch import Generator, Tensor, nn

from benchmark.classifier import tensors_sha256
from benchmark.data import cache_folder
from benchmark.errors import UserError
from benchmark.images import ImageSet
from benchmark.training import compute_type, mixed_precision

# diffusers is hardly typed; these names say which of its classes is meant.
UNet2DModel: TypeAlias = Any
DDPMScheduler: TypeAlias = Any

#: Marks a folder that diffusers saved.
_INDEX = "model_index.json"

#: Networks that are trained here know the first so many steps of the schedule, whose noise is
#: that of sigma 0 to 1.2. Trained on all 1000 for as long, they denoise a tenth worse.
_STEPS_KNOWN = 430


def _diffusers() -> Any:
    """The package, imported late: it takes seconds, and not all who import this denoise."""
    import diffusers

    return diffusers


class DenoiserError(UserError, RuntimeError):
    """A denoiser that is missing or does not fit the images or the noise, in one sentence."""


def time_step(sigma: float, alphas_cumprod: Tensor) -> int:
    """The first step of a diffusion, counted from 0, that is at least as noisy as `sigma`.

    It is the smallest t with sqrt((1 - abar_t) / abar_t) >= 2 sigma: the network sees images
    in [-1, 1], where the noise is twice as large.

    Args:
        sigma: deviation of the noise on images in [0, 1], at least 0.
        alphas_cumprod: abar, (T,), falling.

    Raises:
        DenoiserError: sigma is negative, or beyond the last step.
    """
    # torch's own square root may be off by the last bit, and a step's own sigma would miss it.
    abar = alphas_cumprod.double().cpu().numpy()
    levels = np.sqrt((1 - abar) / abar) / 2
    if not 0 <= sigma <= levels[-1]:
        raise DenoiserError(
            f"noise of sigma {sigma:g} is not among the denoiser's steps; choose sigma from 0 "
            f"to {float(levels[-1]):.3g}"
        )
    return int(np.searchsorted(levels, sigma))


class Denoiser:
    """A private, frozen copy of a diffusion network, which takes noise off images in one pass.

    It begins on the CPU. Gradients flow to the images, not to the weights.

    Args:
        unet: predicts the noise, (B, C, H, W) or with learned variances (B, 2C, H, W).
        scheduler: holds abar.
        precision: of the network, bfloat16 or float32; all else is float32.

    Attributes:
        sha256: over names, types, shapes and bytes of the weights as they were given.
    """

    def __init__(
        self, unet: UNet2DModel, scheduler: DDPMScheduler, precision: str = "bfloat16"
    ) -> None:
        if (predicts := scheduler.config["prediction_type"]) != "epsilon":
            raise DenoiserError(
                f"the denoiser predicts {predicts!r}; choose one that predicts the noise (epsilon)"
            )
        self.scheduler, self.sha256 = scheduler, tensors_sha256(unet.state_dict())
        self.unet = copy.deepcopy(unet).eval().requires_grad_(False)
        self.channels = int(unet.config["in_channels"])
        self.precision = precision
        self.to("cpu")

    def to(self, device: torch.device | str) -> Denoiser:
        """Move the network, and return this very denoiser."""
        # Neither autocast nor channels last: on a CPU both were slower, the latter threefold.
        self.dtype = compute_type(torch.device(device), self.precision)
        self.unet.to(device, self.dtype)
        return self

    def __call__(self, images: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Add noise to images, and take it off as the network sees it.

        The deviation that is added is that of the time step, a little above `sigma`. At sigma
        0 there is nothing to take off, and the images come back as they are.

        Args:
            images: float32 (B, C, H, W) in [0, 1], on the network's device.
            noise: standard normal, (B, C, H, W).
            sigma: deviation of the noise on images in [0, 1].

        Returns:
            float32 (B, C, H, W) in [0, 1].

        Raises:
            DenoiserError: the network has other channels, cannot halve these images as often
                as it wants to, or knows no such sigma.
        """
        self._check(images)
        if sigma == 0:
            return images
        step = time_step(sigma, self.scheduler.alphas_cumprod)
        abar = float(self.scheduler.alphas_cumprod[step])
        noisy = math.sqrt(abar) * (2 * images - 1) + math.sqrt(1 - abar) * noise
        predicted = self.unet(noisy.contiguous().to(self.dtype), step).sample
        # Where variances are learned, they are the second half of the channels.
        seen = predicted[:, : self.channels].float()
        clean: Tensor = (noisy - math.sqrt(1 - abar) * seen) / math.sqrt(abar)
        return (clean.clamp(-1, 1) + 1) / 2

    def _check(self, images: Tensor) -> None:
        channels, height, width = images.shape[1:]
        if channels != self.channels:
            raise DenoiserError(
                f"the denoiser is for images of {self.channels} channels, these have {channels}; "
                "choose one that was trained on such images"
            )
        halvings = len(self.unet.config["block_out_channels"]) - 1
        if height % 2**halvings or width % 2**halvings:
            raise DenoiserError(
                f"the denoiser needs heights and widths that {2**halvings} divides, these images "
                f"have {height} x {width}; choose a denoiser with fewer levels"
            )


def folder_of(name: str) -> Path:
    """Where the denoiser that was trained here under this name is kept."""
    return cache_folder() / "denoisers" / name


def load(name_or_path: str) -> Denoiser:
    """Find a denoiser: in a folder that diffusers saved, among those trained here, on the hub.

    Args:
        name_or_path: a folder, the name of a data set, or OWNER/NAME on the Hugging Face hub.

    Returns:
        A denoiser on the CPU.

    Raises:
        DenoiserError: there is none, or it is damaged.
    """
    folders = [Path(name_or_path), folder_of(name_or_path)]
    found = [str(folder) for folder in folders if (folder / _INDEX).is_file()]
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name_or_path) and not folders[0].exists()
    if not found and not on_hub:
        raise DenoiserError(
            f"there is no denoiser {name_or_path!r}: no folder of that name holds {_INDEX}, nor "
            f"does {folders[1]}; train it with poisongames denoiser train --dataset NAME"
        )
    diffusers = _diffusers()
    diffusers.utils.logging.disable_progress_bar()
    try:
        pipeline = diffusers.DDPMPipeline.from_pretrained(
            found[0] if found else name_or_path,
            use_safetensors=True,  # weights in other formats can hold code that loading runs
            low_cpu_mem_usage=False,  # which would need the package accelerate
        )
    except Exception as error:  # diffusers passes on what the hub, requests and others raise
        where = f"read from {found[0]}" if found else "fetched from the Hugging Face hub"
        raise DenoiserError(
            f"the denoiser {name_or_path!r} could not be {where} "
            f"({' '.join(str(error).split())}); name a folder that holds it, or train one with "
            "poisongames denoiser train --dataset NAME"
        ) from error
    return Denoiser(pipeline.unet, pipeline.scheduler)


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
        _diffusers().DDPMPipeline(unet, scheduler).save_pretrained(work, safe_serialization=True)
        shutil.rmtree(folder, ignore_errors=True)
        work.replace(folder)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise DenoiserError(
            f"the denoiser cannot be written to {folder} ({error.strerror}); make room or choose "
            "another --out"
        ) from error


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
    batch_size: int = 32,
    learning_rate: float = 5e-3,
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
    diffusers = _diffusers()
    last = 1e-4 + (0.02 - 1e-4) * (_STEPS_KNOWN - 1) / 999
    scheduler = diffusers.DDPMScheduler(_STEPS_KNOWN, beta_start=1e-4, beta_end=last)
    abar = scheduler.alphas_cumprod.to(device)
    channels, *sides = images.pixels.shape[1:]
    levels = next(n for n in (3, 2, 1) if not any(side % 2 ** (n - 1) for side in sides))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DModel(
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
    optimizer = torch.optim.AdamW(unet.parameters(), learning_rate)
    # The rate rises for 50 steps and falls to 0, which spares averaging the weights.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    data, rng = images.to(device), Generator(device).manual_seed(seed)
    for step in range(1, steps + 1):
        rows = torch.randint(len(data), (batch_size,), generator=rng, device=device)
        clean = data.pixels[rows].float() / 127.5 - 1
        noise = torch.randn(clean.shape, generator=rng, device=device)
        times = torch.randint(_STEPS_KNOWN, (batch_size,), generator=rng, device=device)
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
