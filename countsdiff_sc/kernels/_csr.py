"""From a dense matrix of counts to a sparse one."""

from __future__ import annotations

import numba
import numpy as np
from scipy import sparse

from ._places import find_places
from ._threads import over_rows

#: Type of counts that are handed out. In 16 bits sums of a few layers, and squares of a few hundred molecules, overflow without
#: a word, and they save only two bytes of eight: the column takes four.
COUNT_TYPE = np.int32
#: Largest count that float32, in which counts are computed with, represents exactly.
MAX_COUNT = 2**24


def dense_to_csr(counts: np.ndarray, *, n_threads: int = 1) -> sparse.csr_matrix:
    """Whole numbers as CSR of int32.

    Parameters
    ----------
    counts
        Whole numbers, from 0 to 2^31 - 1, of any type, shape ``(B, G)``.
    n_threads
        Threads to use.
    """
    indptr = np.zeros(len(counts) + 1, dtype=np.int64)
    over_rows(_count_rows, counts.shape, n_threads, counts, indptr)
    np.cumsum(indptr, out=indptr)
    data = np.empty(indptr[-1], dtype=COUNT_TYPE)
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
    flags, occupied = np.empty(counts.shape[1], dtype=np.bool_), np.empty(counts.shape[1], dtype=np.uint64)
    for row in range(first, last):
        for column in range(counts.shape[1]):
            flags[column] = counts[row, column] != 0
        start = np.uint64(indptr[row])
        for place in range(find_places(flags, occupied)):
            indices[start + place] = occupied[place]
            data[start + place] = counts[row, occupied[place]]
