"""Results that come in blocks of rows, each number held once."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from countsdiff_sc import kernels
from countsdiff_sc._counts import stored_values
from countsdiff_sc._validation import check_finite_values

#: Room for more is made by this factor, so that rows are moved rarely.
_GROWTH = 1.5


def as_counts(values: np.ndarray | sparse.csr_matrix) -> sparse.csr_matrix:
    """A block of drawn counts as CSR of integers, or ``ValueError`` where one is beyond what counts can be."""
    check_finite_values(stored_values(values))
    if sparse.issparse(values):
        values.data = values.data.astype(kernels.COUNT_TYPE)
        return values
    return kernels.dense_to_csr(values, n_threads=torch.get_num_threads())


class Rows:
    """A matrix that is filled from the top, dense or CSR as its first block.

    Stacking a list of blocks at the end would hold all of them twice.

    Parameters
    ----------
    n_rows
        Rows there will be in the end.
    """

    def __init__(self, n_rows: int):
        self.n_rows = n_rows
        self._filled = 0
        self._dense: np.ndarray | None = None
        self._data: np.ndarray | None = None

    def append(self, block: np.ndarray | sparse.csr_matrix) -> None:
        """Add rows below those that are there."""
        rows = slice(self._filled, self._filled + block.shape[0])
        if sparse.issparse(block):
            self._append_sparse(block, rows)
        else:
            if self._dense is None:
                self._dense = np.empty((self.n_rows, block.shape[1]), block.dtype)
            self._dense[rows] = block
        self._filled = rows.stop

    def _append_sparse(self, block: sparse.csr_matrix, rows: slice) -> None:
        if self._data is None:
            self._n_columns, self._indptr = block.shape[1], np.zeros(self.n_rows + 1, np.int64)
            self._data, self._indices = np.empty(0, block.dtype), np.empty(0, np.int32)
        first = int(self._indptr[rows.start])
        last = first + block.nnz
        self._data = self._data.astype(np.promote_types(self._data.dtype, block.dtype), copy=False)
        if last > len(self._data):
            self._resize(int(_GROWTH * last))
        self._data[first:last], self._indices[first:last] = block.data, block.indices
        self._indptr[rows.start + 1 : rows.stop + 1] = first + block.indptr[1:].astype(np.int64)

    def _resize(self, n_stored: int) -> None:
        # In place: of large arrays the pages are moved, not copied, and those not yet written take no memory.
        self._data.resize(n_stored, refcheck=False)
        self._indices.resize(n_stored, refcheck=False)

    def stacked(self) -> np.ndarray | sparse.csr_matrix:
        """The matrix, of which all rows must have come; it is handed over, not copied."""
        if self._data is None:
            return self._dense
        self._resize(int(self._indptr[-1]))
        return sparse.csr_matrix((self._data, self._indices, self._indptr), shape=(self.n_rows, self._n_columns))
