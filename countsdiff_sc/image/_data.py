"""Images with what is known about them besides their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Pixels and conditions of ``N`` images.

    Parameters
    ----------
    pixels
        Brightness, 0 to 255, uint8; shape ``(N, channels, height, width)``.
    conditions
        What is known about each, shape ``(N, L)``. All zeros say that nothing is.
    names
        Names of the ``L`` conditions.
    """

    pixels: Tensor
    conditions: Tensor
    names: tuple[str, ...]


def load_images(path: str | Path) -> Images:
    """Read images from an ``.npz`` archive, such as CIFAR-10 or CelebA saved by :func:`numpy.savez`.

    Parameters
    ----------
    path
        Archive with ``images``, uint8 of shape ``(N, height, width, channels)``, and either ``attributes``, 0 or 1 of shape
        ``(N, L)``, which become -1 and 1, or ``labels``, whole numbers of shape ``(N,)``, which become one condition for each
        class, 1 where an image belongs to it. ``attribute_names`` and ``class_names`` name them, those of all classes where images are
        of some. What else it has is not read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If it has no ``images``.
    ValueError
        If it is no archive, these are not 8-bit images, or they do not match their labels.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "images.npz"
    ...     np.savez(path, images=np.zeros((2, 8, 8, 3), np.uint8), labels=[0, 2])
    ...     load_images(path).conditions
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    loaded = np.load(path)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        msg = f"{path} holds a single array. It must be an archive. Save it with numpy.savez(path, images=...)."
        raise ValueError(msg)
    with loaded as archive:
        if "images" not in archive:
            msg = (
                f"{path} has no 'images', only {sorted(archive)}. An archive of images must have them. Save them with "
                "numpy.savez(path, images=...)."
            )
            raise KeyError(msg)
        images = archive["images"]
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            msg = (
                f"The images of {path} are {images.dtype} of shape {images.shape}. They must be uint8 of shape (N, height, width, "
                "channels), with at least one image. Convert them before saving."
            )
            raise ValueError(msg)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return Images(pixels, *_conditions(archive, len(images), path))


def _conditions(archive: np.lib.npyio.NpzFile, n_images: int, path: str | Path) -> tuple[Tensor, tuple[str, ...]]:
    """Conditions and their names: of attributes if there are any, else of labels, else none."""
    key = next((key for key in ("attributes", "labels") if key in archive), None)
    if key is None:
        return torch.zeros(n_images, 0), ()
    values = archive[key]
    is_whole = np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.bool_)
    largest, n_axes = (1, 2) if key == "attributes" else (np.inf, 1)
    is_right = is_whole and values.ndim == n_axes and bool(((values >= 0) & (values <= largest)).all())
    if not is_right or len(values) != n_images:
        msg = (
            f"The {key} of {path} are {values.dtype} of shape {values.shape}, for {n_images} images. Labels must be whole "
            "numbers of at least 0, one per image, and attributes of 0 and 1, one row per image. Correct them, or leave them out."
        )
        raise ValueError(msg)
    codes = torch.from_numpy(values.astype(np.int64))
    n_conditions = codes.shape[1] if key == "attributes" else int(codes.max()) + 1
    names_key = {"attributes": "attribute_names", "labels": "class_names"}[key]
    names = np.atleast_1d(archive[names_key]).tolist() if names_key in archive else range(n_conditions)
    # Some images may be of some classes only.
    if len(names) < n_conditions or (key == "attributes" and len(names) > n_conditions):
        msg = (
            f"{names_key} of {path} has {len(names)} names, for {n_conditions} conditions. Each has one name. Correct them, or leave "
            "them out."
        )
        raise ValueError(msg)
    conditions = 2 * codes - 1 if key == "attributes" else F.one_hot(codes, len(names))
    return conditions.float(), tuple(map(str, names))
