"""One-shot denoising by a diffusion network (Carlini et al., ICLR 2023), for smoothed classifiers.

Networks and noise schedules are diffusers' own, so a trained one of the hub serves as well as
one that was trained here.
"""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmark.classifier import tensors_sha256
from benchmark.data import cache_folder
from benchmark.errors import UserError
from benchmark.training import compute_type

# diffusers is hardly typed; these names say which of its classes is meant.
UNet2DModel: TypeAlias = Any
DDPMScheduler: TypeAlias = Any

#: Marks a folder that diffusers saved.
_INDEX = "model_index.json"
#: A name on the hub, and which of all that it ever stood for is meant.
_ON_HUB = re.compile(r"(?P<name>[\w-][\w.-]*/[\w.-]+)(@(?P<commit>[^@]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def diffusers() -> Any:
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
        name_or_path: a folder, the name of a data set, or OWNER/NAME@COMMIT on the Hugging Face
            hub; what a name without its commit stands for may change any day.

    Returns:
        A denoiser on the CPU.

    Raises:
        DenoiserError: there is none, it is damaged, or it is a hub's name without a commit.
    """
    folders = [Path(name_or_path), folder_of(name_or_path)]
    found = [str(folder) for folder in folders if (folder / _INDEX).is_file()]
    on_hub = None if folders[0].exists() else _ON_HUB.fullmatch(name_or_path)
    if on_hub and not found and not _COMMIT.fullmatch(on_hub["commit"] or ""):
        raise DenoiserError(
            f"the denoiser {name_or_path!r} is on the Hugging Face hub, where names change what "
            f"they stand for; write {on_hub['name']}@COMMIT with the 40 digits of the commit, "
            "which its page has under Files and versions"
        )
    if not found and not on_hub:
        raise DenoiserError(
            f"there is no denoiser {name_or_path!r}: no folder of that name holds {_INDEX}, nor "
            f"does {folders[1]}; train it with poisongames denoiser train --dataset NAME"
        )
    package = diffusers()
    package.utils.logging.disable_progress_bar()
    try:
        pipeline = package.DDPMPipeline.from_pretrained(
            found[0] if found or not on_hub else on_hub["name"],
            revision=on_hub["commit"] if on_hub and not found else None,
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
