"""How far predicted means are from the truth, on hidden entries.

Each takes hidden counts (molecules) and their predicted means, arrays of one shape, such as ``(n_hidden,)``; unlike shapes raise
``ValueError``.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.special import xlogy
from scipy.stats import nbinom

from countsdiff_sc.kernels import group_correlations

#: A prediction below this many molecules counts as this many, so that 0 where there was a molecule costs much, not infinitely much.
MEAN_FLOOR = 1e-6


def check_same_shape(truth: np.ndarray, other: np.ndarray, name: str = "mean") -> None:
    """Raise ``ValueError`` unless both have one shape; without it, unlike shapes would be broadcast and scored.

    ``TypeError`` for sparse matrices, which are not read entry by entry.
    """
    for values in (truth, other):
        if sparse.issparse(values):
            msg = (
                f"A {type(values).__name__} was given. Metrics compare entry by entry, which takes arrays. Convert it with "
                ".toarray(), then index it."
            )
            raise TypeError(msg)
    if np.shape(truth) != np.shape(other):
        msg = (
            f"{name} has shape {np.shape(other)} and truth {np.shape(truth)}. Metrics compare entry by entry, so they must "
            "be equal. Index both with the same mask, for example counts[hidden] and imputed[hidden]."
        )
        raise ValueError(msg)


def paired(truth: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in double precision, after checking that they have one shape: differences of unsigned counts wrap around."""
    # A sparse matrix that is indexed by a mask gives a matrix of one row.
    truth, mean = (np.asarray(each).ravel() if isinstance(each, np.matrix) else each for each in (truth, mean))
    check_same_shape(truth, mean)
    return np.asarray(truth, dtype=np.float64), np.asarray(mean, dtype=np.float64)


def poisson_deviance(truth: np.ndarray, mean: np.ndarray) -> float:
    r"""Mean Poisson deviance :math:`2 (x \log(x / \mu) - x + \mu)`, in nats; 0 for a perfect prediction.

    A strictly proper score for means of counts: only the true conditional mean minimises its expectation.
    """
    truth, mean = paired(truth, mean)
    mean = np.maximum(mean, MEAN_FLOOR)
    return float(2.0 * np.mean(xlogy(truth, truth / mean) - truth + mean))


def rmse(truth: np.ndarray, mean: np.ndarray) -> float:
    """Root mean squared error (molecules); a few abundant genes decide it."""
    truth, mean = paired(truth, mean)
    return float(np.sqrt(np.mean(np.square(truth - mean))))


def rmse_log1p(truth: np.ndarray, mean: np.ndarray) -> float:
    """Root mean squared error of ``log1p``, the scale of most downstream work."""
    return rmse(*map(np.log1p, paired(truth, mean)))


def mae(truth: np.ndarray, mean: np.ndarray) -> float:
    """Mean absolute error (molecules); the median, not the mean, minimises it."""
    truth, mean = paired(truth, mean)
    return float(np.mean(np.abs(truth - mean)))


def bias(truth: np.ndarray, mean: np.ndarray) -> float:
    """Mean of prediction minus truth (molecules)."""
    truth, mean = paired(truth, mean)
    return float(np.mean(mean - truth))


def r2(truth: np.ndarray, mean: np.ndarray) -> float:
    """Fraction of the variance of the truth that is explained; negative when worse than its mean, NaN without variance."""
    truth, mean = paired(truth, mean)
    variance = np.var(truth)
    return float(1.0 - np.mean(np.square(truth - mean)) / variance) if variance > 0 else float("nan")


def pearson(truth: np.ndarray, mean: np.ndarray) -> float:
    """Pearson correlation over all hidden entries, of ``log1p``; NaN where either is constant."""
    logs = [np.log1p(each).ravel() for each in paired(truth, mean)]
    found = group_correlations(*logs, np.zeros(len(logs[0]), dtype=int))
    return float(found[0]) if len(found) else float("nan")


def grouped_correlation(truth: np.ndarray, mean: np.ndarray, groups: np.ndarray, *, ranks: bool = False) -> float:
    """Mean over groups of the correlation within each: by cell or by gene.

    By cell it is high for any method that knows which genes are abundant; by gene it asks which cells have more of one,
    as later analyses do.

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
    x, y = paired(truth, mean)
    check_same_shape(x, groups, "groups")
    if not ranks:
        x, y = np.log1p(x), np.log1p(y)
    each = group_correlations(x, y, groups, ranks=ranks)
    each = each[~np.isnan(each)]
    return float(each.mean()) if len(each) else float("nan")


def negative_binomial_log_score(truth: np.ndarray, mean: np.ndarray, dispersion: np.ndarray) -> float:
    """Mean of ``-log P(truth)`` (nats) under negative binomials of these means and inverse dispersions."""
    truth, mean = paired(truth, mean)
    mean = np.maximum(mean, MEAN_FLOOR)
    return float(-np.mean(nbinom.logpmf(truth, dispersion, dispersion / (dispersion + mean))))
