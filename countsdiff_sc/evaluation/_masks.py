"""Which entries to hide when a method is to be judged."""

from __future__ import annotations

import numpy as np


def mcar(shape: tuple[int, int], fraction: float, *, seed: int) -> np.ndarray:
    """Hide entries completely at random.

    Parameters
    ----------
    shape
        Cells x genes.
    fraction
        Probability with which each entry is hidden, in [0, 1].
    seed
        Seed of the mask.

    Returns
    -------
    Observed mask: booleans of that shape, True where an entry stays visible.
    """
    return np.random.default_rng(seed).random(shape, dtype=np.float32) >= fraction
