"""A sparse matrix made in one pass is scipy's, in the smallest safe type."""

import numpy as np
import pytest
from scipy import sparse

from countsdiff_sc.kernels import _threads, dense_to_csr


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (0, 4), (4, 0), (300, 101)])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_agreement_with_scipy(shape, n_threads, dtype, monkeypatch):
    monkeypatch.setattr(_threads, "MIN_ENTRIES", 1)
    counts = np.random.default_rng(0).poisson(0.4, shape).astype(dtype)
    csr = dense_to_csr(counts, n_threads=n_threads)
    csr.check_format()
    assert (csr.shape, csr.nnz, csr.has_sorted_indices) == (shape, np.count_nonzero(counts), True)
    np.testing.assert_array_equal(csr.toarray(), counts)
    assert sparse.csr_matrix(counts).indices.dtype == csr.indices.dtype


@pytest.mark.parametrize("largest", [0, 200, 2**15, 2**24])
def test_integers_have_one_type_whatever_they_are(largest):
    csr = dense_to_csr(np.array([[0.0, largest]]))
    assert csr.dtype == np.int32
    assert csr[0, 1] == largest
    assert csr.nnz == (largest > 0)
