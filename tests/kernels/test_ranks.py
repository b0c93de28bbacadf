"""Compiled correlations agree with a loop over scipy's, ties and constant groups included."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import LAW
from scipy import stats

from countsdiff_sc.kernels import group_correlations


def plain(x, y, groups, *, ranks):
    correlate = stats.spearmanr if ranks else stats.pearsonr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        each = [(x[groups == g], y[groups == g]) for g in np.unique(groups)]
        return np.array([correlate(a, b)[0] if np.ptp(a) * np.ptp(b) else np.nan for a, b in each])


@pytest.mark.parametrize("ranks", [False, True])
@LAW
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(-2, 2)), min_size=1, max_size=60))
def test_agreement_with_scipy_whatever_the_ties(ranks, triples):
    x, y, groups = np.array(triples, dtype=float).T
    found = group_correlations(x, y, groups.astype(int), ranks=ranks)
    np.testing.assert_allclose(found, plain(x, y, groups, ranks=ranks), atol=1e-12)


@pytest.mark.parametrize("ranks", [False, True])
def test_agreement_with_scipy_on_many_counts(ranks):
    rng = np.random.default_rng(0)
    x, groups = rng.poisson(1.0, 5000).astype(float), rng.integers(0, 50, 5000)
    y = x + rng.gamma(2.0, 1.0, 5000)
    found = group_correlations(x, y, groups, ranks=ranks)
    np.testing.assert_allclose(found, plain(x, y, groups, ranks=ranks), atol=1e-12)
    order = rng.permutation(5000)
    np.testing.assert_allclose(group_correlations(x[order], y[order], groups[order], ranks=ranks), found, atol=1e-12)
    with ThreadPoolExecutor(2) as pool:  # nothing is shared between calls
        results = list(pool.map(lambda _: group_correlations(x, y, groups, ranks=ranks), range(4)))
    assert all(np.array_equal(result, found) for result in results)


@pytest.mark.parametrize("ranks", [False, True])
def test_groups_without_a_correlation_are_nan(ranks):
    constant, missing = np.log1p(np.full(7, 3.0)), np.array([0.0, np.nan, 1.0, 2.0, 5.0, 3.0, 4.0])
    for x in (constant, missing):
        assert np.isnan(group_correlations(x, np.arange(7), np.zeros(7, int), ranks=ranks)).all()
        assert np.isnan(group_correlations(np.arange(7), x, np.zeros(7, int), ranks=ranks)).all()
    assert np.isnan(group_correlations(np.ones(3), np.ones(3), np.arange(3), ranks=ranks)).all()
    assert len(group_correlations(np.empty(0), np.empty(0), np.empty(0, int), ranks=ranks)) == 0


def test_groups_come_sorted_and_may_be_names():
    x, y, groups = np.array([1, 2, 1, 2]), np.array([1, 2, 2, 1]), np.array(["b", "b", "a", "a"])
    np.testing.assert_allclose(group_correlations(x, y, groups), [-1.0, 1.0])


def test_ranks_see_only_the_order():
    x = np.random.default_rng(1).normal(size=30)
    assert group_correlations(x, np.exp(5 * x), np.zeros(30, int), ranks=True) == pytest.approx(1.0)
    assert group_correlations(
        np.array([0.0, 1.0, np.inf]), np.arange(3), np.zeros(3, int), ranks=True
    ) == pytest.approx(1.0)
