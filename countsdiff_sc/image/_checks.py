"""What users hand in: checked before anything is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from ._denoiser import MAX_PIXEL, ImageDenoiser


def check_pixels(pixels: Tensor, denoiser: ImageDenoiser) -> None:
    """Raise unless pixels, of shape ``(N, channels, height, width)``, are counts that fit the denoiser."""
    _check_tensor("pixels", pixels)
    if pixels.dtype != torch.uint8:
        msg = (
            f"Pixels are {pixels.dtype}. They must be uint8, counts between 0 and {MAX_PIXEL}. Convert them, as with "
            "pixels.round().to(torch.uint8)."
        )
        raise ValueError(msg)
    is_image = pixels.ndim == 4 and len(pixels) > 0 and pixels.shape[1] == denoiser.n_channels
    if not is_image or any(side % denoiser.side_multiple for side in pixels.shape[2:]):
        msg = (
            f"Pixels have shape {tuple(pixels.shape)}. The denoiser needs (N, {denoiser.n_channels}, height, width) of at least one "
            f"image, with sides that are multiples of {denoiser.side_multiple}. Pad or crop the images, or make a denoiser for these."
        )
        raise ValueError(msg)


def conditions_of(n_images: int, conditions: Tensor | None, denoiser: ImageDenoiser) -> Tensor:
    """Conditions of each image, float, shape ``(n_images, L)``: zeros for None; an error unless they fit the denoiser."""
    if conditions is None:
        return torch.zeros(n_images, denoiser.n_conditions)
    _check_tensor("conditions", conditions)
    if conditions.ndim != 2 or conditions.shape[1] != denoiser.n_conditions or len(conditions) not in (1, n_images):
        msg = (
            f"conditions has shape {tuple(conditions.shape)}. For {n_images} images the denoiser needs ({n_images}, "
            f"{denoiser.n_conditions}), or one row for all. Pass such a tensor, or None."
        )
        raise ValueError(msg)
    if not bool(torch.isfinite(conditions).all()):
        msg = "conditions has values that are not finite. The network cannot read them. Put 0 where nothing is known."
        raise ValueError(msg)
    return conditions.float().expand(n_images, -1)


def mask_of(pixels: Tensor, missing_mask: Tensor) -> Tensor:
    """The mask in the shape of the pixels; an error unless it fits them."""
    _check_tensor("missing_mask", missing_mask)
    if missing_mask.dtype != torch.bool:
        msg = f"missing_mask is {missing_mask.dtype}. It must be bool, True where a pixel is missing. Convert it, as with mask > 0."
        raise ValueError(msg)
    # Of three axes the first could be images or channels.
    shape = (1, 1, *missing_mask.shape) if missing_mask.ndim == 2 else tuple(missing_mask.shape)
    is_fit = len(shape) == 4 and shape[2:] == pixels.shape[2:]
    if not is_fit or any(n not in (1, of) for n, of in zip(shape, pixels.shape, strict=True)):
        msg = (
            f"missing_mask has shape {tuple(missing_mask.shape)}, and pixels {tuple(pixels.shape)}. It must have theirs, or (height, "
            "width), or 1 for the number of images or channels. Pass such a mask, as missing_mask[:, None] of one per image."
        )
        raise ValueError(msg)
    return missing_mask.view(shape).expand_as(pixels)


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        msg = f"{name} is a {type(value).__name__}. It must be a tensor. Pass torch.as_tensor({name})."
        raise TypeError(msg)
