"""From a dense matrix of counts to a sparse one."""

from __future__ import annotations

import numba
import numpy as np
from scipy import sparse

from ._threads import over_rows


def smallest_type(largest: float) -> np.dtype:
    """int16, or the smallest wider type that holds counts up to ``largest``.

    Eight bits would overflow where two layers are added, and save one byte in six: the column takes four.
    """
    return np.promote_types(np.int16, np.min_scalar_type(-int(largest) - 1))


def dense_to_csr(counts: np.ndarray, *, n_threads: int = 1) -> sparse.csr_matrix:
    """Whole numbers as CSR of the :func:`smallest_type` that holds them.

    Parameters
    ----------
    counts
        Whole numbers, at least 0 and finite, of any type, shape ``(B, G)``.
    n_threads
        Threads to use.
    """
    indptr = np.zeros(len(counts) + 1, dtype=np.int64)
    over_rows(_count_rows, counts.shape, n_threads, counts, indptr)
    np.cumsum(indptr, out=indptr)
    largest = counts.max(initial=0)
    data = np.empty(indptr[-1], dtype=smallest_type(largest))
    indices = np.empty(indptr[-1], dtype=np.int32)
    over_rows(_fill_rows, counts.shape, n_threads, counts, indptr, indices, data)
    return sparse.csr_matrix((data, indices, indptr), shape=counts.shape)


@numba.njit(cache=True, nogil=True)
def _count_rows(first, last, counts, indptr):
    """Put the number of non-zeros of row ``i`` at ``i + 1``."""
    for row in range(first, last):
        n_stored = 0
        for column in range(counts.shape[1]):
            n_stored += counts[row, column] != 0
        indptr[row + 1] = n_stored


@numba.njit(cache=True, nogil=True)
def _fill_rows(first, last, counts, indptr, indices, data):
    occupied = np.empty(counts.shape[1], dtype=np.int32)
    for row in range(first, last):
        # Without a branch: which entries are zero cannot be predicted.
        n_occupied = 0
        for column in range(counts.shape[1]):
            occupied[n_occupied] = column
            n_occupied += counts[row, column] != 0
        for stored in range(n_occupied):
            indices[indptr[row] + stored] = occupied[stored]
            data[indptr[row] + stored] = counts[row, occupied[stored]]
