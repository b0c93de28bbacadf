"""How far a count is from what was expected."""

from __future__ import annotations

from torch import Tensor


def freeman_tukey(counts: Tensor, mean: Tensor) -> Tensor:
    r"""Surprise of counts, :math:`\sqrt{x} + \sqrt{x + 1} - \sqrt{4 m + 1}`, of about unit variance under a Poisson law.

    (Freeman & Tukey 1950.)

    Parameters
    ----------
    counts, mean
        Counts and their expectation (molecules), of shapes that broadcast.
    """
    return counts.sqrt() + (counts + 1.0).sqrt() - (4.0 * mean + 1.0).sqrt()
