"""How far an imputation is from the truth, on hidden entries.

Metrics of means take one-dimensional arrays: hidden counts and their predicted means. Metrics of draws take hidden
counts and drawn counts of the same shape.
"""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy
from scipy.stats import nbinom, rankdata, wasserstein_distance

#: A prediction below this many molecules counts as this many, so that a true zero's neighbour is not infinite.
MEAN_FLOOR = 1e-6


def poisson_deviance(truth: np.ndarray, mean: np.ndarray) -> float:
    r"""Mean Poisson deviance :math:`2 (x \log(x / \mu) - x + \mu)`, in nats; 0 for a perfect prediction.

    A strictly proper score for means of counts: only the true conditional mean minimises its expectation.
    """
    mean = np.maximum(mean, MEAN_FLOOR)
    return float(2.0 * np.mean(xlogy(truth, truth / mean) - truth + mean))


def rmse(truth: np.ndarray, mean: np.ndarray) -> float:
    """Root mean squared error (molecules); a few abundant genes decide it."""
    return float(np.sqrt(np.mean(np.square(truth - mean))))


def rmse_log1p(truth: np.ndarray, mean: np.ndarray) -> float:
    """Root mean squared error of ``log1p``, the scale of most downstream work."""
    return rmse(np.log1p(truth), np.log1p(mean))


def mae(truth: np.ndarray, mean: np.ndarray) -> float:
    """Mean absolute error (molecules); the median, not the mean, minimises it."""
    return float(np.mean(np.abs(truth - mean)))


def bias(truth: np.ndarray, mean: np.ndarray) -> float:
    """Mean of prediction minus truth (molecules)."""
    return float(np.mean(mean - truth))


def r2(truth: np.ndarray, mean: np.ndarray) -> float:
    """Fraction of the variance of the truth that is explained; negative when worse than its mean."""
    return float(1.0 - np.mean(np.square(truth - mean)) / np.var(truth))


def pearson(truth: np.ndarray, mean: np.ndarray) -> float:
    """Pearson correlation over all hidden entries, of ``log1p``."""
    return float(np.corrcoef(np.log1p(truth), np.log1p(mean))[0, 1])


def grouped_correlation(truth: np.ndarray, mean: np.ndarray, groups: np.ndarray, *, ranks: bool = False) -> float:
    """Mean over groups of the correlation within each: by cell or by gene.

    Parameters
    ----------
    truth, mean
        Hidden counts (molecules) and their predicted means, shape ``(n_hidden,)``.
    groups
        Cell or gene of each entry, integers, shape ``(n_hidden,)``.
    ranks
        Spearman's correlation, with ties averaged, instead of Pearson's of ``log1p``.

    Returns
    -------
    Mean over the groups in which both vary; NaN if there is none.
    """
    order = np.argsort(groups, kind="stable")
    bounds = np.flatnonzero(np.diff(groups[order])) + 1
    correlations = []
    for entries in np.split(order, bounds):
        x, y = truth[entries], mean[entries]
        x, y = (rankdata(x), rankdata(y)) if ranks else (np.log1p(x), np.log1p(y))
        spread = x.std() * y.std()
        if spread > 0:
            correlations.append(np.mean((x - x.mean()) * (y - y.mean())) / spread)
    return float(np.mean(correlations)) if correlations else float("nan")


def negative_binomial_log_score(truth: np.ndarray, mean: np.ndarray, dispersion: np.ndarray) -> float:
    """Mean of ``-log P(truth)`` (nats) under negative binomials of these means and inverse dispersions."""
    mean = np.maximum(mean, MEAN_FLOOR)
    return float(-np.mean(nbinom.logpmf(truth, dispersion, dispersion / (dispersion + mean))))


# ---------------------------------------------------------------- draws


def zero_fraction_error(truth: np.ndarray, draws: np.ndarray) -> float:
    """Fraction of zeros among the draws minus that among the hidden counts."""
    return float(np.mean(draws == 0) - np.mean(truth == 0))


def wasserstein(truth: np.ndarray, draws: np.ndarray) -> float:
    """Wasserstein-1 distance (molecules) between the pooled distributions of hidden and drawn counts."""
    return float(wasserstein_distance(truth, draws))


def variance_ratio(truth: np.ndarray, draws: np.ndarray, groups: np.ndarray) -> float:
    """Median over groups (genes) of the variance of the draws over that of the truth; 1 is right."""
    n_groups = int(groups.max()) + 1

    def variance(values: np.ndarray) -> np.ndarray:
        size = np.maximum(np.bincount(groups, minlength=n_groups), 1)
        mean = np.bincount(groups, values, n_groups) / size
        return np.bincount(groups, np.square(values - mean[groups]), n_groups) / size

    true = variance(np.asarray(truth, dtype=np.float64))
    drawn = variance(np.asarray(draws, dtype=np.float64))
    return float(np.median(drawn[true > 0] / true[true > 0]))


def energy_distance(truth: np.ndarray, draws: np.ndarray, *, max_cells: int = 1000, seed: int = 0) -> float:
    """Squared energy distance between the cells of two matrices, in ``log1p``; 0 when their laws are equal.

    Parameters
    ----------
    truth, draws
        Counts (molecules), cells x genes.
    max_cells
        Cells compared at most, drawn at random.
    seed
        Seed of that choice.

    Returns
    -------
    ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` with pairs of distinct cells (unbiased, so it may be slightly negative).
    """
    chosen = np.random.default_rng(seed).permutation(len(truth))[:max_cells]
    x, y = np.log1p(truth[chosen], dtype=np.float64), np.log1p(draws[chosen], dtype=np.float64)
    n = len(chosen)
    between, within_x, within_y = _mean_distances(x, y), _mean_distances(x, x), _mean_distances(y, y)
    return float(2.0 * between - (within_x + within_y) * n / (n - 1))


def randomised_pit(truth: np.ndarray, mean: np.ndarray, dispersion: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Randomised probability integral transform under negative binomials: uniform if they are right.

    Parameters
    ----------
    truth, mean, dispersion
        Hidden counts (molecules), predicted means and inverse dispersions.
    seed
        Seed of the randomisation within each count's step of the distribution function.

    Returns
    -------
    Values in [0, 1], same shape as ``truth``.
    """
    mean = np.maximum(mean, MEAN_FLOOR)
    prob = dispersion / (dispersion + mean)
    below = nbinom.cdf(truth - 1, dispersion, prob)
    return below + np.random.default_rng(seed).random(truth.shape) * nbinom.pmf(truth, dispersion, prob)


def coverage(pit: np.ndarray, level: float) -> float:
    """Fraction of randomised PIT values in the central interval of that level; equal to it when calibrated."""
    return float(np.mean(np.abs(pit - 0.5) <= level / 2.0))


def _mean_distances(x: np.ndarray, y: np.ndarray) -> float:
    squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2.0 * x @ y.T
    return float(np.sqrt(np.maximum(squared, 0.0)).mean())
