"""A matrix put together from blocks is the matrix, held once."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse

from countsdiff_sc._rows import Rows
from countsdiff_sc.kernels import dense_to_csr


def blocks_of(matrix, sizes):
    return [matrix[first:last] for first, last in pairwise(np.cumsum([0, *sizes]))]


@pytest.mark.parametrize("sizes", [[9], [1, 8], [4, 0, 3, 2]])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_blocks_make_the_matrix(sizes, kind):
    matrix = np.random.default_rng(0).poisson(0.4, (9, 5)).astype(np.float32)
    rows = Rows(9)
    for block in blocks_of(matrix, sizes):
        rows.append(kind(block))
    stacked = rows.stacked()
    assert stacked.dtype == np.float32
    np.testing.assert_array_equal(stacked.toarray() if sparse.issparse(stacked) else stacked, matrix)


def test_csr_is_handed_over_without_room_to_spare():
    rows = Rows(40)
    for _ in range(4):
        rows.append(sparse.csr_matrix(np.ones((10, 3), np.int16)))
    stacked = rows.stacked()
    stacked.check_format()
    assert stacked.nnz == len(stacked.data) == len(stacked.indices) == 120
    assert stacked.indices.dtype == np.int32


def test_a_wider_block_widens_what_is_there():
    rows = Rows(2)
    for count in (3.0, 70_000.0):
        rows.append(dense_to_csr(np.array([[count, 0.0]])))
    stacked = rows.stacked()
    assert stacked.dtype == np.int32
    np.testing.assert_array_equal(stacked.toarray(), [[3, 0], [70_000, 0]])
