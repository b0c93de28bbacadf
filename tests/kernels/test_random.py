"""Compiled draws: their laws, and that neither threads nor the order of rows change them.

18 statistical tests at a false-alarm rate of 1e-4: 0.2% in all, once.
"""

import numba
import numpy as np
import pytest
from laws import ALPHA, assert_law, nb
from scipy import stats

from countsdiff_sc.kernels import (
    MAX_MEAN,
    _threads,
    corrupt,
    draw_negative_binomial,
    freeman_tukey,
    thin_counts,
)
from countsdiff_sc.kernels._random import fill_uniform, stream

SHAPE = (200, 301)  # odd


@numba.njit
def fill_rows(seed, numbers):
    for row in range(len(numbers)):
        fill_uniform(stream(seed, row), numbers[row])


def uniform(seed):
    numbers = np.empty(SHAPE, dtype=np.float32)
    fill_rows(np.uint64(seed), numbers)
    return numbers


def test_uniform_numbers_are_uniform_and_independent():
    numbers = uniform(1)
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > ALPHA
    # Neighbours, in the row, in the column, and under the next seed: 36 cells expect the same number of pairs each. No number is in
    # two pairs, which would be dependent.
    n_rows, n_columns = (2 * (n // 2) for n in SHAPE)
    columns, rows = numbers[:, :n_columns], numbers[:n_rows]
    for one, other in ((columns[:, ::2], columns[:, 1::2]), (rows[::2], rows[1::2]), (numbers, uniform(2))):
        pairs = np.histogram2d(one.ravel(), other.ravel(), bins=6, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(pairs.ravel()).pvalue > ALPHA


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 2.0, SHAPE)).astype(np.float32)
    counts[:, 0] = 500.0  # large ones are drawn by numpy
    return counts, rng.random(SHAPE, dtype=np.float32)


DRAWS = {
    "thin_counts": lambda seed, n: thin_counts(*inputs(), seed=seed, n_threads=n),
    "corrupt": lambda seed, n: np.column_stack(corrupt(*masked_inputs(), seed=seed, n_threads=n)),
    "negative_binomial": lambda seed, n: draw_negative_binomial(*law_inputs(), seed=seed, n_threads=n)[0],
    "dropout": lambda seed, n: freeman_tukey(
        *inputs(), np.ones(SHAPE, np.float32), dropout=0.3, seed=seed, n_threads=n
    ),
}


def masked_inputs():
    counts, observed_prob = inputs()
    counts[np.random.default_rng(1).random(SHAPE) >= 0.9] = np.nan
    cells = np.random.default_rng(2).random((2, SHAPE[0]), dtype=np.float32)
    return counts, observed_prob, *cells


def law_inputs():
    rng = np.random.default_rng(3)
    mean, dispersion = (rng.gamma(1.0, 2.0, SHAPE).astype(np.float32) + 1e-3 for _ in range(2))
    return mean, dispersion


@pytest.mark.parametrize("name", DRAWS)
def test_the_seed_decides_everything_and_the_threads_nothing(name, monkeypatch):
    monkeypatch.setattr(_threads, "MIN_ENTRIES", 1)
    draw = DRAWS[name]
    np.testing.assert_array_equal(draw(7, 1), draw(7, 1))
    np.testing.assert_array_equal(draw(7, 1), draw(7, 3))
    assert (draw(7, 1) != draw(8, 1)).any()


# --- negative binomial ---


@pytest.mark.parametrize("mean", [0.02, 0.7, 9.0, 60.0])
@pytest.mark.parametrize("dispersion", [0.05, 1.1, 500.0])
def test_law_is_negative_binomial(mean, dispersion):
    m, r = (np.full((40, 1000), value, dtype=np.float32) for value in (mean, dispersion))
    draws, _ = draw_negative_binomial(m, r, seed=3)
    assert_law(draws, nb(float(m[0, 0]), float(r[0, 0])))


def test_means_of_zero_give_zero_and_large_ones_are_left_to_the_caller():
    mean = np.array([[0.0, MAX_MEAN * 1.01]], dtype=np.float32)
    counts, has_large = draw_negative_binomial(mean, np.ones_like(mean), seed=0)
    assert has_large
    assert not counts[0, 0]


# --- corruption ---


def test_corruption_says_what_it_did():
    counts, observed_prob, exposure, survival_prob = masked_inputs()
    thinned, lost, prob, n_targets = corrupt(counts, observed_prob, exposure, survival_prob, seed=5)
    known = ~np.isnan(counts)
    observed = known & (prob == exposure[:, None])
    assert not prob[~known].any()
    assert not thinned[~known].any()
    np.testing.assert_array_equal(
        prob[known & ~observed], np.broadcast_to(survival_prob[:, None], SHAPE)[known & ~observed]
    )
    assert (thinned[known] <= counts[known]).all()
    np.testing.assert_array_equal(lost, np.where(prob < 1.0, counts - thinned, np.nan))
    np.testing.assert_array_equal(n_targets, (known & (prob < 1.0)).sum(1))
    # How often an entry is observed, and how many molecules are left: sums of independent numbers, nearly normal.
    n, p = known.sum(), observed_prob[known].astype(float)
    assert abs(observed.sum() - p.sum()) / np.sqrt((p * (1 - p)).sum()) < stats.norm.isf(ALPHA / 2), n
    x, p = counts[known], prob[known].astype(float)
    assert abs(thinned.sum() - (x * p).sum()) / np.sqrt((x * p * (1.0 - p)).sum()) < stats.norm.isf(ALPHA / 2)


def test_certain_masks_are_exact():
    counts, *_, survival_prob = masked_inputs()
    known = ~np.isnan(counts)
    ones, exposure = np.ones(SHAPE, np.float32), np.ones(SHAPE[0], np.float32)
    thinned, lost, prob, n_targets = corrupt(counts, ones, exposure, survival_prob, seed=5)
    np.testing.assert_array_equal(thinned, np.nan_to_num(counts))
    np.testing.assert_array_equal(prob, known)
    assert np.isnan(lost).all()
    assert not n_targets.any()
    thinned, lost, _, n_targets = corrupt(counts, 0 * ones, exposure, 0 * survival_prob, seed=5)
    assert not thinned.any()
    np.testing.assert_array_equal(lost, counts)
    np.testing.assert_array_equal(n_targets, known.sum(1))
