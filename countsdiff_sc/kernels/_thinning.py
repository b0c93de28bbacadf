"""Binomial thinning that pays for molecules, not for zeros."""

from __future__ import annotations

import numba
import numpy as np

from ._places import find_places
from ._random import GAMMA, TO_UNIT, fill_uniform, scrambled, stream
from ._threads import over_rows

#: Counts up to this many molecules are thinned molecule by molecule; rarer larger ones by numpy's binomial.
MAX_BY_MOLECULE = 64
#: Stands in for a count until a general sampler draws it.
PENDING = -1.0


def thin_counts(counts: np.ndarray, prob: np.ndarray, *, seed: int, n_threads: int = 1) -> np.ndarray:
    r"""Draw :math:`\mathrm{Binomial}(x, p)` for each entry, exactly.

    A zero costs a comparison and a small count as many random words as it has molecules, so that sparse counts are
    thinned several times faster than by a general binomial sampler.

    Parameters
    ----------
    counts
        Whole molecules, floating, shape ``(B, G)``.
    prob
        Probability in ``[0, 1]`` that a molecule is kept, floating, shape ``(B, G)``; may be a broadcast view.
    seed
        Seed, at least 0; the same seed gives the same draws on every machine, whatever ``n_threads``.
    n_threads
        Threads to use.

    Returns
    -------
    Thinned counts, same shape and dtype as ``counts``.
    """
    thinned = np.empty(counts.shape, dtype=counts.dtype)
    if any(over_rows(_thin_rows, counts.shape, n_threads, counts, prob, np.uint64(seed), thinned)):
        _thin_pending(counts, prob, seed, thinned)
    return thinned


def corrupt(
    counts: np.ndarray,
    observed_prob: np.ndarray,
    exposure: np.ndarray,
    survival_prob: np.ndarray,
    *,
    seed: int,
    n_threads: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw which entries are observed, and thin these to ``exposure``, others to ``survival_prob``, unknown ones to 0.

    Parameters
    ----------
    counts
        Whole molecules, NaN where unknown, float32, shape ``(B, G)``.
    observed_prob
        Probability with which an entry is observed, float32, shape ``(B, G)``.
    exposure, survival_prob
        Probability that a molecule of an observed, and of another, entry is kept, float32, shape ``(B,)``.
    seed, n_threads
        As in :func:`thin_counts`.

    Returns
    -------
    Thinned counts; what they have lost, NaN where unknown or kept in full; and the probability that was used for each entry:
    each float32, shape ``(B, G)``. Also how many of a cell's entries may have lost something, float32, shape ``(B,)``.
    """
    thinned, lost, prob = (np.empty(counts.shape, dtype=np.float32) for _ in range(3))
    n_targets = np.empty(len(counts), dtype=np.float32)
    arguments = (counts, observed_prob, exposure, survival_prob, np.uint64(seed), thinned, lost, prob, n_targets)
    if any(over_rows(_corrupt_rows, counts.shape, n_threads, *arguments)):
        large = _thin_pending(counts, prob, seed, thinned)
        lost[large] = np.where(prob[large] < 1.0, counts[large] - thinned[large], np.nan)
    return thinned, lost, prob, n_targets


@numba.njit(cache=True, nogil=True)
def _thin_rows(first, last, counts, prob, seed, thinned):
    """Fill rows from ``first`` up to ``last`` except for large counts; return whether there are any."""
    flags, occupied = np.empty(counts.shape[1], dtype=np.bool_), np.empty(counts.shape[1], dtype=np.uint64)
    found_large = False
    for row in range(first, last):
        found_large |= _thin_row(counts[row], prob[row], stream(seed, row), flags, occupied, thinned[row])
    return found_large


@numba.njit(cache=True, nogil=True)
def _corrupt_rows(first, last, counts, observed_prob, exposure, survival_prob, seed, thinned, lost, prob, n_targets):
    """As ``_thin_rows``, after filling ``prob`` and before filling ``lost``."""
    n_columns, found_large = counts.shape[1], False
    flags, occupied = np.empty(n_columns, dtype=np.bool_), np.empty(n_columns, dtype=np.uint64)
    unit, known_counts = np.empty((2, n_columns), dtype=np.float32)
    zero, one, nan = np.float32(0.0), np.float32(1.0), np.float32(np.nan)
    # The masks have streams of their own: those of thinning start elsewhere.
    mask_seed = scrambled(seed + GAMMA)
    for row in range(first, last):
        start, kept, left = stream(mask_seed, row), exposure[row], survival_prob[row]
        n_row_targets = 0
        fill_uniform(start, unit)
        for column in range(n_columns):
            p, x = kept if unit[column] < observed_prob[row, column] else left, counts[row, column]
            is_known = x == x  # all but NaN
            prob[row, column] = p if is_known else zero
            known_counts[column] = x if is_known else zero
            n_row_targets += is_known & (p < one)
        n_targets[row] = n_row_targets
        found_large |= _thin_row(known_counts, prob[row], stream(seed, row), flags, occupied, thinned[row])
        for column in range(n_columns):
            # NaN stays NaN.
            lost[row, column] = counts[row, column] - thinned[row, column] if prob[row, column] < one else nan
    return found_large


@numba.njit(inline="always")
def _thin_row(counts, prob, state, flags, occupied, thinned):
    """Thin a row but for its large counts; return whether there are any. ``flags`` and ``occupied`` are room for it."""
    for column in range(len(counts)):
        thinned[column] = 0.0
    for column in range(len(counts)):
        flags[column] = counts[column] != 0.0
    n_occupied = find_places(flags, occupied)
    # The first molecule of each, without a branch; columns that have more move to the front.
    n_several = np.uint64(0)
    for place in range(n_occupied):
        column = occupied[place]
        thinned[column] = _below(state + place * GAMMA, prob[column])
        occupied[n_several] = column
        n_several += np.uint64(counts[column] > 1.0)
    state += n_occupied * GAMMA
    found_large = False
    for place in range(n_several):
        column, count = occupied[place], counts[occupied[place]]
        if count > MAX_BY_MOLECULE:
            thinned[column] = PENDING
            found_large = True
            continue
        kept = 0
        for _ in range(int(count) - 1):
            kept += _below(state, prob[column])
            state += GAMMA
        thinned[column] += kept
    return found_large


@numba.njit(inline="always")
def _below(state, prob):
    """Whether the random word of a counter is below a probability: to within 2^-53, and exactly for 0 and 1."""
    return np.float64(scrambled(state) >> np.uint64(11)) * TO_UNIT < prob


def _thin_pending(
    counts: np.ndarray, prob: np.ndarray, seed: int, thinned: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Thin the large counts, and return where they are."""
    large = np.unravel_index(np.flatnonzero(thinned == PENDING), counts.shape)
    rng = np.random.default_rng(seed)
    thinned[large] = rng.binomial(counts[large].astype(np.int64), prob[large].astype(np.float64))
    return large
