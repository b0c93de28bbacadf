"""How far an imputation is from the truth, on hidden entries."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

#: A prediction below this many molecules counts as this many, so that a true zero's neighbour is not infinite.
MEAN_FLOOR = 1e-6


def poisson_deviance(truth: np.ndarray, mean: np.ndarray) -> float:
    r"""Mean Poisson deviance :math:`2 (x \log(x / \mu) - x + \mu)`, in nats; 0 for a perfect prediction.

    A strictly proper score for means of counts: only the true conditional mean minimises its expectation.
    """
    mean = np.maximum(mean, MEAN_FLOOR)
    return float(2.0 * np.mean(xlogy(truth, truth / mean) - truth + mean))


def rmse_log1p(truth: np.ndarray, mean: np.ndarray) -> float:
    """Root mean squared error of ``log1p``, the scale of most downstream work."""
    return float(np.sqrt(np.mean(np.square(np.log1p(truth) - np.log1p(mean)))))
