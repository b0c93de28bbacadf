"""How a law is tested: seeded generators, a chi-square test of integer draws, and a test of a mean."""

import numpy as np
import torch
from hypothesis import settings
from scipy import stats

#: False-alarm rate of one statistical test. Seeds are fixed, so a test that passes keeps passing until the code changes.
ALPHA = 1e-4

#: Hypothesis without chance, clock or files.
LAW = settings(derandomize=True, deadline=None, database=None, max_examples=100)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def p_value(draws, law, *, min_expected=10.0):
    """Chi-square p-value of integer ``draws`` against a frozen scipy law; 0 if any draw is impossible.

    Neighbouring counts share a bin until each bin expects ``min_expected`` draws; the last bin is the tail.
    """
    draws = np.asarray(draws, dtype=np.float64).ravel()
    if not np.array_equal(draws, np.floor(draws)) or (law.pmf(draws) == 0.0).any():
        return 0.0
    edges, below = [], 0.0  # a bin ends at each edge, included
    for count in range(int(law.ppf(1 - 1e-12)) + 1):
        cdf = law.cdf(count)
        if len(draws) * min(cdf - below, 1.0 - cdf) >= min_expected:
            edges.append(count)
            below = cdf
    if not edges:  # a point mass, or nearly: every draw is possible, and nothing is left to compare
        return 1.0
    expected = len(draws) * np.diff([0.0, *law.cdf(edges), 1.0])
    observed = np.bincount(np.searchsorted(edges, draws), minlength=len(expected))
    return stats.chisquare(observed, expected).pvalue


def assert_law(draws, law):
    p = p_value(draws, law)
    assert p > ALPHA, f"p = {p:.2g}; mean {np.mean(np.asarray(draws)):.4g}, the law's {law.mean():.4g}"


def assert_mean(draws, mean):
    """Test of the mean of independent ``draws`` (normal approximation)."""
    draws = np.asarray(draws, dtype=np.float64).ravel()
    z = (draws.mean() - mean) / (draws.std() / len(draws) ** 0.5)
    assert 2 * stats.norm.sf(abs(z)) > ALPHA, f"mean {draws.mean():.6g}, should be {mean:.6g} (z = {z:.1f})"


def nb(mean, dispersion):
    """Negative binomial of a mean and an inverse dispersion, as scipy writes it."""
    return stats.nbinom(dispersion, dispersion / (dispersion + mean))
