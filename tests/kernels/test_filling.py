"""Draws written to sparse matrices at once: their law, what stands beside them, and that seeds decide everything.

6 statistical tests at a false-alarm rate of 1e-4.
"""

import numpy as np
import pytest
import torch
from laws import ALPHA, assert_law, generator, nb
from scipy import stats

from countsdiff_sc.kernels import MAX_MEAN, PENDING, _threads, fill_with_draws
from countsdiff_sc.process._births import filled_by_draws

SHAPE = (40, 1001)


@pytest.fixture
def block():
    """Counts of which about half are missing, means and inverse dispersions."""
    rng = np.random.default_rng(0)
    observed = rng.random(SHAPE) < 0.5
    counts = np.where(observed, rng.poisson(0.3, SHAPE), 0).astype(np.float32)
    mean = np.where(observed, 0.0, rng.gamma(0.5, 1.0, SHAPE)).astype(np.float32)
    return counts, mean, rng.gamma(2.0, 1.0, SHAPE).astype(np.float32) + 0.01


def seeds(*numbers):
    return np.array(numbers, dtype=np.uint64)


@pytest.mark.parametrize(("mean", "dispersion"), [(0.02, 0.3), (0.7, 1.1), (9.0, 0.05), (60.0, 500.0)])
def test_the_law_of_every_draw_is_negative_binomial(mean, dispersion):
    m, r = (np.full(SHAPE, value, dtype=np.float32) for value in (mean, dispersion))
    draws = fill_with_draws(np.zeros_like(m), m, r, seeds=seeds(1, 2, 3))
    assert_law(np.stack([draw.toarray() for draw in draws]), nb(float(m[0, 0]), float(r[0, 0])))


def test_observed_counts_stand_beside_them(block):
    counts, mean, _ = block
    for draw in fill_with_draws(*block, seeds=seeds(1, 2)):
        draw.check_format()
        assert draw.has_canonical_format
        assert (draw.data > 0).all()
        np.testing.assert_array_equal(draw.toarray()[mean == 0], counts[mean == 0])
        assert (draw.toarray()[mean > 0] > 0).any()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_seed_decides_its_draw_whatever_the_others_and_the_threads(block, n_threads, monkeypatch):
    monkeypatch.setattr(_threads, "MIN_ENTRIES", 1)
    first, second = fill_with_draws(*block, seeds=seeds(7, 8), n_threads=n_threads)
    (alone,) = fill_with_draws(*block, seeds=seeds(8))
    assert (second != alone).nnz == 0
    assert (first != second).nnz > 0


def test_draws_of_two_seeds_are_independent():
    mean, dispersion = (np.full(SHAPE, value, dtype=np.float32) for value in (0.7, 1.1))
    first, second = (draw.toarray().ravel() for draw in fill_with_draws(0 * mean, mean, dispersion, seeds=seeds(7, 8)))
    # Among 40,000 pairs a correlation is nearly normal; neighbours in a row, and the same column of the next row, too.
    for other in (second, np.roll(first, 1), np.roll(first, SHAPE[1])):
        assert abs(np.corrcoef(first, other)[0, 1]) * np.sqrt(first.size) < stats.norm.isf(ALPHA / 2)


def test_nothing_missing_nothing_drawn(block):
    counts, _, dispersion = block
    (same,) = fill_with_draws(counts, np.zeros_like(counts), dispersion, seeds=seeds(1))
    np.testing.assert_array_equal(same.toarray(), counts)
    (empty,) = fill_with_draws(*(matrix[:0] for matrix in block), seeds=seeds(1))
    assert empty.shape == (0, SHAPE[1])
    assert list(fill_with_draws(*block, seeds=seeds())) == []
    (narrow,) = fill_with_draws(*(matrix[:, :0] for matrix in block), seeds=seeds(1))
    assert narrow.shape == (SHAPE[0], 0)


def test_large_means_are_left_to_the_caller_who_draws_them(block):
    counts, mean, dispersion = block
    mean[:, 5], mean[:, 6], counts[:, 5:7] = 3.0 * MAX_MEAN, 1e5, 0.0
    dispersion[:, 5], dispersion[:, 6] = 0.02, 1e6  # mostly 0, and nearly Poisson
    (draw,) = fill_with_draws(counts, mean, dispersion, seeds=seeds(1))
    assert (draw[:, [5, 6]].toarray() == PENDING).all()
    tensors = [torch.from_numpy(matrix) for matrix in (counts, mean, dispersion)]
    (filled,) = filled_by_draws(*tensors, 1, generator())
    assert (next(filled_by_draws(*tensors, 3, generator())) != filled).nnz == 0
    filled.check_format()
    assert (filled.data > 0).all()  # a large mean whose draw is 0 is not stored
    dense = filled.toarray()
    assert (dense[:, 5] == 0).any()
    assert abs(dense[:, 6].mean() - 1e5) < 6 * np.sqrt(1.1e5 / SHAPE[0])
    np.testing.assert_array_equal(dense[mean == 0], counts[mean == 0])


@pytest.mark.parametrize(("m", "r"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan)])
def test_a_law_that_is_not_finite_is_not_drawn_from(block, m, r):
    counts, mean, dispersion = block
    counts[3, 5], mean[3, 5], dispersion[3, 5] = 0.0, m, r
    with pytest.raises(
        ValueError, match=r"1 predicted laws are not finite.* at cell 3 of a block and gene 5.*Lower guidance_scale"
    ):
        list(filled_by_draws(*map(torch.from_numpy, block), 40, generator()))


def test_without_a_compiled_loop_the_law_is_the_same():
    zero, mean, dispersion = (torch.full(SHAPE, value, dtype=torch.float64) for value in (0.0, 0.7, 1.1))
    assert_law(torch.stack(list(filled_by_draws(zero, mean, dispersion, 2, generator()))), nb(0.7, 1.1))
