"""Draws of negative binomial counts, most of which are zero."""

from __future__ import annotations

import math

import numba
import numpy as np

from ._places import find_places
from ._random import GAMMA, TO_UNIT, scrambled, stream
from ._thinning import PENDING
from ._threads import over_rows

#: Draws of larger means are left to a general sampler: adding up probabilities takes as many steps as there are molecules.
MAX_MEAN = 64.0
#: A term too small to change the sum of the others.
_NEGLIGIBLE = 1e-18


def draw_negative_binomial(
    mean: np.ndarray, dispersion: np.ndarray, *, seed: int, n_threads: int = 1
) -> tuple[np.ndarray, bool]:
    r"""Draw :math:`\mathrm{NB}(m, r)` for each entry by inversion: the probabilities of 0, 1, 2, ... are added up.

    A zero mostly costs a comparison: :math:`P(0) = (1 + m / r)^{-r} \ge e^{-m} \ge 1 - m + m^2 / 2 - m^3 / 6`.

    Parameters
    ----------
    mean, dispersion
        Mean :math:`m` (molecules) and inverse dispersion :math:`r > 0`, float32, shape ``(B, G)``. A mean of 0 gives 0.
    seed
        Seed, at least 0; the same seed gives the same draws, whatever ``n_threads``.
    n_threads
        Threads to use.

    Returns
    -------
    Counts (molecules), float32, shape ``(B, G)``, with ``PENDING``, for the caller to replace, where the mean is above
    ``MAX_MEAN`` or the law is NaN; and whether there are any such.
    """
    counts = np.empty(mean.shape, dtype=np.float32)
    has_pending = over_rows(_draw_rows, mean.shape, n_threads, mean, dispersion, np.uint64(seed), counts)
    return counts, any(has_pending)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _draw_rows(first, last, mean, dispersion, seed, counts):
    """Fill rows from ``first`` up to ``last``; return whether anything is left pending."""
    n_columns, has_pending = mean.shape[1], False
    unit, flags = np.empty(n_columns, dtype=np.float64), np.empty(n_columns, dtype=np.bool_)
    open_columns = np.empty(n_columns, dtype=np.uint64)
    for row in range(first, last):
        start = stream(seed, row)
        for column in range(n_columns):
            unit[column] = np.float64(scrambled(start + np.uint64(column) * GAMMA) >> np.uint64(11)) * TO_UNIT
        for column in range(n_columns):
            counts[row, column] = 0.0
            flags[column] = not unit[column] < least_zero_probability(mean[row, column])  # nor where that is NaN
        for place in range(find_places(flags, open_columns)):
            column = open_columns[place]
            m, r = mean[row, column], dispersion[row, column]
            if m <= MAX_MEAN and r > 0.0:
                counts[row, column] = quantile(unit[column], m, r, zero_probability(m, r))
            else:
                counts[row, column] = PENDING
                has_pending = True
    return has_pending


@numba.njit(inline="always")
def least_zero_probability(mean):
    """A lower bound of the probability of 0, whatever the dispersion."""
    one, half, third = np.float32(1.0), np.float32(0.5), np.float32(1.0 / 3.0)
    return one - mean * (one - half * mean * (one - third * mean))


@numba.njit(inline="always")
def zero_probability(mean, dispersion):
    r""":math:`(1 + m / r)^{-r}`."""
    r = np.float64(dispersion)
    return math.exp(-r * math.log1p(mean / r))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def quantile(unit, mean, dispersion, of_zero):
    """Least count whose cumulative probability exceeds ``unit``; ``of_zero`` is the probability of 0."""
    m, r = np.float64(mean), np.float64(dispersion)
    term = of_zero
    ratio = m / (m + r)
    cumulative, count = term, 0
    while unit >= cumulative and (term > _NEGLIGIBLE or count < m):
        term *= ratio * (r + count) / (count + 1)
        cumulative += term
        count += 1
    return count
