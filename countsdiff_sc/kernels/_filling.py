"""Negative binomial draws beside observed counts, written to sparse matrices at once."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
from scipy import sparse

from ._negative_binomial import MAX_MEAN, least_zero_probability, quantile, zero_probability
from ._random import GAMMA, TO_UNIT, scrambled, stream
from ._thinning import PENDING
from ._threads import over_rows


def fill_with_draws(
    counts: np.ndarray, mean: np.ndarray, dispersion: np.ndarray, *, seeds: np.ndarray, n_threads: int = 1
) -> Iterator[sparse.csr_matrix]:
    r"""Put draws of :math:`\mathrm{NB}(m, r)` beside the counts, once for each seed.

    Which entries can be other than zero, and how likely they are not, is found once for all seeds; dense matrices, most
    entries of which are zero, are not made.

    Parameters
    ----------
    counts
        Observed counts (molecules), 0 where missing, float32, shape ``(B, G)``.
    mean, dispersion
        Mean :math:`m` (molecules), 0 where observed, and inverse dispersion :math:`r > 0`; float32, shape ``(B, G)``.
    seeds
        Seeds, uint64; the same seed gives the same draws, whatever the others are and whatever ``n_threads``.
    n_threads
        Threads to use.

    Yields
    ------
    A matrix for each seed, CSR of float32. It has ``PENDING``, for the caller to replace, where the mean is above ``MAX_MEAN``
    or the law is NaN.
    """
    slices = over_rows(_fill_rows, counts.shape, n_threads, counts, mean, dispersion, seeds)
    for draw in range(len(seeds)):
        yield _matrix_of(draw, slices, counts.shape)


def _matrix_of(draw: int, slices: list[tuple[np.ndarray, ...]], shape: tuple[int, int]) -> sparse.csr_matrix:
    """One of the matrices, of what was stored row by row for all of them."""
    lengths = [ends[:, draw + 1] - ends[:, draw] for _, _, ends in slices]
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    indices, values = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=np.float32)
    stored = 0
    for all_indices, all_values, ends in slices:
        stored = _gather(draw, all_indices, all_values, ends, stored, indices, values)
    return sparse.csr_matrix((values, indices, indptr), shape=shape)


@numba.njit(cache=True, nogil=True)
def _gather(draw, all_indices, all_values, ends, stored, indices, values):
    """Copy what belongs to a draw, from ``stored`` on; return where it ends."""
    for row in range(len(ends)):
        for position in range(ends[row, draw], ends[row, draw + 1]):
            indices[stored] = all_indices[position]
            values[stored] = all_values[position]
            stored += 1
    return stored


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _fill_rows(first, last, counts, mean, dispersion, seeds):
    """Columns and values of rows from ``first`` up to ``last``, draw by draw, and where those of each draw end."""
    n_columns, n_draws = counts.shape[1], len(seeds)
    candidates, open_places, missing = np.empty((3, n_columns), dtype=np.int64)
    filled, is_exact = np.empty(n_columns, dtype=np.float32), np.empty(n_columns, dtype=np.bool_)
    unit, bound = np.empty((2, n_columns), dtype=np.float64)
    ends = np.empty((last - first, n_draws + 1), dtype=np.int64)
    capacity, stored = max(64, (last - first) * n_columns * n_draws // 8), 0
    indices, values = np.empty(capacity, dtype=np.int32), np.empty(capacity, dtype=np.float32)
    for row in range(first, last):
        # Without a branch, as in find_places.
        n_candidates = 0
        for column in range(n_columns):
            candidates[n_candidates] = column
            n_candidates += (counts[row, column] > 0.0) | (mean[row, column] != 0.0)
        for place in range(n_candidates):
            column = candidates[place]
            # An observed count is open whatever is drawn.
            is_exact[place] = False
            bound[place] = least_zero_probability(mean[row, column]) * (counts[row, column] == 0.0)
        if stored + n_draws * n_candidates > capacity:
            capacity = 2 * (stored + n_draws * n_candidates)
            indices, values = _longer(indices, capacity), _longer(values, capacity)
        ends[row - first, 0] = stored
        for draw in range(n_draws):
            start = stream(seeds[draw], row)
            for place in range(n_candidates):
                unit[place] = np.float64(scrambled(start + np.uint64(place) * GAMMA) >> np.uint64(11)) * TO_UNIT
            n_open = 0
            for place in range(n_candidates):
                open_places[n_open] = place
                n_open += not unit[place] < bound[place]  # NaN is open too
            n_missing = 0
            for i in range(n_open):
                filled[i] = counts[row, candidates[open_places[i]]]
                missing[n_missing] = i
                n_missing += filled[i] == 0.0
            for i in missing[:n_missing]:
                place = open_places[i]
                m, r = mean[row, candidates[place]], dispersion[row, candidates[place]]
                if not (m <= MAX_MEAN and r > 0.0):
                    filled[i] = PENDING
                    continue
                if not is_exact[place]:
                    bound[place], is_exact[place] = zero_probability(m, r), True
                filled[i] = quantile(unit[place], m, r, bound[place])
            for i in range(n_open):
                indices[stored], values[stored] = candidates[open_places[i]], filled[i]
                stored += filled[i] != 0.0  # else the next one is put in its place
            ends[row - first, draw + 1] = stored
    return indices[:stored], values[:stored], ends


@numba.njit(cache=True, nogil=True)
def _longer(array, length):
    longer = np.empty(length, dtype=array.dtype)
    for position in range(len(array)):  # to assign a slice takes four seconds to compile
        longer[position] = array[position]
    return longer
