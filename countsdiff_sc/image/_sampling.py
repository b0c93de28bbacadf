"""Images from nothing, and missing parts of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from countsdiff_sc._validation import check_number
from countsdiff_sc.process import geometric_guidance, sample_conditioned, sample_remasked
from countsdiff_sc.process._samplers import Denoise

from ._checks import check_pixels, conditions_of, mask_of
from ._denoiser import MAX_PIXEL, ImageDenoiser

#: The paper's rule: predictions are rounded up or down at random.
_BIRTHS = "stochastic"


def sample(
    denoiser: ImageDenoiser,
    *,
    n_images: int,
    size: int | tuple[int, int],
    conditions: Tensor | None = None,
    n_steps: int = 100,
    attrition: float | str | None = None,
    guidance_scale: float = 1.0,
    batch_size: int = 64,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Generate images by the reverse birth-death process, from black at ``t = 1``.

    Parameters
    ----------
    denoiser
        As :func:`train` leaves it.
    n_images
        How many.
    size
        Height and width in pixels, or one number for both.
    conditions
        What they are to show, shape ``(n_images, L)``, or ``(1, L)`` for all alike; None for anything, which a denoiser has learned
        from the images whose conditions were hidden in training.
    n_steps
        Transitions, of equal time. The paper has 1,000.
    attrition
        See :func:`~countsdiff_sc.process.get_attrition`; an array is that of one image, the same for all.
    guidance_scale
        See :func:`~countsdiff_sc.process.geometric_guidance`. Any but 1 needs conditions, and costs a second pass of the network for
        each transition.
    batch_size
        Images that are generated together. What is drawn depends on it.
    progress
        Whether a progress bar is shown.
    generator
        Source of randomness on the denoiser's device.

    Returns
    -------
    Pixels, uint8 on the CPU, shape ``(n_images, channels, height, width)``.

    Raises
    ------
    TypeError, ValueError
        If sizes, conditions or numbers do not fit the denoiser, are none, or are out of range.
    """
    for name, value in (("n_images", n_images), ("n_steps", n_steps)):
        check_number(name, value, low=1, integer=True)
    height, width = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
    for side in (height, width):
        check_number("size", side, low=1, integer=True)
    nothing = torch.zeros(n_images, denoiser.n_channels, height, width, dtype=torch.uint8)
    check_pixels(nothing, denoiser)
    everything = torch.ones_like(nothing, dtype=torch.bool)
    sampler = partial(sample_conditioned, n_steps=n_steps, attrition=attrition, births=_BIRTHS, generator=generator)
    filling = {"conditions": conditions, "guidance_scale": guidance_scale, "batch_size": batch_size}
    return _fill(denoiser, nothing, everything, sampler, **filling, n_passes=n_steps, progress=progress)


def inpaint(
    denoiser: ImageDenoiser,
    pixels: Tensor,
    missing_mask: Tensor,
    *,
    conditions: Tensor | None = None,
    n_steps: int = 100,
    n_resample: int = 1,
    resample_window: int = 10,
    known_path: str = "fresh",
    attrition: float | str | None = None,
    guidance_scale: float = 1.0,
    batch_size: int = 64,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill in missing pixels by remasking: the imputation of the paper, for images.

    Parameters
    ----------
    pixels
        Brightness, uint8, shape ``(N, channels, height, width)``. Missing ones are not read.
    missing_mask
        True where a pixel is missing, shape ``(height, width)`` for all alike, or ``(N, channels, height, width)``, where 1 may stand
        for ``N`` and for the channels.
    n_steps, n_resample, resample_window, known_path
        See :func:`~countsdiff_sc.process.sample_remasked`.
    denoiser, conditions, attrition, guidance_scale, batch_size, progress, generator
        As for :func:`sample`.

    Returns
    -------
    Pixels, uint8 on the CPU; those that are not missing are as they were.

    Raises
    ------
    TypeError, ValueError
        If pixels, mask, conditions or numbers do not fit the denoiser, are none, or are out of range.
    """
    check_pixels(pixels, denoiser)
    for name, value in (("n_steps", n_steps), ("n_resample", n_resample), ("resample_window", resample_window)):
        check_number(name, value, low=1, integer=True)
    options = {"n_resample": n_resample, "resample_window": resample_window, "known_path": known_path}
    sampler = partial(
        sample_remasked, n_steps=n_steps, attrition=attrition, births=_BIRTHS, generator=generator, **options
    )
    missing_mask = mask_of(pixels, missing_mask)
    filling = {"conditions": conditions, "guidance_scale": guidance_scale, "batch_size": batch_size}
    n_passes = 1 + (n_steps - 1) * n_resample
    return _fill(denoiser, pixels, missing_mask, sampler, **filling, n_passes=n_passes, progress=progress)


@torch.no_grad()
def _fill(
    denoiser: ImageDenoiser,
    pixels: Tensor,
    missing_mask: Tensor,
    sampler: Callable[..., Tensor],
    *,
    conditions: Tensor | None,
    guidance_scale: float,
    batch_size: int,
    n_passes: int,
    progress: bool,
) -> Tensor:
    """Run a sampler of :mod:`countsdiff_sc.process` on one batch of images after another."""
    check_number("guidance_scale", guidance_scale, low=0)
    check_number("batch_size", batch_size, low=1, integer=True)
    if guidance_scale != 1.0 and conditions is None:
        msg = f"guidance_scale={guidance_scale} has no conditions to guide by. It strengthens those given. Pass conditions, or 1."
        raise ValueError(msg)
    conditions = conditions_of(len(pixels), conditions, denoiser)
    device, filled = next(denoiser.parameters()).device, []
    denoiser.eval()
    batches = list(zip(*(tensor.split(int(batch_size)) for tensor in (pixels, missing_mask, conditions)), strict=True))
    with tqdm(total=len(batches) * n_passes, desc="Sampling", disable=not progress) as bar:
        for batch in batches:
            x_known, missing, known_conditions = (tensor.to(device) for tensor in batch)
            denoise = _bind(denoiser, known_conditions, guidance_scale, bar)
            filled.append(sampler(denoise, x_known.float(), missing, denoiser.schedule).to("cpu", torch.uint8))
    return torch.cat(filled)


def _bind(denoiser: ImageDenoiser, conditions: Tensor, guidance_scale: float, bar: tqdm) -> Denoise:
    """Close the denoiser over conditions and guidance, in the form that samplers call."""

    def denoise(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        bar.update()
        t = t.expand(len(x_t))
        expected = denoiser(x_t, t, conditions)
        if guidance_scale != 1.0:
            guided = geometric_guidance(expected, denoiser(x_t, t), guidance_scale)
            expected = torch.minimum(guided, MAX_PIXEL - x_t)
        return expected, torch.ones_like(expected)  # rounding has no use for a dispersion

    return denoise
